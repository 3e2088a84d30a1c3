// Nearest neighbours on CPUs: the function that each instruction set provides. The contract:
// backends/reference/nearest.py.
#pragma once

#include <cstdint>

#include "isa.h"

namespace qmk {

template <class T>
struct NearestCpu {
    // distances (rows, columns) into values and indices (rows, k), in place.
    void (*merge)(const T* distances, T* values, int64_t* indices, int64_t rows, int64_t columns, int64_t k,
                  int64_t first, int threads);
};

#define X(isa)                                      \
    namespace isa {                                 \
    extern const NearestCpu<float> nearest_float;   \
    extern const NearestCpu<double> nearest_double; \
    }
QMK_ISAS
#undef X

}  // namespace qmk
