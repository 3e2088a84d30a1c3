// Sums over the threads of one block, in a fixed order.
#pragma once

#include <cuda_runtime.h>

#include "warp.cuh"

namespace qmk::cuda {

namespace {

// Threads of a block that only sums.
constexpr int sum_threads = 512;

// The sums over a block of whole warps, in its first thread; the others keep their own values or partial sums.
template <int count, class T>
__device__ __forceinline__ void sum_over_block(T* values) {
    __shared__ T of_warps[count][32];
    __syncthreads();  // the previous sums have been read
#pragma unroll
    for (int n = 0; n < count; ++n) {
        const T of_warp = sum_of_threads(values[n]);
        if (threadIdx.x % 32 == 0) of_warps[n][threadIdx.x / 32] = of_warp;
    }
    __syncthreads();
    if (threadIdx.x >= 32) return;
#pragma unroll
    for (int n = 0; n < count; ++n)
        values[n] = sum_of_threads(threadIdx.x < blockDim.x / 32 ? of_warps[n][threadIdx.x] : T(0));
}
template <int count, class T>
__device__ __forceinline__ void sum_over_block(T (&values)[count]) {
    sum_over_block<count>(&values[0]);
}

}  // namespace

}  // namespace qmk::cuda
