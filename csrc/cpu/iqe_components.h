// Components of matching rows, one per lane: lengths and ends of a block of them, and gradients from the ends.
#pragma once

#include <type_traits>

#include "lanes.h"

namespace qmk::QMK_TARGET {

namespace {

// Components of a common row on which a task works at a time; their lengths stay in the first-level cache.
constexpr int64_t components_per_task = 1024;

int64_t ends_bytes(int64_t dim_per_component) {
    return (2 * dim_per_component + 7) / 8;
}

// Calls run with the size of a component as a constant if its sort is unrolled, else with 0.
template <class Run>
void with_constant_size(int64_t dim_per_component, Run&& run) {
    switch (dim_per_component) {
        case 1:
            return run(std::integral_constant<int, 1>{});
        case 4:
            return run(std::integral_constant<int, 4>{});
        case 8:
            return run(std::integral_constant<int, 8>{});
        case 16:
            return run(std::integral_constant<int, 16>{});
        case 32:
            return run(std::integral_constant<int, 32>{});
        default:
            return run(std::integral_constant<int, 0>{});
    }
}

// An integer of ends_bytes(K) bytes, for K left and K right ends; K is 1, 4, 8, 16 or 32.
template <int K>
using EndsWord =
    std::conditional_t<K <= 4, uint8_t,
                       std::conditional_t<K == 8, uint16_t, std::conditional_t<K == 16, uint32_t, uint64_t>>>;

// Writes each lane's two sets of ends, K <= 32 marks each, as the bytes of left | right << K.
template <class T, class Word>
QMK_INLINE void store_end_words(IndexLanes<T> left, IndexLanes<T> right, int num_right_shift, int count, uint8_t* to) {
    Word words[num_lanes<T>];
    for (int lane = 0; lane < num_lanes<T>; ++lane)
        words[lane] = Word(uint32_t(left[lane])) | Word(Word(uint32_t(right[lane])) << num_right_shift);
    __builtin_memcpy(to, words, count * sizeof(Word));
}

template <class T>
QMK_INLINE void store_end_bytes(IndexLanes<T> left, IndexLanes<T> right, int64_t size, int count, uint8_t* to) {
    for (int lane = 0; lane < count; ++lane) {
        const uint64_t word = uint64_t(uint32_t(left[lane])) | uint64_t(uint32_t(right[lane])) << size;
        __builtin_memcpy(to + lane * ends_bytes(size), &word, ends_bytes(size));
    }
}

// For more than 32 marks: sets bits one by one at the positions of ends. There are few: two per piece.
template <class T>
QMK_INLINE void set_end_bits(IndexLanes<T> where, IndexLanes<T> positions, int64_t offset, int64_t stride, int count,
                             uint8_t* to) {
    for (int lane = 0; lane < count; ++lane)
        if (where[lane]) {
            const int64_t bit = positions[lane] + offset;
            to[lane * stride + bit / 8] |= uint8_t(1 << (bit % 8));
        }
}

// The marks of up to 32 intervals, all set.
template <class T>
QMK_INLINE IndexLanes<T> all_marks(int64_t size) {
    return int32_t(uint32_t((uint64_t(1) << size) - 1)) - IndexLanes<T>{};
}

// Writes the mark that marks_nan detects.
inline void mark_nan(uint8_t* ends, int64_t size) {
    __builtin_memset(ends, 0, ends_bytes(size));
    for (int64_t k = 0; k < size; ++k) ends[k / 8] |= uint8_t(1 << (k % 8));
}

// Whether any of `count` neighbouring components is marked as having a NaN.
inline bool any_marks_nan(const uint8_t* ends, int64_t count, int64_t size) {
    if (size == 1) return __builtin_memchr(ends, 1, count) != nullptr;  // a left end without its right end
    if (size != 4 && size != 8 && size != 16 && size != 32) {
        // Hardly ever all set, so the branch is well predicted.
        const uint8_t first = uint8_t(size < 8 ? (1 << size) - 1 : 255);
        for (int64_t c = 0; c < count; ++c) {
            const uint8_t* of_component = ends + c * ends_bytes(size);
            if ((*of_component & first) == first && marks_nan(of_component, size)) return true;
        }
        return false;
    }
    // Components fill words of 64 bits. `unmatched` are left ends k without a right end k: if a component has all of
    // them, adding its lowest bit carries into the place of its right ends.
    uint64_t lowest = 0, carries = 0;
    for (int64_t bit = 0; bit < 64; bit += 2 * size) lowest |= uint64_t(1) << bit;
    const uint64_t beyond = lowest << size, lefts = beyond - lowest;
    const auto look_at = [&](uint64_t word) {
        const uint64_t unmatched = word & ~(word >> size) & lefts;
        carries |= (unmatched + lowest) & beyond;
    };
    const int64_t bytes = count * ends_bytes(size);
    int64_t at = 0;
    uint64_t word = 0;
    for (; at + 8 <= bytes; at += 8) {
        __builtin_memcpy(&word, ends + at, 8);
        look_at(word);
    }
    word = 0;
    __builtin_memcpy(&word, ends + at, bytes - at);
    look_at(word);
    return carries != 0;
}

// Writes NaN to the coordinates, in `to` and `other`, of components that are marked as having NaN.
template <class T>
void write_nan(const uint8_t* ends, int64_t count, int64_t size, T* to, T* other) {
    for (int64_t c = 0; c < count; ++c)
        if (marks_nan(ends + c * ends_bytes(size), size))
            for (int64_t k = c * size; k < (c + 1) * size; ++k) to[k] = other[k] = T(__builtin_nan(""));
}

template <class T>
QMK_INLINE void load_intervals(const T* x, const T* y, int64_t size, int last_lane, Lanes<T>* x_lanes,
                               Lanes<T>* y_lanes) {
    const Lanes<T> highest = broadcast(Limits<T>::highest);
    load_columns(x, size, last_lane, int(size), x_lanes);
    load_columns(y, size, last_lane, int(size), y_lanes);
    for (int64_t k = 0; k < size; ++k) {
        x_lanes[k] = finite_or_nan(x_lanes[k], highest);
        y_lanes[k] = finite_or_nan(y_lanes[k], highest);
    }
}

// The lengths of up to num_lanes neighbouring components of K <= 32 values, and their ends if `keep`.
template <class T, int K, bool keep>
QMK_INLINE Lanes<T> block_lengths(const T* x, const T* y, int last_lane, uint8_t* ends) {
    Lanes<T> x_lanes[K], y_lanes[K];
    load_intervals(x, y, K, last_lane, x_lanes, y_lanes);
    const Lanes<T> lowest = broadcast(-Limits<T>::highest);
    if constexpr (!keep) {
        if constexpr (K > 1) sort_fixed<K>(x_lanes, y_lanes);
        IqeLength<Lanes<T>> scan{lowest, Lanes<T>{}};
        for (int k = 0; k < K; ++k) scan.add(x_lanes[k], y_lanes[k]);
        return scan.length;
    } else {
        IndexLanes<T> marks[K];
        for (int k = 0; k < K; ++k) marks[k] = int32_t(1u << k) - IndexLanes<T>{};
        if constexpr (K > 1) sort_fixed<K>(x_lanes, y_lanes, marks);
        IqeEnds<Lanes<T>, IndexLanes<T>> scan{lowest, Lanes<T>{}, {}, {}, {}};
        for (int k = 0; k < K; ++k) scan.add(x_lanes[k], y_lanes[k], marks[k]);
        scan.finish(all_marks<T>(K));
        store_end_words<T, EndsWord<K>>(scan.left, scan.right, K, last_lane + 1, ends);
        return scan.length;
    }
}

// The same for any K; the lanes live in `scratch`, 3 * K of them.
template <class T, bool keep>
QMK_INLINE Lanes<T> block_lengths_any(const T* x, const T* y, int last_lane, uint8_t* ends, int64_t size,
                                      Lanes<T>* scratch) {
    Lanes<T>*x_lanes = scratch, *y_lanes = scratch + size;
    load_intervals(x, y, size, last_lane, x_lanes, y_lanes);
    const Lanes<T> lowest = broadcast(-Limits<T>::highest);
    if constexpr (!keep) {
        sort_any(int(size), x_lanes, y_lanes);
        IqeLength<Lanes<T>> scan{lowest, Lanes<T>{}};
        for (int64_t k = 0; k < size; ++k) scan.add(x_lanes[k], y_lanes[k]);
        return scan.length;
    } else {
        IndexLanes<T>* marks = reinterpret_cast<IndexLanes<T>*>(scratch + 2 * size);
        const int count = last_lane + 1;
        const bool few = size <= 32;
        for (int64_t k = 0; k < size; ++k) marks[k] = (few ? int32_t(1u << k) : int32_t(k + 1)) - IndexLanes<T>{};
        sort_any(int(size), x_lanes, y_lanes, marks);
        IqeEnds<Lanes<T>, IndexLanes<T>> scan{lowest, Lanes<T>{}, {}, {}, {}};
        if (few) {
            for (int64_t k = 0; k < size; ++k) scan.add(x_lanes[k], y_lanes[k], marks[k]);
            scan.finish(all_marks<T>(size));
            store_end_bytes<T>(scan.left, scan.right, size, count, ends);
            return scan.length;
        }
        // Marks are positions from 1; a step adds at most one mark per lane to left and right.
        const int64_t stride = ends_bytes(size);
        __builtin_memset(ends, 0, count * stride);
        for (int64_t k = 0; k < size; ++k) {
            scan.left = scan.right = IndexLanes<T>{};
            scan.add(x_lanes[k], y_lanes[k], marks[k]);
            set_end_bits<T>(scan.left, scan.left, -1, stride, count, ends);
            set_end_bits<T>(scan.right, scan.right, size - 1, stride, count, ends);
        }
        set_end_bits<T>(scan.last, scan.last, size - 1, stride, count, ends);
        for (int lane = 0; lane < count; ++lane)
            if (scan.length[lane] != scan.length[lane]) mark_nan(ends + lane * stride, size);
        return scan.length;
    }
}

// Sum, maximum and the first component of the maximum of a row of lengths.
template <class T>
struct RowSummary {
    T sum, maximum;
    int32_t largest;
};

template <class T>
QMK_INLINE RowSummary<T> summarise(const T* lengths, int64_t num_components) {
    constexpr int n = num_lanes<T>;
    RowSummary<T> row{T(0), T(-1), 0};
    int64_t c = 0;
    if (num_components >= n) {
        Lanes<T> sums{}, maxima = broadcast(T(-1));
        IndexLanes<T> here{}, largest{};
        for (int lane = 0; lane < n; ++lane) here[lane] = lane;
        for (; c + n <= num_components; c += n, here += n) {
            const auto length = load<Lanes<T>>(lengths + c);
            const auto greater = length > maxima;
            sums += length;
            maxima = greater ? length : maxima;
            largest = greater ? here : largest;
        }
        row.sum = sum_of_lanes<T>(sums);
        for (int lane = 0; lane < n; ++lane)
            if (maxima[lane] > row.maximum || (maxima[lane] == row.maximum && largest[lane] < row.largest)) {
                row.maximum = maxima[lane];
                row.largest = int32_t(largest[lane]);
            }
    }
    for (; c < num_components; ++c) {
        row.sum += lengths[c];
        if (lengths[c] > row.maximum) {
            row.maximum = lengths[c];
            row.largest = int32_t(c);
        }
    }
    return row;
}

// The bits from `bit` on, at least as many as there are lanes, of a component's `bytes` bytes.
QMK_INLINE uint32_t bits_from(const uint8_t* ends, int64_t bytes, int64_t bit) {
    uint32_t word = 0;
    for (int64_t i = 0; i < 3 && bit / 8 + i < bytes; ++i) word |= uint32_t(ends[bit / 8 + i]) << (8 * i);
    return word >> (bit % 8);
}

// value where a lane's bit is set, else 0.
template <class T>
QMK_INLINE Lanes<T> where_set(uint32_t bits, IndexLanes<T> places, Lanes<T> value) {
    return (((int32_t(bits) - IndexLanes<T>{}) & places) != 0) ? value : Lanes<T>{};
}

// The bit of a loaded word that each lane tests. If a register holds whole components (K is 4, 8 or 16, and not
// larger), its lanes and the bits of its components match one to one, two bits per element; `single` is for one side of
// one component, one bit per lane.
template <class T>
struct BitPlaces {
    IndexLanes<T> left, right, single;
    bool whole_components;
};

template <class T>
QMK_INLINE BitPlaces<T> bit_places(int64_t size) {
    constexpr int n = num_lanes<T>;
    BitPlaces<T> places{{}, {}, {}, size % 4 == 0 && n % size == 0};
    for (int lane = 0; lane < n; ++lane) {
        places.single[lane] = int32_t(1u << lane);
        if (places.whole_components) {
            const int64_t bit = lane / size * 2 * size + lane % size;
            places.left[lane] = int32_t(1u << bit);
            places.right[lane] = int32_t(1u << (bit + size));
        }
    }
    return places;
}

// Writes the gradients of `count` neighbouring components with the same upstream gradient. A component of one value has
// a byte of its own. Registers that do not hold whole components are filled from each component's own bits. What a
// register writes beyond its component, the next component overwrites; the last values, near the end, are written one
// by one.
template <class T>
QMK_INLINE void components_backward(const uint8_t* ends, T grad, int64_t count, int64_t size,
                                    const BitPlaces<T>& places, T* grad_x, T* grad_y) {
    constexpr int n = num_lanes<T>;
    const Lanes<T> up = broadcast(grad), down = -up;
    const int64_t bytes = ends_bytes(size);
    int64_t done = 0;
    if (size == 1)
        for (; (done + 1) * n <= count; ++done) {
            IndexLanes<T> ends_of_lanes;
            for (int lane = 0; lane < n; ++lane) ends_of_lanes[lane] = ends[done * n + lane];
            store(grad_x + done * n, ((ends_of_lanes & 1) != 0) ? down : Lanes<T>{});
            store(grad_y + done * n, ((ends_of_lanes & 2) != 0) ? up : Lanes<T>{});
        }
    if (places.whole_components)
        for (; (done + 1) * n <= count * size; ++done) {
            uint32_t word = 0;
            __builtin_memcpy(&word, ends + done * (n / 4), n / 4);
            store(grad_x + done * n, where_set<T>(word, places.left, down));
            store(grad_y + done * n, where_set<T>(word, places.right, up));
        }
    for (int64_t c = done * n / size; c < count; ++c)
        for (int64_t k = 0; k < size; k += n) {
            const uint32_t x_bits = bits_from(ends + c * bytes, bytes, k);
            const uint32_t y_bits = bits_from(ends + c * bytes, bytes, size + k);
            T *to_x = grad_x + c * size + k, *to_y = grad_y + c * size + k;
            if (c * size + k + n <= count * size) {
                store(to_x, where_set<T>(x_bits, places.single, down));
                store(to_y, where_set<T>(y_bits, places.single, up));
            } else {
                for (int lane = 0; lane < n && k + lane < size; ++lane) {
                    to_x[lane] = x_bits >> lane & 1 ? -grad : T(0);
                    to_y[lane] = y_bits >> lane & 1 ? grad : T(0);
                }
            }
        }
}

// A row's results: its distance and, for backward, the longest component and the spread.
template <class T>
QMK_INLINE T distance_of_row(const T* lengths, int64_t num_components, Reduction reduction, T max_weight,
                             int32_t* largest, T* spread) {
    const auto row = summarise(lengths, num_components);
    if (largest) *largest = row.largest;
    if (spread) *spread = reduced(Reduction::spread, row.sum, row.maximum, num_components, max_weight);
    return reduced(reduction, row.sum, row.maximum, num_components, max_weight);
}

}  // namespace

}  // namespace qmk::QMK_TARGET
