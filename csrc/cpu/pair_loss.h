// Losses over a matrix of distances on CPUs: the functions that each instruction set provides. The contract:
// backends/reference/pair_loss.py.
#pragma once

#include <cstdint>

#include "../math/pair_loss.h"
#include "isa.h"

namespace qmk {

// A pointer to what is not there is null: after, log_discounts, and what no softmax of the form's kind has.
template <class T>
struct PairLossCpu {
    // Bytes that `forward` and `backward` need.
    int64_t (*workspace)(PairLossShape shape, PairKind kind, bool backward);
    void (*forward)(const T* distance, const T* after, const T* log_discounts, T* loss, T* stats, T* row_sums,
                    T* column_sums, void* workspace, PairLossShape shape, PairLossSettings settings, int threads);
    void (*backward)(const T* grad_loss, const T* distance, const T* after, const T* log_discounts, const T* row_sums,
                     const T* column_sums, T* grad_distance, void* workspace, PairLossShape shape,
                     PairLossSettings settings, int threads);
};

#define X(isa)                                         \
    namespace isa {                                    \
    extern const PairLossCpu<float> pair_loss_float;   \
    extern const PairLossCpu<double> pair_loss_double; \
    }
QMK_ISAS
#undef X

}  // namespace qmk
