// MRN's components for rows.cuh and pair_tiles.cuh: values of the asymmetric half, of the symmetric half, and of the
// symmetric half where eps is added to every difference.
#pragma once

#include <type_traits>

#include "../math/iqe.h"
#include "../math/mrn.h"
#include "component.cuh"

#ifdef __CUDA_ARCH__
namespace qmk::QMK_TARGET {

// Without the branch and the steps of an exactly rounded root: within one unit in the last place, its reciprocal within
// two (CUDA C++ Programming Guide, "Mathematical Functions": sqrtf with -prec-sqrt=false, rsqrtf), also of subnormals.
template <>
struct Roots<float> {
    QMK_INLINE static float square_root(float value) {
        float root;
        asm("sqrt.approx.f32 %0, %1;" : "=f"(root) : "f"(value));
        return root;
    }
    QMK_INLINE static float over_square_root(float numerator, float value) { return numerator * rsqrtf(value); }
    static __device__ __noinline__ float power(float base, float exponent) { return powf(base, exponent); }
};

}  // namespace qmk::QMK_TARGET
#endif

namespace qmk::cuda {

namespace {

// The larger of two numbers, NaN if one is: one instruction from sm_80 on.
template <class T>
__device__ __forceinline__ T larger_or_nan(T a, T b) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    if constexpr (sizeof(T) == sizeof(float)) return QMK_TARGET::maximum(a, b);
#endif
    return QMK_TARGET::largest_or_nan(a, b);
}

template <class T>
struct MrnHead {
    enum Kind { asymmetric, symmetric, shifted };
    static constexpr int kinds = 3, placed_kind = asymmetric;
    static constexpr bool has_weights = false;

    using MrnForm = QMK_TARGET::MrnForm;

    QMK_TARGET::MrnRoot<T> root;
    T shift, weight;

    MrnHead(const MrnSettings& settings, int64_t size)
        : root(settings, size),
          shift(QMK_TARGET::mrn_shift<T>(settings)),
          weight(QMK_TARGET::mrn_component_weight<T>(settings)) {}

    static Segments segments(const MrnSettings& settings, int64_t size) {
        const int kind = settings.eps_form == MrnEps::difference ? shifted : symmetric;
        if (settings.asymmetric == MrnAsymmetric::none) return {{int(size), 0}, {kind, kind}};
        const int first = int(size / 2), second = int(size) - first;
        const bool is_first = settings.asymmetric == MrnAsymmetric::first;
        return {{first, second}, {is_first ? asymmetric : kind, is_first ? kind : asymmetric}};
    }

    __device__ __forceinline__ const MrnHead& of(int64_t) const { return *this; }

    struct Sums {
        T largest = T(0), squares = T(0);

        __device__ __forceinline__ void merge(const Sums& other) {
            largest = larger_or_nan(largest, other.largest);
            squares += other.squares;
        }
        // Merges with the thread `distance` away.
        __device__ __forceinline__ void merge_thread(int distance) {
            merge({__shfl_xor_sync(whole_warp, largest, distance), __shfl_xor_sync(whole_warp, squares, distance)});
        }
    };

    // The index of the largest difference, the first of equal ones; a T, because products use it.
    struct PlacedSums {
        T largest = T(0), place = T(-1), squares = T(0);

        __device__ __forceinline__ void merge(const PlacedSums& other) {
            const bool later = other.largest <= largest && (other.largest != largest || other.place >= place);
            place = later ? place : other.place;
            largest = larger_or_nan(largest, other.largest);
            squares += other.squares;
        }
        __device__ __forceinline__ void merge_thread(int distance) {
            merge({__shfl_xor_sync(whole_warp, largest, distance), __shfl_xor_sync(whole_warp, place, distance),
                   __shfl_xor_sync(whole_warp, squares, distance)});
        }
    };

    struct PairSums {
        T largest = T(0), squares = T(0);
        int at = -1;  // the pack of this slice that has the largest difference; once found, -2 - its place

        __device__ __forceinline__ PlacedSums placed() const { return {largest, T(-2 - at), squares}; }
    };

    template <int kind>
    __device__ __forceinline__ void add(Sums& sums, T x, T y, T) const {
        if constexpr (kind == asymmetric)
            sums.largest = larger_or_nan(sums.largest, x - y);
        else
            add_square<kind>(sums.squares, x, y);
    }
    template <int kind>
    __device__ __forceinline__ void add(PlacedSums& sums, T x, T y, T place) const {
        if constexpr (kind == asymmetric) {
            const T larger = larger_or_nan(sums.largest, x - y);
            sums.place = larger > sums.largest ? place : sums.place;
            sums.largest = larger;
        } else {
            add_square<kind>(sums.squares, x, y);
        }
    }
    template <int kind>
    __device__ __forceinline__ void add_pack(Sums& sums, const Pack<T>& x, const Pack<T>& y, int) const {
#pragma unroll
        for (int v = 0; v < Pack<T>::size; ++v) add<kind>(sums, x.values[v], y.values[v], T(0));
    }
    template <int kind>
    __device__ __forceinline__ void add_pack(PairSums& sums, const Pack<T>& x, const Pack<T>& y, int pack) const {
        if constexpr (kind == asymmetric) {
            T largest = x.values[0] - y.values[0];
#pragma unroll
            for (int v = 1; v < Pack<T>::size; ++v) largest = larger_or_nan(largest, x.values[v] - y.values[v]);
            sums.at = largest > sums.largest ? pack : sums.at;
            sums.largest = larger_or_nan(sums.largest, largest);
        } else {
#pragma unroll
            for (int v = 0; v < Pack<T>::size; ++v) add_square<kind>(sums.squares, x.values[v], y.values[v]);
        }
    }
    __device__ __forceinline__ int find(const PairSums& sums, const Pack<T>& x, const Pack<T>& y) const {
        int value = Pack<T>::size - 1;
#pragma unroll
        for (int v = Pack<T>::size - 2; v >= 0; --v) value = x.values[v] - y.values[v] == sums.largest ? v : value;
        return value;
    }
    // The shift of symmetric values is 0.
    template <class AnySums>
    __device__ __forceinline__ void add(AnySums& sums, int kind, T x, T y, T place) const {
        if (kind == asymmetric)
            add<asymmetric>(sums, x, y, place);
        else
            add<shifted>(sums, x, y, place);
    }

    __device__ __forceinline__ MrnForm form() const { return root.form(); }
    template <class Body>
    __device__ __forceinline__ void with_form(Body&& body) const {
        switch (form()) {
            case MrnForm::nothing:
                return body(std::integral_constant<MrnForm, MrnForm::nothing>{});
            case MrnForm::root:
                return body(std::integral_constant<MrnForm, MrnForm::root>{});
            case MrnForm::squares:
                return body(std::integral_constant<MrnForm, MrnForm::squares>{});
            case MrnForm::power:
                return body(std::integral_constant<MrnForm, MrnForm::power>{});
        }
    }

    template <class AnySums>
    __device__ __forceinline__ T component(const AnySums& sums, MrnForm form) const {
        return sums.largest + root.value(sums.squares, form);
    }
    __device__ __forceinline__ T weighted(const Sums& sums, MrnForm form, int) const {
        return component(sums, form) * weight;
    }

    struct Slopes {
        T of_largest, place, of_squares;
    };
    // A largest difference of NaN is the derivative at every place of its half, as in the reference.
    __device__ __forceinline__ Slopes slopes(const PlacedSums& sums, MrnForm form, T grad, int) const {
        grad *= weight;
        return {sums.largest > T(0) ? grad : sums.largest, sums.place, grad * root.slope(sums.squares, form)};
    }
    template <int kind>
    __device__ __forceinline__ T gradient(const Slopes& slopes, T x, T y, T place) const {
        if constexpr (kind == asymmetric) return at_place(slopes, place == slopes.place);
        return slopes.of_squares * difference<kind>(x, y);
    }

    __device__ __forceinline__ T gradient(const Slopes& slopes, int kind, T x, T y, T place) const {
        return kind == asymmetric ? gradient<asymmetric>(slopes, x, y, place) : gradient<shifted>(slopes, x, y, place);
    }

    // A product, not a selection, so that what is not finite is the derivative at every place, as in the reference.
    static __device__ __forceinline__ T at_place(const Slopes& slopes, bool is_place) {
        return slopes.of_largest * T(is_place);
    }

    __device__ __forceinline__ T padding(int kind) const { return kind == shifted ? -shift : T(0); }

  private:
    template <int kind>
    __device__ __forceinline__ T difference(T x, T y) const {
        return kind == shifted ? x - y + shift : x - y;
    }
    template <int kind>
    __device__ __forceinline__ void add_square(T& squares, T x, T y) const {
        const T value = difference<kind>(x, y);
        squares += value * value;
    }
};

}  // namespace

}  // namespace qmk::cuda
