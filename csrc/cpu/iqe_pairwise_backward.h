// IQE of all pairs of rows: both sides' gradients. Included by iqe.cpp.
//
// Left ends (the gradient of x) are found by the same kind of scan as the lengths, and right ends (the gradient of y)
// as left ends of the mirrored problem, x' = -y, y' = -x: four operations per element each. Each gradient is written by
// one task in a fixed order.
#pragma once

#include <type_traits>

#include "iqe_pairwise.h"

namespace qmk::QMK_TARGET {

namespace {

// The upstream gradient for the gradient of rows: grad_out (rows, columns) or, per component, (rows, columns,
// components), and the longest components, null if the reduction has no maximum.
template <class T>
struct PairGradients {
    const T* grad_out;
    const int32_t* largest;
    ReductionWeights<T> weights;
    int64_t num_columns, num_components;
    bool per_component;
};

// For component c of row `row` and the columns of one block: the derivative of the loss by the component's length and,
// for the gradient of max_weight, grad_out times the derivative of max - mean. Zero beyond the last column.
template <class T, int vectors>
QMK_INLINE void load_pair_gradients(const PairGradients<T>& pairs, int64_t row, int64_t first_column, int64_t c,
                                    Lanes<T>* grad, Lanes<T>* spread_grad) {
    constexpr int n = num_lanes<T>, width = vectors * n;
    const int64_t pair = row * pairs.num_columns + first_column;
    const T* grad_out = pairs.grad_out + pair;
    const int32_t* largest = pairs.largest + pair;
    T grad_copy[width];
    int32_t largest_copy[width];
    if (pairs.per_component || first_column + width > pairs.num_columns) {
        const int64_t count = pairs.num_columns - first_column < width ? pairs.num_columns - first_column : width;
        const int64_t items = pairs.per_component ? pairs.num_components : 1;
        for (int j = 0; j < width; ++j) {
            grad_copy[j] = j < count ? pairs.grad_out[(pair + j) * items + (pairs.per_component ? c : 0)] : T(0);
            largest_copy[j] = j < count && pairs.largest ? largest[j] : 0;
        }
        grad_out = grad_copy;
        largest = largest_copy;
    }
    const Lanes<T> every = broadcast(pairs.weights.every), of_largest = every + pairs.weights.largest;
    const T share = T(1) / T(pairs.num_components);
    for (int v = 0; v < vectors; ++v) {
        const Lanes<T> g = load<Lanes<T>>(grad_out + v * n);
        if (!pairs.largest) {
            grad[v] = weighted(g, every);
            continue;
        }
        const auto is_largest = load_indices<T>(largest + v * n) == (int32_t(c) - IndexLanes<T>{});
        grad[v] = weighted(g, is_largest ? of_largest : every);
        spread_grad[v] = g * (is_largest ? broadcast(T(1) - share) : broadcast(-share));
    }
}

// Adds to totals[k] the gradients of the lanes where k is a left end, for each k of a row's component in ascending
// order of its values. Four operations per vector.
template <class T, int vectors, class Scan, int... k>
QMK_INLINE void scan_left_ends(Sequence<k...>, const T* values, const int32_t* offsets, const T* block_columns,
                               const Lanes<T>* grad, Scan* scan, Lanes<T>* totals) {
    const auto step = [&](Lanes<T> from, const T* to, Lanes<T>& all) __attribute__((always_inline)) {
        asm("" : "+r"(to));  // else the compiler keeps the addresses of all steps, more than there are registers
        Lanes<T> total = all;
        for (int v = 0; v < vectors; ++v) {
            const auto starts = scan[v].add(from, in_register(load<Lanes<T>>(to + v * num_lanes<T>)));
            total = starts ? total + grad[v] : total;
        }
        all = total;
    };
    (step(load_broadcast(values + k), block_columns + offsets[k], totals[k]), ...);
}

// grad_rows[i, k] = sign * sum over j of the pair's gradient where row i's k is a left end. With `partial_spread`, also
// sums grad_out * (max - mean) over j, per component. K is the size of a component, whose totals are then registers, or
// 0 for any size.
template <class T, int vectors, bool with_spread, int K>
void left_end_gradients(SortedRows<T> sorted, Columns<T> columns, int64_t num_rows, int64_t any_size,
                        PairGradients<T> pairs, T sign, T* grad_rows, T* partial_spread, int threads) {
    using Scan =
        std::conditional_t<with_spread, IqeLeftEndsAndLength<Lanes<T>, FusedAddDifference>, IqeLeftEnds<Lanes<T>>>;
    constexpr int n = num_lanes<T>, width = vectors * n;
    // A tile's totals, a vector for each row and k, stay in the first-level cache, and so do a few blocks of a
    // component's columns while all rows of the tile are scanned.
    constexpr int64_t totals_per_tile = 128, blocks_per_strip = 4;
    const int64_t size = K ? K : any_size;
    const int64_t rows_per_tile = size < totals_per_tile ? totals_per_tile / size : 1;
    const int64_t num_row_tiles = (num_rows + rows_per_tile - 1) / rows_per_tile;
    const int64_t num_components = pairs.num_components, dim = num_components * size;
    const int wanted_threads = threads_for(num_rows * pairs.num_columns * dim, 1 << 16, threads);

    parallel_for(num_components * num_row_tiles, wanted_threads, [=](int64_t task) {
        // Components go one after another, so that a tile's upstream gradient stays in the second-level cache.
        const int64_t c = task % num_components, first_row = task / num_components * rows_per_tile;
        const int64_t end_row = first_row + rows_per_tile < num_rows ? first_row + rows_per_tile : num_rows;
        const int64_t num_totals = (end_row - first_row) * size;
        const auto memory = scratch<(totals_per_tile + n) * sizeof(Lanes<T>)>(
            [=](Workspace& workspace) { return workspace.take<Lanes<T>>(num_totals + n); });
        Lanes<T>*tile_totals = memory.pieces, spread_totals[with_spread ? totals_per_tile : 1];
        for (int64_t i = 0; i < num_totals + n - 1; ++i) tile_totals[i] = Lanes<T>{};
        for (auto& total : spread_totals) total = Lanes<T>{};

        for (int64_t first_block = 0; first_block < columns.num_blocks; first_block += blocks_per_strip) {
            const int64_t end_block = first_block + blocks_per_strip < columns.num_blocks
                                          ? first_block + blocks_per_strip
                                          : columns.num_blocks;
            for (int64_t row = first_row; row < end_row; ++row) {
                const T* values = sorted.values + row * dim + c * size;
                const int32_t* offsets = sorted.offsets + row * dim + c * size;
                Lanes<T>*row_totals = tile_totals + (row - first_row) * size, totals[K ? K : 1];
                for (int k = 0; k < K; ++k) totals[k] = row_totals[k];
                for (int64_t block = first_block; block < end_block; ++block) {
                    const T* block_columns = columns.values + (c * columns.num_blocks + block) * size * width;
                    Lanes<T> grad[vectors], spread_grad[vectors]{};
                    load_pair_gradients<T, vectors>(pairs, row, block * width, c, grad, spread_grad);
                    Scan scan[vectors]{};
                    for (int v = 0; v < vectors; ++v) scan[v].furthest = in_register(broadcast(-Limits<T>::highest));
                    if constexpr (K != 0)
                        scan_left_ends<T, vectors>(typename MakeSequence<K>::type{}, values, offsets, block_columns,
                                                   grad, scan, totals);
                    else
                        for (int64_t k = 0; k < size; ++k)
                            scan_left_ends<T, vectors>(Sequence<0>{}, values + k, offsets + k, block_columns, grad,
                                                       scan, row_totals + k);
                    if constexpr (with_spread)
                        for (int v = 0; v < vectors; ++v)
                            spread_totals[row - first_row] += spread_grad[v] * scan[v].length;
                }
                for (int k = 0; k < K; ++k) row_totals[k] = totals[k];
            }
        }

        int64_t row = first_row, k = 0;
        for (int64_t first = 0; first < num_totals; first += n) {
            const Lanes<T> sums = sign * sums_of_vectors<T>(tile_totals + first);
            for (int lane = 0; lane < n && row < end_row; ++lane) {
                const int64_t component = row * dim + c * size;
                grad_rows[component + sorted.offsets[component + k] / width] = sums[lane];
                if (++k == size) {
                    k = 0;
                    ++row;
                }
            }
        }
        if constexpr (with_spread)
            for (row = first_row; row < end_row; ++row)
                partial_spread[c * num_rows + row] = sum_of_lanes<T>(spread_totals[row - first_row]);
    });
}

// to[j, i] = from[i, j], each entry `items` values.
template <class T>
void transpose(const T* from, int64_t num_rows, int64_t num_columns, int64_t items, T* to, int threads) {
    constexpr int64_t tile = 32;
    parallel_for((num_columns + tile - 1) / tile, threads_for(num_rows * num_columns, 1 << 15, threads),
                 [&](int64_t t) {
                     const int64_t end = (t + 1) * tile < num_columns ? (t + 1) * tile : num_columns;
                     for (int64_t i0 = 0; i0 < num_rows; i0 += tile)
                         for (int64_t j = t * tile; j < end; ++j)
                             for (int64_t i = i0; i < i0 + tile && i < num_rows; ++i)
                                 for (int64_t item = 0; item < items; ++item)
                                     to[(j * num_rows + i) * items + item] = from[(i * num_columns + j) * items + item];
                 });
}

// The two gradients use the same scratch memory, one after the other.
template <class T>
int64_t backward_workspace(const IqePairwiseShape& shape, Reduction reduction) {
    const int64_t dim = shape.num_components * shape.dim_per_component, pairs = shape.num_x * shape.num_y;
    Workspace of_x{nullptr}, of_y{nullptr};
    take_sorted_rows<T>(of_x, shape.num_x, dim);
    take_columns<T>(of_x, shape.num_y, dim);
    take_sorted_rows<T>(of_y, shape.num_y, dim);
    take_columns<T>(of_y, shape.num_x, dim);
    of_y.take<T>(pairs * (reduction == Reduction::none ? shape.num_components : 1));
    if (needs_largest(reduction)) of_y.take<int32_t>(pairs);
    return of_x.used > of_y.used ? of_x.used : of_y.used;
}

// Parts of the gradient of the weights, (batch, num_components, num_x); null if not needed.
template <class T>
T* take_partial_spread(Workspace& workspace, const IqePairwiseBackward<T>& call) {
    const IqePairwiseShape& shape = call.shape;
    return call.grad_max_weight ? workspace.take<T>(shape.batch * shape.num_components * shape.num_x) : nullptr;
}

// The gradient of one side's rows; sorts them and packs the other side's.
template <class T>
void side_gradient(Side<T> rows, Side<T> others, int64_t size, Workspace& workspace, PairGradients<T> pairs,
                   T* grad_rows, T* partial_spread, int threads) {
    const int64_t num_components = pairs.num_components;
    const int vectors = vectors_at_once<T>(others.count);
    const auto sorted = take_sorted_rows<T>(workspace, rows.count, num_components * size);
    const auto columns = take_columns<T>(workspace, others.count, num_components * size);
    sort_rows(rows, num_components, size, vectors * num_lanes<T>, sorted, threads);
    pack_columns(others, num_components, size, columns, threads);
    const auto gradients = [&](auto with_spread) {
        constexpr bool spread = decltype(with_spread)::value;
        constexpr int unrolled = spread ? 0 : 8;  // with the lengths there are too few registers
        if (size == unrolled && vectors == 4) return left_end_gradients<T, 4, spread, unrolled>;
        return vectors == 4   ? left_end_gradients<T, 4, spread, 0>
               : vectors == 2 ? left_end_gradients<T, 2, spread, 0>
                              : left_end_gradients<T, 1, spread, 0>;
    };
    const auto run = partial_spread ? gradients(std::true_type{}) : gradients(std::false_type{});
    run(sorted, columns, rows.count, size, pairs, -rows.sign, grad_rows, partial_spread, threads);
}

// A component with NaN makes its gradients NaN in every pair: those of its coordinates in its own row and in all rows
// of the other side.
template <class T>
void write_nan(Side<T> rows, Side<T> others, int64_t num_components, int64_t size, T* grad_rows, T* grad_others) {
    const int64_t dim = num_components * size;
    if (!has_nan(rows.rows, rows.count * dim)) return;
    const auto fill = [&](T* grad, int64_t component) {
        for (int64_t k = 0; k < size; ++k) grad[component * size + k] = T(__builtin_nan(""));
    };
    for (int64_t i = 0; i < rows.count * num_components; ++i)
        if (has_nan(rows.rows + i * size, size)) {
            fill(grad_rows, i);
            for (int64_t j = 0; j < others.count; ++j) fill(grad_others, j * num_components + i % num_components);
        }
}

}  // namespace

template <class T>
int64_t iqe_pairwise_backward_scratch(const IqePairwiseBackward<T>& call) {
    Workspace workspace{nullptr};
    if (has_one_row(call.shape)) {
        take_one_row(workspace, call);
        return workspace.used;
    }
    take_partial_spread(workspace, call);
    workspace.take<char>(call.shape.batch * backward_workspace<T>(call.shape, call.reduction));
    return workspace.used;
}

template <class T>
void iqe_pairwise_backward(const IqePairwiseBackward<T>& call, int threads) {
    if (has_one_row(call.shape)) return backward_of_one_row(call, threads);
    const Reduction reduction = call.reduction;
    void* memory = call.scratch;
    T *grad_x = call.grad_x, *grad_y = call.grad_y;
    const int32_t* largest = call.largest;
    const T *grad_out = call.grad_out, *x = call.x, *y = call.y;
    const IqePairwiseShape& shape = call.shape;
    const int64_t num_x = shape.num_x, num_y = shape.num_y, num_components = shape.num_components;
    const int64_t size = shape.dim_per_component, dim = num_components * size;
    const bool per_component = reduction == Reduction::none;
    const int64_t items = per_component ? num_components : 1;
    Workspace workspace{static_cast<char*>(memory)};
    T* partial_spread = take_partial_spread(workspace, call);
    const int64_t bytes = backward_workspace<T>(shape, reduction);
    char* of_matrices = workspace.take<char>(shape.batch * bytes);
    for_each_matrix(shape.batch, of_matrices, bytes, threads, [&](int64_t b, char* scratch, int threads) {
        const auto weights = reduction_weights(reduction, num_components, weight_of_matrix(call.max, shape.batch, b));
        const T *batch_x = x + b * num_x * dim, *batch_y = y + b * num_y * dim;
        const T* batch_grad = grad_out + b * num_x * num_y * items;
        const int32_t* batch_largest = needs_largest(reduction) ? largest + b * num_x * num_y : nullptr;
        T* partial = partial_spread ? partial_spread + b * num_components * num_x : nullptr;

        Workspace of_x{scratch}, of_y{scratch};
        const PairGradients<T> pairs{batch_grad, batch_largest, weights, num_y, num_components, per_component};
        side_gradient<T>({batch_x, num_x, T(1)}, {batch_y, num_y, T(1)}, size, of_x, pairs, grad_x + b * num_x * dim,
                         partial, threads);

        T* grad_transposed = of_y.take<T>(num_x * num_y * items);
        transpose(batch_grad, num_x, num_y, items, grad_transposed, threads);
        int32_t* largest_transposed = batch_largest ? of_y.take<int32_t>(num_x * num_y) : nullptr;
        if (batch_largest) transpose(batch_largest, num_x, num_y, 1, largest_transposed, threads);
        const PairGradients<T> mirrored{grad_transposed, largest_transposed, weights,
                                        num_x,           num_components,     per_component};
        side_gradient<T>({batch_y, num_y, T(-1)}, {batch_x, num_x, T(-1)}, size, of_y, mirrored,
                         grad_y + b * num_y * dim, nullptr, threads);

        T *of_rows = grad_x + b * num_x * dim, *of_columns = grad_y + b * num_y * dim;
        const Side<T> side_x{batch_x, num_x, T(1)}, side_y{batch_y, num_y, T(1)};
        write_nan(side_x, side_y, num_components, size, of_rows, of_columns);
        write_nan(side_y, side_x, num_components, size, of_columns, of_rows);
    });
    max_weight_gradient<T>(call.max, 1.0, partial_spread, nullptr, shape.batch * num_components * num_x,
                           call.grad_max_weight);
}

}  // namespace qmk::QMK_TARGET
