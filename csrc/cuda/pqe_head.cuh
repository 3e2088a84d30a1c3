// PQE-LH's components for rows.cuh and pair_tiles.cuh. All values are of one kind.
#pragma once

#include <cstdint>
#include <type_traits>

#include "../math/pqe.h"
#include "component.cuh"

namespace qmk::cuda {

namespace {

template <class T>
struct PqeHead {
    static constexpr int kinds = 1, placed_kind = -1;
    static constexpr bool has_weights = true;

    const T* weights;      // may be null
    int64_t rows_per_run;  // rows that share weights; 0: all rows do
    int num_components;
    T share;  // 1 / K

    // In pairs, `rows` are matrices.
    PqeHead(const T* weights, int64_t rows, int64_t num_weights, int64_t num_components, int64_t size)
        : weights(weights),
          rows_per_run(num_weights == 1 ? 0 : rows / num_weights),
          num_components(int(num_components)),
          share(T(1) / T(size)) {}

    static Segments segments(int64_t size) { return {{int(size), 0}, {0, 0}}; }

    __device__ __forceinline__ PqeHead of(int64_t row) const {
        PqeHead own = *this;
        if (rows_per_run) own.weights += row / rows_per_run * num_components;
        return own;
    }

    struct Sums {
        T sum = T(0);

        __device__ __forceinline__ const Sums& placed() const { return *this; }
        __device__ __forceinline__ void merge(const Sums& other) { sum += other.sum; }
        // Merges with the thread `distance` away.
        __device__ __forceinline__ void merge_thread(int distance) {
            merge({__shfl_xor_sync(whole_warp, sum, distance)});
        }
    };
    using PlacedSums = Sums;
    using PairSums = Sums;

    template <int>
    __device__ __forceinline__ void add(Sums& sums, T x, T y, T) const {
        sums.sum += exceeds(x, y);
    }
    __device__ __forceinline__ void add(Sums& sums, int, T x, T y, T place) const { add<0>(sums, x, y, place); }

    template <int>
    __device__ __forceinline__ void add_pack(Sums& sums, const Pack<T>& x, const Pack<T>& y, int) const {
#pragma unroll
        for (int v = 0; v < Pack<T>::size; ++v) sums.sum += exceeds(x.values[v], y.values[v]);
    }

    struct Form {};
    __device__ __forceinline__ Form form() const { return {}; }
    template <class Body>
    __device__ __forceinline__ void with_form(Body&& body) const {
        body(Form{});
    }

    __device__ __forceinline__ T component(const Sums& sums, Form) const { return exponential(sums).one_minus(); }
    __device__ __forceinline__ T weighted(const Sums& sums, Form form, int c) const {
        return weights ? weights[c] * component(sums, form) : component(sums, form);
    }

    struct Slopes {
        T slope;
    };
    __device__ __forceinline__ Slopes slopes(const Sums& sums, Form, T grad, int c) const {
        return {(weights ? grad * weights[c] : grad) * (share * exponential(sums).value())};
    }
    // A product, not a selection, so that a NaN slope is the derivative at every place, as in the reference.
    template <int>
    __device__ __forceinline__ T gradient(const Slopes& slopes, T x, T y, T) const {
        return slopes.slope * T(!QMK_TARGET::is_flat(x, y));
    }
    __device__ __forceinline__ T gradient(const Slopes& slopes, int, T x, T y, T place) const {
        return gradient<0>(slopes, x, y, place);
    }

    __device__ __forceinline__ T padding(int) const { return T(0); }

  private:
    // As in math/pqe.h, with one instruction less from sm_80 on.
    static __device__ __forceinline__ T exceeds(T x, T y) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
        if constexpr (sizeof(T) == sizeof(float)) {
            T result;
            asm("min.NaN.f32 %0, %1, 0f00000000;" : "=f"(result) : "f"(y - x));
            return result;
        }
#endif
        return QMK_TARGET::exceeds(x, y);
    }
    __device__ __forceinline__ auto exponential(const Sums& sums) const {
        return QMK_TARGET::pqe_exponential<T>(sums.sum, share);
    }
};

}  // namespace

}  // namespace qmk::cuda
