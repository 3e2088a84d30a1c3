// IQE of all pairs of rows of x and y. Nothing here is larger than the inputs and outputs.
//
// Only x decides the order of a component's intervals, so each row of x is sorted once, and lanes are rows of y: a scan
// walks the sorted x, one number and position at a time, for several vectors of y at once. Four operations per element
// forward. Backward: iqe_pairwise_backward.h.
#pragma once

#include "../ops/iqe.h"
#include "iqe_one_row.h"
#include "iqe_rows.h"
#include "lanes.h"
#include "max_weight.h"
#include "parallel.h"

namespace qmk::QMK_TARGET {

namespace {

// Rows of x per forward task; the sums and maxima of a tile's lengths stay in the first-level cache.
constexpr int rows_per_tile = 16;

// Values scanned for a row, at least, before its sums and maxima return to memory.
constexpr int64_t values_per_visit = 32;

// Locates the distance of row i and column j: out[i * row_stride + j * column_stride].
template <class T>
struct Matrix {
    T* values;
    int64_t row_stride, column_stride;
};

template <class T, int vectors>
void forward_tiles(SortedRows<T> sorted, Columns<T> columns, int64_t num_rows, int64_t num_columns,
                   int64_t num_components, int64_t size, T max_weight, Matrix<T> out, Matrix<int32_t> largest,
                   Reduction reduction, int threads) {
    constexpr int n = num_lanes<T>, width = vectors * n;
    const int64_t num_row_tiles = (num_rows + rows_per_tile - 1) / rows_per_tile, dim = num_components * size;
    const bool maxima_wanted = needs_largest(reduction);
    const int wanted_threads = threads_for(num_rows * num_columns * dim, 1 << 17, threads);
    const int64_t components_per_visit = size < values_per_visit / 4 ? values_per_visit / size : 4;

    parallel_for(num_row_tiles * columns.num_blocks, wanted_threads, [=](int64_t task) {
        const int64_t block = task / num_row_tiles, first_row = task % num_row_tiles * rows_per_tile;
        const int tile_rows = num_rows - first_row < rows_per_tile ? int(num_rows - first_row) : rows_per_tile;
        const int64_t first_column = block * width;
        const int tile_columns = num_columns - first_column < width ? int(num_columns - first_column) : width;
        Lanes<T> sums[rows_per_tile][vectors], maxima[rows_per_tile][vectors];
        IndexLanes<T> where[rows_per_tile][vectors];
        for (int r = 0; r < tile_rows; ++r)
            for (int v = 0; v < vectors; ++v) {
                sums[r][v] = Lanes<T>{};
                maxima[r][v] = broadcast(T(-1));
                where[r][v] = IndexLanes<T>{};
            }
        for (int64_t first_component = 0; first_component < num_components; first_component += components_per_visit)
            for (int r = 0; r < tile_rows; ++r) {
                const int64_t end_component = first_component + components_per_visit < num_components
                                                  ? first_component + components_per_visit
                                                  : num_components;
                Lanes<T> sum[vectors], maximum_length[vectors];
                IndexLanes<T> place[vectors];
                for (int v = 0; v < vectors; ++v) {
                    sum[v] = sums[r][v];
                    maximum_length[v] = maxima[r][v];
                    place[v] = where[r][v];
                }
                for (int64_t c = first_component; c < end_component; ++c) {
                    const T* component_columns = columns.values + (c * columns.num_blocks + block) * size * width;
                    const T* values = sorted.values + (first_row + r) * dim + c * size;
                    const int32_t* offsets = sorted.offsets + (first_row + r) * dim + c * size;
                    IqeLength<Lanes<T>, FusedAddDifference> scan[vectors];
                    for (int v = 0; v < vectors; ++v) scan[v] = {broadcast(-Limits<T>::highest), Lanes<T>{}};
                    for (int64_t k = 0; k < size; ++k) {
                        const Lanes<T> from = load_broadcast(values + k);
                        const T* to = component_columns + offsets[k];
                        for (int v = 0; v < vectors; ++v) scan[v].add(from, load<Lanes<T>>(to + v * n));
                    }
                    if (reduction == Reduction::none) {
                        T lengths[width];
                        for (int v = 0; v < vectors; ++v) store(lengths + v * n, scan[v].length);
                        T* to = out.values + (first_row + r) * out.row_stride + first_column * out.column_stride + c;
                        for (int j = 0; j < tile_columns; ++j) to[j * out.column_stride] = lengths[j];
                        continue;
                    }
                    for (int v = 0; v < vectors; ++v) sum[v] += scan[v].length;
                    if (maxima_wanted)
                        for (int v = 0; v < vectors; ++v) {
                            const auto greater = scan[v].length > maximum_length[v];
                            maximum_length[v] = greater ? scan[v].length : maximum_length[v];
                            place[v] = greater ? int32_t(c) - IndexLanes<T>{} : place[v];
                        }
                }
                for (int v = 0; v < vectors; ++v) {
                    sums[r][v] = sum[v];
                    maxima[r][v] = maximum_length[v];
                    where[r][v] = place[v];
                }
            }
        if (reduction == Reduction::none) return;
        for (int r = 0; r < tile_rows; ++r)
            for (int j = 0; j < tile_columns; ++j) {
                const int64_t row = first_row + r, column = first_column + j;
                out.values[row * out.row_stride + column * out.column_stride] = reduced(
                    reduction, T(sums[r][j / n][j % n]), T(maxima[r][j / n][j % n]), num_components, max_weight);
                if (largest.values)
                    largest.values[row * largest.row_stride + column * largest.column_stride] =
                        int32_t(where[r][j / n][j % n]);
            }
    });
}

// With few columns and many rows most lanes would idle, so the mirrored problem is solved, with rows and columns
// swapped.
template <class T>
bool better_mirrored(const IqePairwiseShape& shape) {
    return shape.num_y < num_lanes<T> && shape.num_y < shape.num_x;
}

template <class T>
int64_t forward_workspace(const IqePairwiseShape& shape) {
    const bool mirrored = better_mirrored<T>(shape);
    Workspace workspace{nullptr};
    const int64_t dim = shape.num_components * shape.dim_per_component;
    take_sorted_rows<T>(workspace, mirrored ? shape.num_y : shape.num_x, dim);
    take_columns<T>(workspace, mirrored ? shape.num_x : shape.num_y, dim);
    return workspace.used;
}

// Calls run(b, its scratch memory, threads) for every matrix of the batch. The threads share the matrices of a batch; a
// single matrix gets all threads.
template <class Run>
void for_each_matrix(int64_t batch, void* memory, int64_t bytes, int threads, Run&& run) {
    const int inner_threads = batch > 1 ? 1 : threads;
    parallel_for(batch, threads, [&](int64_t b) { run(b, static_cast<char*>(memory) + b * bytes, inner_threads); });
}

template <class T>
T weight_of_matrix(const MaxWeight<T>& max, int64_t batch, int64_t b) {
    return WeightAt<T>(max, b / (batch / max.num_weights)).value;
}

}  // namespace

template <class T>
int64_t iqe_pairwise_forward_scratch(const IqePairwiseForward<T>& call) {
    if (has_one_row(call.shape)) return 0;
    return call.shape.batch * forward_workspace<T>(call.shape);
}

template <class T>
void iqe_pairwise_forward(const IqePairwiseForward<T>& call, int threads) {
    if (has_one_row(call.shape)) return forward_of_one_row(call, threads);
    const Reduction reduction = call.reduction;
    void* memory = call.scratch;
    int32_t* largest = call.largest;
    T* out = call.out;
    const T *x = call.x, *y = call.y;
    const IqePairwiseShape& shape = call.shape;
    const int64_t num_components = shape.num_components, size = shape.dim_per_component, dim = num_components * size;
    const int64_t out_items = reduction == Reduction::none ? num_components : 1;
    const bool mirrored = better_mirrored<T>(shape);
    for_each_matrix(
        shape.batch, memory, forward_workspace<T>(shape), threads, [&](int64_t b, char* scratch, int threads) {
            Side<T> rows{x + b * shape.num_x * dim, shape.num_x, T(1)},
                others{y + b * shape.num_y * dim, shape.num_y, T(1)};
            const int64_t first_pair = b * shape.num_x * shape.num_y;
            Matrix<T> out_matrix{out + first_pair * out_items, shape.num_y * out_items, out_items};
            Matrix<int32_t> largest_matrix{largest ? largest + first_pair : nullptr, shape.num_y, 1};
            if (mirrored) {
                const Side<T> first = rows;
                rows = {others.rows, others.count, T(-1)};
                others = {first.rows, first.count, T(-1)};
                out_matrix = {out_matrix.values, out_matrix.column_stride, out_matrix.row_stride};
                largest_matrix = {largest_matrix.values, 1, shape.num_y};
            }
            Workspace workspace{scratch};
            const int vectors = vectors_at_once<T>(others.count);
            const auto sorted = take_sorted_rows<T>(workspace, rows.count, dim);
            const auto columns = take_columns<T>(workspace, others.count, dim);
            sort_rows(rows, num_components, size, vectors * num_lanes<T>, sorted, threads);
            pack_columns(others, num_components, size, columns, threads);
            const auto tiles = vectors == 4   ? forward_tiles<T, 4>
                               : vectors == 2 ? forward_tiles<T, 2>
                                              : forward_tiles<T, 1>;
            tiles(sorted, columns, rows.count, others.count, num_components, size,
                  weight_of_matrix(call.max, shape.batch, b), out_matrix, largest_matrix, reduction, threads);
        });
}

}  // namespace qmk::QMK_TARGET
