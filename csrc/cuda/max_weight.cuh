// The weights of the maximum in maxmean: which rows use which, and their gradients.
#pragma once

#include "../math/reduction.h"
#include "block_sum.cuh"
#include "launch.cuh"

namespace qmk::cuda {

namespace {

using namespace QMK_TARGET;

// The weights of row `row` of `rows`.
template <class T>
__device__ __forceinline__ T weight_of_row(const MaxWeight<T>& max, int64_t row, int64_t rows) {
    return WeightAt<T>(max, max.num_weights == 1 ? 0 : row / (rows / max.num_weights)).value;
}

// The gradient by the weights as `count` parts in the order of the rows.
template <class T>
struct WeightGradient {
    MaxWeight<T> max;
    const T* scale;            // null: 1
    const T *parts, *factors;  // null factors: 1
    T* grad;
    int64_t count;
};

// One block per weight.
template <class T>
__global__ void __launch_bounds__(sum_threads) weight_gradient_kernel(WeightGradient<T> task) {
    const int64_t in_group = task.count / task.max.num_weights;
    for (int64_t place = blockIdx.x; place < task.max.num_weights; place += gridDim.x) {
        double sum[1] = {};
#pragma unroll 4
        for (int64_t i = place * in_group + threadIdx.x; i < (place + 1) * in_group; i += blockDim.x)
            sum[0] += double(task.parts[i]) * (task.factors ? double(task.factors[i]) : 1.0);
        sum_over_block(sum);
        if (threadIdx.x == 0)
            task.grad[place] =
                T((task.scale ? double(*task.scale) : 1.0) * sum[0] * double(WeightAt<T>(task.max, place).slope));
    }
}

template <class T>
void launch_weight_gradient(const char* op, const WeightGradient<T>& task, Context context) {
    if (task.grad) launch(op, weight_gradient_kernel<T>, task.max.num_weights, sum_threads, 0, context, task);
}

}  // namespace

}  // namespace qmk::cuda
