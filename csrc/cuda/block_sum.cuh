// Sums over the threads of one block, in a fixed order.
#pragma once

#include <cuda_runtime.h>

#include "warp.cuh"

namespace qmk::cuda {

namespace {

constexpr int sum_threads = 512;

// The sums over a block of sum_threads, in its first thread. The others have their own values or parts of the sums.
template <class T, int count>
__device__ __forceinline__ void sum_over_block(T (&values)[count]) {
    constexpr int warps = sum_threads / 32;
    __shared__ T of_warps[count][warps];
    __syncthreads();  // the sums before have been read
#pragma unroll
    for (int n = 0; n < count; ++n) {
        const T of_warp = sum_of_threads(values[n]);
        if (threadIdx.x % 32 == 0) of_warps[n][threadIdx.x / 32] = of_warp;
    }
    __syncthreads();
    if (threadIdx.x >= 32) return;
#pragma unroll
    for (int n = 0; n < count; ++n) values[n] = sum_of_threads(of_warps[n][threadIdx.x % warps], warps);
}

}  // namespace

}  // namespace qmk::cuda
