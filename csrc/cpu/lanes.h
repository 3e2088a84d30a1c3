// Lanes: one register of numbers, written once for all instruction sets with the compiler's vector extension (GCC,
// Clang). The build sets QMK_LANE_BYTES: 16 (SSE2, NEON), 32 (AVX2), 64 (AVX-512).
#pragma once

#include <cstdint>
#include <type_traits>

#include "../math/iqe.h"

#ifndef QMK_LANE_BYTES
#define QMK_LANE_BYTES 16
#endif

namespace qmk::QMK_TARGET {

template <class T>
struct LaneTypes;
template <>
struct LaneTypes<float> {
    typedef float Value __attribute__((vector_size(QMK_LANE_BYTES)));
    typedef int32_t Index __attribute__((vector_size(QMK_LANE_BYTES)));
    typedef float Piece __attribute__((vector_size(16)));
};
template <>
struct LaneTypes<double> {
    typedef double Value __attribute__((vector_size(QMK_LANE_BYTES)));
    typedef int64_t Index __attribute__((vector_size(QMK_LANE_BYTES)));
    typedef double Piece __attribute__((vector_size(16)));
};
template <class T>
using Lanes = typename LaneTypes<T>::Value;
template <class T>
using IndexLanes = typename LaneTypes<T>::Index;
template <class T>
constexpr int num_lanes = QMK_LANE_BYTES / int(sizeof(T));

template <class T>
QMK_INLINE Lanes<T> broadcast(T value) {
    return value - Lanes<T>{};
}

// The number at `from` in every lane. It is read as bits: Zen 4 broadcasts a float to 64 bytes in a unit that maxima
// and comparisons also need, but an integer on its way from the cache.
template <class T>
QMK_INLINE Lanes<T> load_broadcast(const T* from) {
#if QMK_LANE_BYTES == 64
    std::conditional_t<sizeof(T) == 4, int32_t, int64_t> bits;
    __builtin_memcpy(&bits, from, sizeof(T));
    IndexLanes<T> lanes = bits - IndexLanes<T>{};
    asm("" : "+v"(lanes));
    return (Lanes<T>)lanes;
#else
    return broadcast(*from);
#endif
}

#if defined(__FMA__)
// For scans of only maxima and additions: additions as multiply-adds by a one that the compiler cannot see. The numbers
// are the same, but processors that do maxima and additions in the same units (Zen 4) do multiply-adds in others, half
// as many again per cycle.
struct FusedAddDifference {
    template <class V>
    QMK_INLINE static void lengthen(V& length, V begin, V end) {
        V one = 1 - V{};
        asm("" : "+v"(one));
        length += (end * one - begin) * one;
    }
};
#else
using FusedAddDifference = AddDifference;
#endif

// A rounded product: a later addition is not fused with it into a multiply-add.
template <class V>
QMK_INLINE V rounded(V product) {
#if defined(__FMA__)
    asm("" : "+v"(product));
#elif defined(__aarch64__)
    asm("" : "+w"(product));
#endif
    return product;
}

// For a vector used more than once: 64 bytes take all loads of a cycle, so each use must not load it again as an
// operand.
template <class V>
QMK_INLINE V in_register(V vector) {
#if QMK_LANE_BYTES == 64
    asm("" : "+v"(vector));
#endif
    return vector;
}

// 0, 1, 2, ...
template <class T>
QMK_INLINE IndexLanes<T> lane_indices() {
    IndexLanes<T> indices{};
    for (int lane = 0; lane < num_lanes<T>; ++lane) indices[lane] = lane;
    return indices;
}

template <class Vector, class T>
QMK_INLINE Vector load(const T* from) {
    Vector vector;
    __builtin_memcpy(&vector, from, sizeof(Vector));
    return vector;
}

template <class Vector, class T>
QMK_INLINE void store(T* to, Vector vector) {
    __builtin_memcpy(to, &vector, sizeof(Vector));
}

// Small integers, one per lane, in the width of T's lanes.
template <class T>
QMK_INLINE IndexLanes<T> load_indices(const int32_t* from) {
    if constexpr (sizeof(T) == sizeof(int32_t)) {
        return load<IndexLanes<T>>(from);
    } else {
        IndexLanes<T> indices;
        for (int lane = 0; lane < num_lanes<T>; ++lane) indices[lane] = from[lane];
        return indices;
    }
}

// Loads columns of a matrix whose rows are the lanes: out[k], lane l = rows[min(l, last_row) * row_stride + k].
// Blocks of 16 bytes per row are transposed in registers; the remaining columns are picked one by one.
#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define QMK_HAS_SHUFFLE 1
#endif
#endif

#ifdef QMK_HAS_SHUFFLE
typedef float Bits128 __attribute__((vector_size(16)));
typedef float Bits256 __attribute__((vector_size(32)));

template <class T, class Address>
QMK_INLINE Lanes<T> load_pieces(Address address) {
    constexpr int rows_per_piece = 16 / int(sizeof(T));
    const auto piece = [&](int p) { return load<Bits128>(address(p * rows_per_piece)); };
#if QMK_LANE_BYTES == 16
    return (Lanes<T>)piece(0);
#elif QMK_LANE_BYTES == 32
    return (Lanes<T>)__builtin_shufflevector(piece(0), piece(1), 0, 1, 2, 3, 4, 5, 6, 7);
#else
    const Bits256 low = __builtin_shufflevector(piece(0), piece(1), 0, 1, 2, 3, 4, 5, 6, 7);
    const Bits256 high = __builtin_shufflevector(piece(2), piece(3), 0, 1, 2, 3, 4, 5, 6, 7);
    return (Lanes<T>)__builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
#endif
}

// Within each 16 bytes: lane i of the result is lane pick[i] of a, or for pick[i] >= n lane pick[i] - n of b.
template <int... pick, int... lanes, class V>
QMK_INLINE V pick_lanes(V a, V b, Sequence<lanes...>) {
    constexpr int picks[] = {pick...};
    constexpr int n = sizeof...(pick), total = sizeof...(lanes);
    return __builtin_shufflevector(a, b, (picks[lanes % n] % n + lanes / n * n + picks[lanes % n] / n * total)...);
}

QMK_INLINE void transpose_pieces(Lanes<float>* v) {
    const typename MakeSequence<num_lanes<float>>::type all{};
    const auto a = pick_lanes<0, 4, 1, 5>(v[0], v[1], all), b = pick_lanes<2, 6, 3, 7>(v[0], v[1], all);
    const auto c = pick_lanes<0, 4, 1, 5>(v[2], v[3], all), d = pick_lanes<2, 6, 3, 7>(v[2], v[3], all);
    v[0] = pick_lanes<0, 1, 4, 5>(a, c, all);
    v[1] = pick_lanes<2, 3, 6, 7>(a, c, all);
    v[2] = pick_lanes<0, 1, 4, 5>(b, d, all);
    v[3] = pick_lanes<2, 3, 6, 7>(b, d, all);
}

QMK_INLINE void transpose_pieces(Lanes<double>* v) {
    const typename MakeSequence<num_lanes<double>>::type all{};
    const auto a = pick_lanes<0, 2>(v[0], v[1], all);
    v[1] = pick_lanes<1, 3>(v[0], v[1], all);
    v[0] = a;
}
#endif

#ifdef QMK_HAS_SHUFFLE
template <int distance, int... lanes, class V>
QMK_INLINE V rotated(V v, Sequence<lanes...>) {
    return __builtin_shufflevector(v, v, ((lanes + distance) % int(sizeof...(lanes)))...);
}

// Lane l: combine(a[l], a[l ^ distance]) where bit `distance` of l is clear, else the same of b.
template <int distance, int... lanes, class V, class Combine>
QMK_INLINE V interleaved(V a, V b, Combine combine, Sequence<lanes...>) {
    constexpr int n = sizeof...(lanes);
    return combine(V(__builtin_shufflevector(a, b, (lanes & distance ? lanes + n : lanes)...)),
                   V(__builtin_shufflevector(a, b, (lanes & distance ? (lanes ^ distance) + n : lanes ^ distance)...)));
}

template <int distance, int n, class V, class Combine>
QMK_INLINE void halve_vectors(V* v, Combine combine) {
    if constexpr (distance < n) {
        for (int i = 0; i < n / distance / 2; ++i)
            v[i] = interleaved<distance>(v[2 * i], v[2 * i + 1], combine, typename MakeSequence<n>::type{});
        halve_vectors<2 * distance, n>(v, combine);
    }
}

// Lane l of the result: the lanes of v[l] combined. Three operations per vector; v is overwritten.
template <class T, class V, class Combine>
QMK_INLINE V combined_vectors(V* v, Combine combine) {
    halve_vectors<1, num_lanes<T>>(v, combine);
    return v[0];
}

template <int distance, class T>
QMK_INLINE Lanes<T> fold_lanes(Lanes<T> v) {
    if constexpr (distance == 0)
        return v;
    else
        return fold_lanes<distance / 2, T>(v + rotated<distance>(v, typename MakeSequence<num_lanes<T>>::type{}));
}

// The sum of the lanes, always in the same order: by halves.
template <class T>
QMK_INLINE T sum_of_lanes(Lanes<T> v) {
    return fold_lanes<num_lanes<T> / 2, T>(v)[0];
}

template <int distance, class T>
QMK_INLINE Lanes<T> fold_maxima(Lanes<T> v) {
    if constexpr (distance == 0) {
        return v;
    } else {
        const auto other = rotated<distance>(v, typename MakeSequence<num_lanes<T>>::type{});
        return fold_maxima<distance / 2, T>(v > other ? v : other);
    }
}

// The largest lane, of numbers.
template <class T>
QMK_INLINE T max_of_lanes(Lanes<T> v) {
    return fold_maxima<num_lanes<T> / 2, T>(v)[0];
}
#else
template <class T>
QMK_INLINE T max_of_lanes(Lanes<T> v) {
    T most = v[0];
    for (int lane = 1; lane < num_lanes<T>; ++lane) most = v[lane] > most ? v[lane] : most;
    return most;
}
template <class T>
QMK_INLINE T sum_of_lanes(Lanes<T> v) {
    T sum = 0;
    for (int lane = 0; lane < num_lanes<T>; ++lane) sum += v[lane];
    return sum;
}
template <class T, class V, class Combine>
QMK_INLINE V combined_vectors(V* v, Combine combine) {
    V result;
    for (int i = 0; i < num_lanes<T>; ++i) {
        auto all = v[i][0];
        for (int lane = 1; lane < num_lanes<T>; ++lane) all = combine(all, v[i][lane]);
        result[i] = all;
    }
    return result;
}
#endif

// Lane l: the sum of the lanes of v[l], the largest and the smallest of them. v is overwritten.
template <class T>
QMK_INLINE Lanes<T> sums_of_vectors(Lanes<T>* v) {
    return combined_vectors<T>(v, [](auto a, auto b) { return a + b; });
}
template <class T, class V>
QMK_INLINE V maxima_of_vectors(V* v) {
    return combined_vectors<T>(v, [](auto a, auto b) { return a > b ? a : b; });
}
template <class T, class V>
QMK_INLINE V minima_of_vectors(V* v) {
    return combined_vectors<T>(v, [](auto a, auto b) { return a < b ? a : b; });
}

// A vector in double: one vector, or two of half as many lanes.
template <class T>
constexpr int num_parts = int(sizeof(double) / sizeof(T));

template <class T>
QMK_INLINE Lanes<double> part_in_double(Lanes<T> v, int part) {
    typedef T Part __attribute__((vector_size(QMK_LANE_BYTES * sizeof(T) / sizeof(double))));
    Part values;
    __builtin_memcpy(&values, reinterpret_cast<const char*>(&v) + part * sizeof(Part), sizeof(Part));
    return __builtin_convertvector(values, Lanes<double>);
}

template <class T>
bool has_nan(const T* values, int64_t count) {
    IndexLanes<T> found{};
    int64_t i = 0;
    for (; i + num_lanes<T> <= count; i += num_lanes<T>) {
        const Lanes<T> vector = load<Lanes<T>>(values + i);
        found |= vector != vector;
    }
    bool any = false;
    for (int lane = 0; lane < num_lanes<T>; ++lane) any |= found[lane] != 0;
    for (; i < count; ++i) any |= values[i] != values[i];
    return any;
}

// Adds up vectors lane by lane, in double for either T.
template <class T>
struct SumOfVectors {
    Lanes<double> parts[num_parts<T>] = {};

    QMK_INLINE void add(Lanes<T> vector) {
        for (int part = 0; part < num_parts<T>; ++part) parts[part] += part_in_double<T>(vector, part);
    }
    QMK_INLINE double total() const {
        double sum = sum_of_lanes<double>(parts[0]);
        for (int part = 1; part < num_parts<T>; ++part) sum += sum_of_lanes<double>(parts[part]);
        return sum;
    }
};

template <class T>
QMK_INLINE void load_columns(const T* rows, int64_t row_stride, int last_row, int num_columns, Lanes<T>* out) {
    if (row_stride == 1 && num_columns == 1 && last_row == num_lanes<T> - 1) {  // nothing to transpose
        out[0] = load<Lanes<T>>(rows);
        return;
    }
    const auto row = [&](int lane) { return rows + (lane < last_row ? lane : last_row) * row_stride; };
    int column = 0;
#ifdef QMK_HAS_SHUFFLE
    constexpr int piece = 16 / int(sizeof(T));
    for (; column + piece <= num_columns; column += piece) {
        Lanes<T> tile[piece];
        for (int q = 0; q < piece; ++q) tile[q] = load_pieces<T>([&](int first) { return row(first + q) + column; });
        transpose_pieces(tile);
        for (int q = 0; q < piece; ++q) out[column + q] = tile[q];
    }
#endif
    for (; column < num_columns; ++column)
        for (int lane = 0; lane < num_lanes<T>; ++lane) out[column][lane] = row(lane)[column];
}

}  // namespace qmk::QMK_TARGET
