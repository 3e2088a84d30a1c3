// Reductions by the 32 threads of a warp, in a fixed order.
#pragma once

#include <cstdint>

namespace qmk::cuda {

constexpr unsigned whole_warp = 0xffffffffu;

// The sum over `width` neighbouring threads, a power of two; all of them get it, with the same bits.
template <class T>
__device__ __forceinline__ T sum_of_threads(T value, int width = 32) {
    for (int distance = width / 2; distance > 0; distance /= 2) value += __shfl_xor_sync(whole_warp, value, distance);
    return value;
}

// The sums of 32 numbers over the warp, added in the same order: thread n gets that of the n-th. A fifth of the work of
// 32 sums, as every exchange leaves half of the numbers.
template <int distance = 16, class T>
__device__ __forceinline__ T sums_of_threads(T* numbers) {
    const bool upper = threadIdx.x & distance;
#pragma unroll
    for (int n = 0; n < distance; ++n) {
        const T others = upper ? numbers[n] : numbers[n + distance];
        numbers[n] = (upper ? numbers[n + distance] : numbers[n]) + __shfl_xor_sync(whole_warp, others, distance);
    }
    if constexpr (distance > 1)
        return sums_of_threads<distance / 2>(numbers);
    else
        return numbers[0];
}

// Sum, maximum and the first component of the maximum. Lengths are at least 0; NaN is only in the sum.
template <class T>
struct RowSummary {
    T sum = T(0), maximum = T(-1);
    int32_t largest = 0;

    __device__ __forceinline__ void add(T length, int32_t component) {
        sum += length;
        if (length > maximum) {
            maximum = length;
            largest = component;
        }
    }

    // Merges neighbouring parts of a row.
    __device__ __forceinline__ void merge(T other_sum, T other_maximum, int32_t other_largest) {
        sum += other_sum;
        if (other_maximum > maximum || (other_maximum == maximum && other_largest < largest)) {
            maximum = other_maximum;
            largest = other_largest;
        }
    }

    __device__ __forceinline__ void merge_threads(int width) {
        for (int distance = width / 2; distance > 0; distance /= 2)
            merge(__shfl_xor_sync(whole_warp, sum, distance), __shfl_xor_sync(whole_warp, maximum, distance),
                  __shfl_xor_sync(whole_warp, largest, distance));
    }
};

}  // namespace qmk::cuda
