// PQE-LH's components for rows.cuh and pair_tiles.cuh. All values count alike.
#pragma once

#include <cmath>

#include "component.cuh"

namespace qmk::cuda {

namespace {

template <class T>
struct PqeHead {
    static constexpr int kinds = 1;

    const T* weights;  // may be null
    T size;

    static Segments segments(int64_t size) { return {{int(size), 0}, {0, 0}}; }

    // The sum of how far x exceeds y.
    struct Sums {
        T excess = T(0);

        __device__ __forceinline__ void merge(const Sums& other) { excess += other.excess; }
        __device__ __forceinline__ void merge_thread(int distance) {
            merge({__shfl_xor_sync(whole_warp, excess, distance)});
        }
    };
    using PlacedSums = Sums;

    template <int>
    __device__ __forceinline__ void add(Sums& sums, T x, T y, T) const {
        sums.excess += positive_or_nan(x - y);
    }
    __device__ __forceinline__ void add(Sums& sums, int, T x, T y, T place) const { add<0>(sums, x, y, place); }

    __device__ __forceinline__ T component(const Sums& sums) const { return -std::expm1(-sums.excess / size); }
    __device__ __forceinline__ T weighted(const Sums& sums, int c) const {
        return weights ? weights[c] * component(sums) : component(sums);
    }

    struct Slopes {
        T slope;
    };
    __device__ __forceinline__ Slopes slopes(const Sums& sums, T grad, int c) const {
        const T slope = std::exp(-sums.excess / size) / size;
        return {(weights ? grad * weights[c] : grad) * slope};
    }
    // A product, not a choice, so that a NaN slope is the derivative at every place, as in the reference.
    template <int>
    __device__ __forceinline__ T gradient(const Slopes& slopes, T x, T y, T) const {
        return slopes.slope * T(!(y > x));
    }

    __device__ __forceinline__ T gradient(const Slopes& slopes, int, T x, T y, T place) const {
        return gradient<0>(slopes, x, y, place);
    }

    __device__ __forceinline__ T padding(int) const { return T(0); }

  private:
    static __device__ __forceinline__ T positive_or_nan(T value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
        if constexpr (sizeof(T) == sizeof(float)) {
            T result;
            asm("max.NaN.f32 %0, %1, 0f00000000;" : "=f"(result) : "f"(value));
            return result;
        }
#endif
        return T(0) > value ? T(0) : value;
    }
};

}  // namespace

}  // namespace qmk::cuda
