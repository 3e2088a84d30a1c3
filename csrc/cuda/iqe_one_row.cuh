// IQE of pairs with a single row on one side (one_row.cuh), for the launchers of all pairs.
#pragma once

#include "../ops/iqe.h"
#include "one_row.cuh"

namespace qmk::cuda {

template <class T>
void iqe_one_row_forward(const IqePairwiseForward<T>& call, Context context);

template <class T>
int64_t iqe_one_row_backward_scratch(const IqePairwiseBackward<T>& call);
template <class T>
void iqe_one_row_backward(const IqePairwiseBackward<T>& call, Context context);

}  // namespace qmk::cuda
