// Losses over a matrix of distances on CUDA: the launchers. T is float or double; tensors are contiguous. A pointer to
// what is not there is null: after, log_discounts, and the sums that no softmax of the form's kind has. What the
// arguments hold is written down in qmkernels/backends/reference/pair_loss.py. Errors are std::runtime_error.
#pragma once

#include <cstdint>

#include "../math/pair_loss.h"
#include "context.h"

namespace qmk::cuda {

// Bytes that pair_loss_forward needs.
int64_t pair_loss_workspace(int64_t item_size, PairLossShape shape, PairKind kind);

template <class T>
void pair_loss_forward(const T* distance, const T* after, const T* log_discounts, T* loss, T* stats, T* row_sums,
                       T* column_sums, void* workspace, PairLossShape shape, PairLossSettings settings,
                       Context context);

template <class T>
void pair_loss_backward(const T* grad_loss, const T* distance, const T* after, const T* log_discounts,
                        const T* row_sums, const T* column_sums, T* grad_distance, PairLossShape shape,
                        PairLossSettings settings, Context context);

}  // namespace qmk::cuda
