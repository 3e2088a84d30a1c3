// iQRL's temporal consistency on CPUs: the functions that each instruction set provides. The contract:
// backends/reference/temporal_consistency.py.
#pragma once

#include <cstdint>

#include "isa.h"

namespace qmk {

struct TemporalConsistencyShape {
    int64_t steps, batch, size;
};

template <class T>
struct TemporalConsistencyCpu {
    // mask: null where all rows count. scratch: steps * (batch + 1) values.
    void (*forward)(const T* predicted, const T* target, const T* mask, T* loss, T* similarity, T* slopes, T* scratch,
                    TemporalConsistencyShape shape, double discount, int threads);
    void (*backward)(const T* grad_loss, const T* slopes, const T* predicted, const T* target, T* grad_predicted,
                     int64_t rows, int64_t size, int threads);
};

#define X(isa)                                                               \
    namespace isa {                                                          \
    extern const TemporalConsistencyCpu<float> temporal_consistency_float;   \
    extern const TemporalConsistencyCpu<double> temporal_consistency_double; \
    }
QMK_ISAS
#undef X

}  // namespace qmk
