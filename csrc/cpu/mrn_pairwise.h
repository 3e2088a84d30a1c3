// MRN of all pairs of rows. One side's rows are laid out as lanes; the other's are broadcast to them, value by value.
//
// Floor: two operations per element and pair forward, a subtraction and a maximum or multiply-add. Backward:
// mrn_pairwise_backward.h.
#pragma once

#include "../ops/mrn.h"
#include "one_row.h"
#include "parallel.h"
#include "roots.h"
#include "workspace.h"

namespace qmk::QMK_TARGET {

namespace {

// The two sides of a matrix of pairs: `rows` are broadcast, `lanes` are packed, [block of n rows][value][row in the
// block], where copies of the last row fill the last block. If the lanes are x, differences are lane - row.
template <class T>
struct Sides {
    const T* rows;
    int64_t num_rows;
    const T* lanes;
    int64_t num_lane_rows;
    int64_t dim;
    bool lanes_are_x;
};

template <class T>
int64_t num_blocks(int64_t num_rows) {
    return (num_rows + num_lanes<T> - 1) / num_lanes<T>;
}

// Packs `batch` matrices of rows.
template <class T>
void pack_lanes(const T* rows, int64_t batch, int64_t num_rows, int64_t dim, T* packed, int threads) {
    constexpr int n = num_lanes<T>;
    const int64_t blocks = num_blocks<T>(num_rows);
    parallel_for(batch * blocks, threads_for(batch * num_rows * dim, 1 << 15, threads), [=](int64_t task) {
        const int64_t first = task % blocks * n, left = num_rows - first;
        load_columns(rows + (task / blocks * num_rows + first) * dim, dim, int(left < n ? left : n) - 1, int(dim),
                     reinterpret_cast<Lanes<T>*>(packed + task * n * dim));
    });
}

// Whether all values are finite, so that every difference is a number; otherwise a slower maximum is needed.
template <class T>
bool all_finite(const T* values, int64_t count, int threads) {
    constexpr int64_t per_task = 1 << 15;
    bool finite = true;
    const int64_t tasks = (count + per_task - 1) / per_task;
    parallel_for(tasks, threads, [&](int64_t task) {
        const int64_t end = (task + 1) * per_task < count ? (task + 1) * per_task : count;
        constexpr int n = num_lanes<T>;
        Lanes<T> sums{};  // zeros, or NaN
        int64_t i = task * per_task;
        for (; i + n <= end; i += n) {
            const auto here = load<Lanes<T>>(values + i);
            sums += here - here;
        }
        T sum = sum_of_lanes<T>(sums);
        for (; i < end; ++i) sum += values[i] - values[i];
        if (sum != T(0)) __atomic_store_n(&finite, false, __ATOMIC_RELAXED);
    });
    return finite;
}

template <class T, bool lanes_are_x>
QMK_INLINE Lanes<T> difference(const T* row, Lanes<T> lane) {
    return lanes_are_x ? lane - *row : load_broadcast(row) - lane;
}

// Finds `largest` of R rows and V blocks over part of a component; row and lanes point at the component's first value.
template <class T, int R, int V, bool lanes_are_x, bool finite>
QMK_INLINE void find_largest(const T* row, int64_t stride, const T* lanes, int64_t block_stride, MrnPart part,
                             Lanes<T> (&largest)[R][V]) {
    for (int64_t d = part.begin; d < part.end; ++d)
        for (int v = 0; v < V; ++v) {
            const auto lane = load<Lanes<T>>(lanes + v * block_stride + d * num_lanes<T>);
            for (int r = 0; r < R; ++r) {
                const auto here = difference<T, lanes_are_x>(row + r * stride + d, lane);
                largest[r][v] = finite ? maximum(largest[r][v], here) : largest_or_nan(largest[r][v], here);
            }
        }
}

// The difference that the symmetric part squares. Few forms shift it, and an addition is a third of the work.
template <class T, bool lanes_are_x, bool shifts>
QMK_INLINE Lanes<T> symmetric_difference(const T* row, Lanes<T> lane, T shift) {
    if constexpr (shifts)
        return difference<T, lanes_are_x>(row, lane) + shift;
    else
        return difference<T, lanes_are_x>(row, lane);
}

template <class T, int R, int V, bool lanes_are_x, bool shifts>
QMK_INLINE void sum_squares(const T* row, int64_t stride, const T* lanes, int64_t block_stride, MrnPart part, T shift,
                            Lanes<T> (&sums)[R][V]) {
    for (int64_t d = part.begin; d < part.end; ++d)
        for (int v = 0; v < V; ++v) {
            const auto lane = load<Lanes<T>>(lanes + v * block_stride + d * num_lanes<T>);
            for (int r = 0; r < R; ++r) {
                const auto here = symmetric_difference<T, lanes_are_x, shifts>(row + r * stride + d, lane, shift);
                sums[r][v] += here * here;
            }
        }
}

template <class T, int R, int V, bool lanes_are_x>
QMK_INLINE void sum_squares(const T* row, int64_t stride, const T* lanes, int64_t block_stride, MrnPart part, T shift,
                            Lanes<T> (&sums)[R][V]) {
    if (shift == T(0))
        sum_squares<T, R, V, lanes_are_x, false>(row, stride, lanes, block_stride, part, shift, sums);
    else
        sum_squares<T, R, V, lanes_are_x, true>(row, stride, lanes, block_stride, part, shift, sums);
}

// Locates the distance of a row and a lane: out[row * of_row + lane * of_lane].
struct Strides {
    int64_t of_row, of_lane;
};

template <class T>
QMK_INLINE void store_lanes(T* out, int64_t stride, int64_t count, Lanes<T> values) {
    if (stride == 1 && count >= num_lanes<T>) return store(out, values);
    for (int64_t lane = 0; lane < num_lanes<T> && lane < count; ++lane) out[lane * stride] = values[lane];
}

template <class T>
QMK_INLINE Lanes<T> load_lanes(const T* from, int64_t stride, int64_t count) {
    if (stride == 1 && count >= num_lanes<T>) return load<Lanes<T>>(from);
    Lanes<T> values{};
    for (int64_t lane = 0; lane < num_lanes<T> && lane < count; ++lane) values[lane] = from[lane * stride];
    return values;
}

// The distances of R rows to V blocks of lanes from `first_lane` on; `valid` lanes are left.
template <class T, int R, int V, bool lanes_are_x, bool finite>
void distances_of_tile(const Sides<T>& sides, int64_t first_row, int64_t first_lane, const MrnSettings& settings,
                       const MrnRoot<T>& root, T* out, Strides strides) {
    constexpr int n = num_lanes<T>;
    const int64_t size = sides.dim / settings.num_components, block_stride = n * sides.dim;
    const MrnPart asymmetric = mrn_asymmetric_part(settings, size), symmetric = mrn_symmetric_part(settings, size);
    const T shift = mrn_shift<T>(settings), weight = mrn_component_weight<T>(settings);
    const T *row = sides.rows + first_row * sides.dim, *lanes = sides.lanes + first_lane * sides.dim;
    const int64_t valid = sides.num_lane_rows - first_lane;
    Lanes<T> totals[R][V]{};
    for (int64_t c = 0; c < settings.num_components; ++c, row += size, lanes += n * size) {
        Lanes<T> largest[R][V]{}, sums[R][V]{};
        find_largest<T, R, V, lanes_are_x, finite>(row, sides.dim, lanes, block_stride, asymmetric, largest);
        sum_squares<T, R, V, lanes_are_x>(row, sides.dim, lanes, block_stride, symmetric, shift, sums);
        for (int r = 0; r < R; ++r)
            for (int v = 0; v < V; ++v) {
                const Lanes<T> component = largest[r][v] + root.value(sums[r][v]);
                if (settings.reduction == MrnReduction::none) {
                    T* to = out + (first_row + r) * strides.of_row + (first_lane + v * n) * strides.of_lane + c;
                    store_lanes(to, strides.of_lane, valid - v * n, component * weight);
                } else {
                    totals[r][v] += component;
                }
            }
    }
    if (settings.reduction == MrnReduction::none) return;
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) {
            T* to = out + (first_row + r) * strides.of_row + (first_lane + v * n) * strides.of_lane;
            store_lanes(to, strides.of_lane, valid - v * n, totals[r][v] * weight);
        }
}

template <class T, int V, bool lanes_are_x, bool finite>
void distances_of_rows(const Sides<T>& sides, int64_t first_row, int64_t end_row, int64_t first_lane,
                       const MrnSettings& settings, const MrnRoot<T>& root, T* out, Strides strides) {
    constexpr int R = 6;
    int64_t row = first_row;
    for (; row + R <= end_row; row += R)
        distances_of_tile<T, R, V, lanes_are_x, finite>(sides, row, first_lane, settings, root, out, strides);
    for (; row < end_row; ++row)
        distances_of_tile<T, 1, V, lanes_are_x, finite>(sides, row, first_lane, settings, root, out, strides);
}

template <class T, bool lanes_are_x, bool finite>
void matrix_forward(const T* rows, int64_t num_rows, const T* packed, int64_t num_lane_rows, T* out,
                    MrnPairwiseShape shape, const MrnSettings& settings, Strides strides, int threads) {
    constexpr int n = num_lanes<T>, rows_per_task = 96;
    const MrnRoot<T> root(settings, shape.dim / settings.num_components);
    const int64_t pairs = (num_blocks<T>(num_lane_rows) + 1) / 2,
                  chunks = (num_rows + rows_per_task - 1) / rows_per_task;
    const int64_t out_stride =
        num_rows * num_lane_rows * (settings.reduction == MrnReduction::none ? settings.num_components : 1);
    const int64_t packed_stride = num_blocks<T>(num_lane_rows) * n * shape.dim;
    const int threads_used = threads_for(shape.batch * num_rows * num_lane_rows * shape.dim, 1 << 17, threads);
    parallel_for(shape.batch * pairs * chunks, threads_used, [&](int64_t task) {
        const int64_t b = task / (pairs * chunks), first_lane = task / chunks % pairs * 2 * n;
        const int64_t first_row = task % chunks * rows_per_task;
        const int64_t end_row = first_row + rows_per_task < num_rows ? first_row + rows_per_task : num_rows;
        const Sides<T> sides{rows + b * num_rows * shape.dim,
                             num_rows,
                             packed + b * packed_stride,
                             num_lane_rows,
                             shape.dim,
                             lanes_are_x};
        const auto run = first_lane + n < num_lane_rows ? distances_of_rows<T, 2, lanes_are_x, finite>
                                                        : distances_of_rows<T, 1, lanes_are_x, finite>;
        run(sides, first_row, end_row, first_lane, settings, root, out + b * out_stride, strides);
    });
}

// The lanes are the larger side if the other would not fill them.
template <class T>
bool lanes_are_better_x(MrnPairwiseShape shape) {
    return shape.num_y < 4 * num_lanes<T> && shape.num_x > shape.num_y;
}

template <class T>
int64_t packed_size(int64_t batch, int64_t num_rows, int64_t dim) {
    return batch * num_blocks<T>(num_rows) * num_lanes<T> * dim;
}

// The larger side as lanes.
template <class T>
int64_t packed_bytes(const MrnPairwiseShape& shape) {
    const int64_t most = shape.num_x > shape.num_y ? shape.num_x : shape.num_y;
    return packed_size<T>(shape.batch, most, shape.dim) * int64_t(sizeof(T));
}

template <class T>
bool inputs_are_finite(const T* x, const T* y, MrnPairwiseShape shape, int threads) {
    return all_finite(x, shape.batch * shape.num_x * shape.dim, threads) &&
           all_finite(y, shape.batch * shape.num_y * shape.dim, threads);
}

template <class T>
void forward_of_one_row(const MrnPairwiseForward<T>& call, int threads) {
    const int64_t items = call.settings.reduction == MrnReduction::none ? call.settings.num_components : 1;
    const auto sides = many_and_one(call.shape, call.shape.dim, call.x, call.y);
    one_row_forward(sides, threads, [&](const Piece<T>& piece) {
        mrn_forward<T>({piece.x, piece.y, call.out + piece.first * items, piece.rows, sides.dim, call.settings}, 1);
    });
}

}  // namespace

template <class T>
int64_t mrn_pairwise_forward_scratch(const MrnPairwiseForward<T>& call) {
    if (has_one_row(call.shape)) return 0;
    return packed_bytes<T>(call.shape);
}

template <class T>
void mrn_pairwise_forward(const MrnPairwiseForward<T>& call, int threads) {
    if (has_one_row(call.shape)) return forward_of_one_row(call, threads);
    T* out = call.out;
    const T *x = call.x, *y = call.y;
    const MrnPairwiseShape& shape = call.shape;
    const MrnSettings& settings = call.settings;
    const int64_t values = settings.reduction == MrnReduction::none ? settings.num_components : 1;
    const bool finite = inputs_are_finite(x, y, shape, threads);
    T* packed = static_cast<T*>(call.scratch);
    if (lanes_are_better_x<T>(shape)) {
        pack_lanes(x, shape.batch, shape.num_x, shape.dim, packed, threads);
        const auto run = finite ? matrix_forward<T, true, true> : matrix_forward<T, true, false>;
        run(y, shape.num_y, packed, shape.num_x, out, shape, settings, {values, shape.num_y * values}, threads);
    } else {
        pack_lanes(y, shape.batch, shape.num_y, shape.dim, packed, threads);
        const auto run = finite ? matrix_forward<T, false, true> : matrix_forward<T, false, false>;
        run(x, shape.num_x, packed, shape.num_y, out, shape, settings, {shape.num_y * values, values}, threads);
    }
}

}  // namespace qmk::QMK_TARGET
