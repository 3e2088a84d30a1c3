// The instruction set of the CPU kernels: detected once, restricted by QMKERNELS_ISA.
#include "isa.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace qmk {

namespace {

constexpr Isa all_isas[] = {
#define QMK_ELEMENT(isa, ...) Isa::isa,
    QMK_FOR_EACH_ISA(QMK_ELEMENT, )
#undef QMK_ELEMENT
};

bool has_features(const std::string& isa) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (isa == "avx2") return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (isa == "avx512")
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("fma");
#endif
    return isa == "baseline";
}

// The one that QMKERNELS_ISA names, if any, else `automatic`.
Isa choose(Isa automatic) {
    const char* wanted = std::getenv("QMKERNELS_ISA");
    if (wanted == nullptr || *wanted == '\0') return automatic;
    std::string names;
    for (Isa isa : all_isas) {
        if (runs_here(isa) && name_of(isa) == std::string(wanted)) return isa;
        if (runs_here(isa)) names += std::string(names.empty() ? "" : ", ") + name_of(isa);
    }
    throw std::invalid_argument(std::string("QMKERNELS_ISA must be one of ") + names + " on this machine, got '" +
                                wanted + "'.");
}

}  // namespace

const char* name_of(Isa isa) {
    switch (isa) {
#define QMK_CASE(isa, ...) \
    case Isa::isa:         \
        return #isa;
        QMK_FOR_EACH_ISA(QMK_CASE, )
#undef QMK_CASE
    }
    return "unknown";
}

bool runs_here(Isa isa) {
    return has_features(name_of(isa));
}

Isa widest_isa() {
    Isa widest = Isa::baseline;
    for (Isa isa : all_isas)
        if (runs_here(isa)) widest = isa;
    return widest;
}

Isa isa_in_use() {
    static const Isa isa = choose(widest_isa());
    return isa;
}

Isa isa_of_small_calls() {
#if defined(__x86_64__) && !defined(QMK_BASELINE_ONLY)
    static const Isa isa = choose(runs_here(Isa::avx2) ? Isa::avx2 : Isa::baseline);
    return isa;
#else
    return isa_in_use();
#endif
}

}  // namespace qmk
