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
