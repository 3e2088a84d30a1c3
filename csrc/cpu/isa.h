// The instruction sets that the CPU kernels are compiled for, and which of them this process uses.
//
// The build defines QMK_ISAS, a list such as X(baseline) X(avx2) X(avx512), from the narrowest to the widest.
#pragma once

#ifndef QMK_ISAS
#define QMK_ISAS X(baseline)
#endif

namespace qmk {

enum class Isa : int {
#define X(name) name,
    QMK_ISAS
#undef X
};

const char* name_of(Isa isa);
bool runs_here(Isa isa);
Isa widest_isa();

// Chosen at the first call: the widest that runs here, or the one that QMKERNELS_ISA names (std::invalid_argument if
// this build or this processor lacks it).
Isa isa_in_use();

}  // namespace qmk
