// Two IQE distances per row, measured and differentiated together: QRL's critic has those to a goal and to the next
// state, its latent dynamics those there and back. In what is kept for backward they are pair 0 and pair 1.
#pragma once

#include "iqe_components.h"
#include "max_weight.h"
#include "workspace.h"

namespace qmk::QMK_TARGET {

namespace {

// The lengths of a block of components.
template <class T>
struct TwoLengths {
    Lanes<T> pairs[2];
};

// Stores the ends that a finished scan has found of K marks.
template <class T, int K>
QMK_INLINE void store_scan(IqeEnds<Lanes<T>, IndexLanes<T>> scan, int last_lane, uint8_t* ends) {
    scan.finish(all_marks<T>(K));
    store_end_words<T, EndsWord<K>>(scan.left, scan.right, K, last_lane + 1, ends);
}

template <class T, int K>
QMK_INLINE void mark_lanes(IndexLanes<T>* marks) {
    for (int k = 0; k < K; ++k) marks[k] = int32_t(1u << k) - IndexLanes<T>{};
}

// Memory of measure_rows: for block_lengths_any, and the lengths of both pairs.
template <class T>
struct MeasureMemory {
    Lanes<T>* any;
    T* lengths[2];
};

// Calls `measure(component, last_lane, scratch)` for every block of the components of `num_rows` rows, and then
// `finish(row, lengths)` for every row, with its lengths in both pairs. `scratch` is what block_lengths_any needs if K
// is 0.
template <class T, int K, class Measure, class Finish>
QMK_INLINE void measure_rows(int64_t num_rows, int64_t count, int64_t size, Measure&& measure, Finish&& finish) {
    constexpr int n = num_lanes<T>;
    const int64_t total = num_rows * count, blocks = total / n + 1, any_lanes = K ? 0 : 3 * size;
    const auto memory = scratch<2 * (components_per_task / n + n + 1) * sizeof(Lanes<T>)>([=](Workspace& workspace) {
        auto* any = workspace.take<Lanes<T>>(any_lanes);
        return MeasureMemory<T>{any, {workspace.take<T>(blocks * n), workspace.take<T>(blocks * n)}};
    });
    const auto& lengths = memory.pieces.lengths;
    for (int64_t c = 0; c < total; c += n) {
        const TwoLengths<T> block = measure(c, total - c < n ? int(total - c) - 1 : n - 1, memory.pieces.any);
        for (int pair = 0; pair < 2; ++pair) store(lengths[pair] + c, block.pairs[pair]);
    }
    for (int64_t r = 0; r < num_rows; ++r) {
        const T* const of_row[2] = {lengths[0] + r * count, lengths[1] + r * count};
        finish(r, of_row);
    }
}

// One side's ends of a row of components, with their gradient: `every`, plus `extra` in the longest component.
template <class T>
struct RowEnds {
    const uint8_t* bytes;
    T every, extra;
    int64_t largest;
};

// Backward's inputs for all rows, from which it takes the ends of a row.
template <class T>
struct KeptEnds {
    T grad_loss;
    const T* slopes;
    const uint8_t* ends;
    const int32_t* largest;  // null for reductions without a maximum
    int64_t rows, count, size;
    ReductionWeights<T> weights;

    QMK_INLINE RowEnds<T> of(int pair, int64_t i, T sign) const {
        const int64_t at = pair * rows + i;
        const T upstream = sign * grad_loss * slopes[at];
        return {ends + at * count * ends_bytes(size), weighted(upstream, weights.every),
                largest ? weighted(upstream, weights.largest) : T(0), largest ? int64_t(largest[at]) : 0};
    }
    QMK_INLINE const uint8_t* ends_of(int pair, int64_t i) const {
        return ends + (pair * rows + i) * count * ends_bytes(size);
    }
    // Whether any of the rows has NaN in either pair.
    QMK_INLINE bool has_nan(int64_t first, int64_t end) const {
        return any_marks_nan(ends_of(0, first), (end - first) * count, size) ||
               any_marks_nan(ends_of(1, first), (end - first) * count, size);
    }
    // Called after the gradients of a row's x and y, or of what takes their places, have been written.
    QMK_INLINE void write_nan(int pair, int64_t i, T* to, T* other) const {
        QMK_TARGET::write_nan(ends_of(pair, i), count, size, to, other);
    }
};

// The values at the left (or right) ends of a register of whole components, the `step`-th of a row.
template <class T, bool right>
QMK_INLINE Lanes<T> values_at_ends(const RowEnds<T>& row, int64_t step, const BitPlaces<T>& places) {
    constexpr int n = num_lanes<T>;
    uint32_t word = 0;
    __builtin_memcpy(&word, row.bytes + step * (n / 4), n / 4);
    return where_set<T>(word, right ? places.right : places.left, broadcast(row.every));
}

// Writes, or adds to the existing values, `worth` at the ends of one component.
template <class T, bool right, bool add>
QMK_INLINE void write_component_ends(const RowEnds<T>& row, int64_t c, T worth, int64_t size,
                                     const BitPlaces<T>& places, T* to) {
    constexpr int n = num_lanes<T>;
    const int64_t bytes = ends_bytes(size);
    for (int64_t k = 0; k < size; k += n) {
        const uint32_t bits = bits_from(row.bytes + c * bytes, bytes, (right ? size : 0) + k);
        T* at = to + c * size + k;
        if (k + n <= size) {
            const Lanes<T> value = where_set<T>(bits, places.single, broadcast(worth));
            store(at, add ? load<Lanes<T>>(at) + value : value);
        } else {
            for (int lane = 0; lane < n && k + lane < size; ++lane) {
                const T value = bits >> lane & 1 ? worth : T(0);
                at[lane] = add ? at[lane] + value : value;
            }
        }
    }
}

// Writes the values at the left (or right) ends of a row.
template <class T, bool right>
QMK_INLINE void write_ends(const RowEnds<T>& row, int64_t count, int64_t size, const BitPlaces<T>& places, T* to) {
    constexpr int n = num_lanes<T>;
    int64_t done = 0;
    if (places.whole_components)
        for (; (done + 1) * n <= count * size; ++done)
            store(to + done * n, values_at_ends<T, right>(row, done, places));
    for (int64_t c = done * n / size; c < count; ++c)
        write_component_ends<T, right, false>(row, c, row.every, size, places, to);
    if (row.extra != T(0)) write_component_ends<T, right, true>(row, row.largest, row.extra, size, places, to);
}

// Writes the sum of two.
template <class T, bool right, bool other_right>
QMK_INLINE void write_sum_of_ends(const RowEnds<T>& row, const RowEnds<T>& other, int64_t count, int64_t size,
                                  const BitPlaces<T>& places, T* to) {
    constexpr int n = num_lanes<T>;
    int64_t done = 0;
    if (places.whole_components)
        for (; (done + 1) * n <= count * size; ++done)
            store(to + done * n,
                  values_at_ends<T, right>(row, done, places) + values_at_ends<T, other_right>(other, done, places));
    for (int64_t c = done * n / size; c < count; ++c) {
        write_component_ends<T, right, false>(row, c, row.every, size, places, to);
        write_component_ends<T, other_right, true>(other, c, other.every, size, places, to);
    }
    if (row.extra != T(0)) write_component_ends<T, right, true>(row, row.largest, row.extra, size, places, to);
    if (other.extra != T(0))
        write_component_ends<T, other_right, true>(other, other.largest, other.extra, size, places, to);
}

}  // namespace

}  // namespace qmk::QMK_TARGET
