// The instruction sets that the CPU kernels are compiled for, and which of them this process uses.
#pragma once

#include <cstdint>

// X(isa, ...) for each, from narrowest to widest. The build compiles csrc/cpu once for each.
#if defined(__x86_64__) && !defined(QMK_BASELINE_ONLY)
#define QMK_FOR_EACH_ISA(X, ...) X(baseline, __VA_ARGS__) X(avx2, __VA_ARGS__) X(avx512, __VA_ARGS__)
#else
#define QMK_FOR_EACH_ISA(X, ...) X(baseline, __VA_ARGS__)
#endif

namespace qmk {

enum class Isa : int {
#define QMK_ENUMERATOR(isa, ...) isa,
    QMK_FOR_EACH_ISA(QMK_ENUMERATOR, )
#undef QMK_ENUMERATOR
};

const char* name_of(Isa isa);
bool runs_here(Isa isa);
Isa widest_isa();

// Chosen at the first call: the widest that this processor supports, or the one that QMKERNELS_ISA names
// (std::invalid_argument if this build or this processor lacks it).
Isa isa_in_use();
// That of small calls, which read and write at most so many values: at most 256 bits wide, unless QMKERNELS_ISA says
// otherwise. Wider vectors gain nothing there, and are slower if other work comes between the calls: compare
// benchmarks/measure_overhead.py with and without QMKERNELS_ISA=avx512.
constexpr int64_t most_small_values = 4096;
Isa isa_of_small_calls();

}  // namespace qmk
