// PQE-LH of all pairs of rows of x and y; included by pqe.cpp. Nothing here is larger than the inputs and outputs.
//
// Lanes are rows of one side, packed once so that vectors of values lie in memory in the order of use; the other side's
// rows are broadcast. An element of a pair takes three operations (difference, minimum, sum), a component of a pair one
// more exponential. Backward runs twice, once with x's rows as rows and once with y's, and recomputes the exponentials,
// so that every gradient is one task's sum in a fixed order.
#pragma once

#include <type_traits>

#include "../math/pqe.h"
#include "../ops/pqe.h"
#include "lanes.h"
#include "one_row.h"
#include "parallel.h"
#include "workspace.h"

namespace qmk::QMK_TARGET {

namespace {

int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

// One side of the problem: batch matrices of `count` rows.
template <class T>
struct PqeSide {
    const T* rows;
    int64_t count;
};

// num_lanes rows side by side: [batch][component][block of rows][k][row in the block]. Copies of the last row fill the
// last block.
template <class T>
struct PackedColumns {
    T* values;
    int64_t num_blocks;
};

template <class T>
int64_t blocks_of(int64_t count) {
    return (count + num_lanes<T> - 1) / num_lanes<T>;
}

template <class T>
PackedColumns<T> pack_columns(PqeSide<T> side, const PqePairwiseShape& shape, void* memory, int threads) {
    constexpr int n = num_lanes<T>;
    const int64_t size = shape.dim_per_component, dim = shape.num_components * size;
    const PackedColumns<T> columns{static_cast<T*>(memory), blocks_of<T>(side.count)};
    const int wanted_threads = threads_for(shape.batch * side.count * dim, 1 << 14, threads);
    parallel_for(shape.batch * columns.num_blocks, wanted_threads, [=](int64_t task) {
        const int64_t b = task / columns.num_blocks, block = task % columns.num_blocks;
        const int last_lane = int(smaller(side.count - block * n, n)) - 1;
        const T* rows = side.rows + (b * side.count + block * n) * dim;
        constexpr int strip = 16;
        Lanes<T> lanes[strip];
        for (int64_t d = 0; d < dim; d += strip) {
            const int count = int(smaller(strip, dim - d));
            load_columns(rows + d, dim, last_lane, count, lanes);
            for (int i = 0; i < count; ++i) {
                const int64_t component = b * shape.num_components + (d + i) / size, k = (d + i) % size;
                store(columns.values + ((component * columns.num_blocks + block) * size + k) * n, lanes[i]);
            }
        }
    });
    return columns;
}

// x comes from the rows and y from the columns, or vice versa.
template <bool rows_are_x, class V>
QMK_INLINE V pair_exceeds(V row, V column) {
    return rows_are_x ? exceeds(row, column) : exceeds(column, row);
}

template <bool rows_are_x, class V>
QMK_INLINE auto pair_is_flat(V row, V column) {
    return rows_are_x ? is_flat(row, column) : is_flat(column, row);
}

// The exponentials of a row's component with a block of columns. K = 0: any size.
template <class T, int K, bool rows_are_x>
QMK_INLINE Exponential<T, Lanes<T>> pair_exponential(const T* row, const T* columns, int64_t size, T share) {
    constexpr int n = num_lanes<T>;
    Lanes<T> sum = pair_exceeds<rows_are_x>(broadcast(row[0]), load<Lanes<T>>(columns));
    for (int64_t k = 1; k < (K ? K : size); ++k)
        sum += pair_exceeds<rows_are_x>(broadcast(row[k]), load<Lanes<T>>(columns + k * n));
    return pqe_exponential<T>(sum, share);
}

// Where the weights of matrix b begin.
int64_t first_weight_of(int64_t b, const PqePairwiseShape& shape) {
    return b / (shape.batch / shape.num_weights) * shape.num_components;
}

// Locates the item of row i, column j and component c: values[i * row_stride + j * column_stride + c *
// component_stride].
template <class T>
struct PairItems {
    T* values;
    int64_t batch_stride, row_stride, column_stride, component_stride;
};

template <class T>
QMK_INLINE void store_items(T* to, int64_t stride, Lanes<T> lanes, int count) {
    if (stride == 1 && count == num_lanes<T>)
        store(to, lanes);
    else
        for (int lane = 0; lane < count; ++lane) to[lane * stride] = lanes[lane];
}

// Zero beyond the first `count`.
template <class T>
QMK_INLINE Lanes<T> load_items(const T* from, int64_t stride, int count) {
    if (stride == 1 && count == num_lanes<T>) return load<Lanes<T>>(from);
    Lanes<T> lanes{};
    for (int lane = 0; lane < count; ++lane) lanes[lane] = from[lane * stride];
    return lanes;
}

template <class T, int K, bool rows_are_x>
void pair_distances(PqeSide<T> side, PackedColumns<T> columns, int64_t num_columns, const T* weights, PairItems<T> out,
                    const PqePairwiseShape& shape, int threads) {
    constexpr int n = num_lanes<T>;
    constexpr int64_t rows_per_tile = 16;
    const int64_t size = shape.dim_per_component, num_components = shape.num_components, dim = num_components * size;
    const int64_t num_tiles = (side.count + rows_per_tile - 1) / rows_per_tile;
    const int64_t tasks_per_matrix = columns.num_blocks * num_tiles;
    const int wanted_threads = threads_for(shape.batch * side.count * num_columns * dim, 1 << 16, threads);
    const T share = T(1) / T(size);
    parallel_for(shape.batch * tasks_per_matrix, wanted_threads, [=](int64_t task) {
        const int64_t b = task / tasks_per_matrix, block = task % tasks_per_matrix / num_tiles;
        const int64_t first_row = task % num_tiles * rows_per_tile;
        const int num_rows = int(smaller(rows_per_tile, side.count - first_row));
        const int count = int(smaller(n, num_columns - block * n));
        const T* rows = side.rows + (b * side.count + first_row) * dim;
        const int64_t first_weight = first_weight_of(b, shape);
        T* to = out.values + b * out.batch_stride + first_row * out.row_stride + block * n * out.column_stride;
        Lanes<T> sums[rows_per_tile]{};
        for (int64_t c = 0; c < num_components; ++c) {
            const T* block_columns =
                columns.values + ((b * num_components + c) * columns.num_blocks + block) * size * n;
            const Lanes<T> weight = broadcast(weights ? weights[first_weight + c] : T(1));
            for (int r = 0; r < num_rows; ++r) {
                const T* row = rows + r * dim + c * size;
                const auto component = pair_exponential<T, K, rows_are_x>(row, block_columns, size, share).one_minus();
                if (weights)
                    sums[r] += weight * component;
                else
                    store_items<T>(to + r * out.row_stride + c * out.component_stride, out.column_stride, component,
                                   count);
            }
        }
        if (weights)
            for (int r = 0; r < num_rows; ++r)
                store_items<T>(to + r * out.row_stride, out.column_stride, sums[r], count);
    });
}

// grad_rows[i, k] = (rows_are_x ? 1 : -1) * sum over columns of grad_out * weight * slope. With `partial`, also sums
// grad_out * component.
template <class T, int K, bool rows_are_x>
void side_gradient(PqeSide<T> side, PackedColumns<T> columns, int64_t num_columns, PairItems<const T> grad_out,
                   const T* weights, T* grad_rows, T* partial, const PqePairwiseShape& shape, int threads) {
    constexpr int n = num_lanes<T>;
    // A tile's totals, a vector for each row and k, stay in the first-level cache.
    constexpr int64_t totals_per_tile = 128;
    const int64_t size = shape.dim_per_component, num_components = shape.num_components, dim = num_components * size;
    const int64_t rows_per_tile = size < totals_per_tile ? totals_per_tile / size : 1;
    const int64_t num_tiles = (side.count + rows_per_tile - 1) / rows_per_tile;
    const int64_t tasks_per_matrix = num_components * num_tiles;
    const int wanted_threads = threads_for(shape.batch * side.count * num_columns * dim, 1 << 16, threads);
    const T share = T(1) / T(size);
    parallel_for(shape.batch * tasks_per_matrix, wanted_threads, [=](int64_t task) {
        const int64_t b = task / tasks_per_matrix, c = task % tasks_per_matrix / num_tiles;
        const int64_t first_row = task % num_tiles * rows_per_tile;
        const int64_t num_rows = smaller(rows_per_tile, side.count - first_row), num_totals = num_rows * size;
        const auto memory = scratch<(totals_per_tile + n) * sizeof(Lanes<T>)>(
            [=](Workspace& workspace) { return workspace.take<Lanes<T>>(num_totals + n); });
        Lanes<T>* tile_totals = memory.pieces;
        for (int64_t i = 0; i < num_totals + n - 1; ++i) tile_totals[i] = Lanes<T>{};

        for (int64_t r = 0; r < num_rows; ++r) {
            const int64_t i = first_row + r;
            const T* row = side.rows + (b * side.count + i) * dim + c * size;
            const T* grads =
                grad_out.values + b * grad_out.batch_stride + i * grad_out.row_stride + c * grad_out.component_stride;
            const T* block_columns = columns.values + (b * num_components + c) * columns.num_blocks * size * n;
            Lanes<T>* row_totals = tile_totals + r * size;
            Lanes<T> totals[K ? K : 1]{}, partial_sum{};
            for (int64_t block = 0; block < columns.num_blocks; ++block, block_columns += size * n) {
                const int count = int(smaller(n, num_columns - block * n));
                const Lanes<T> grad =
                    load_items<T>(grads + block * n * grad_out.column_stride, grad_out.column_stride, count);
                const auto exponential = pair_exponential<T, K, rows_are_x>(row, block_columns, size, share);
                const Lanes<T> slope = grad * exponential.value();
                if (partial) partial_sum += grad * exponential.one_minus();
                for (int64_t k = 0; k < (K ? K : size); ++k) {
                    const auto flat =
                        pair_is_flat<rows_are_x>(broadcast(row[k]), load<Lanes<T>>(block_columns + k * n));
                    Lanes<T>& total = K ? totals[k] : row_totals[k];
                    total = flat ? total : total + slope;
                }
            }
            for (int k = 0; k < K; ++k) row_totals[k] = totals[k];
            if (partial) partial[(b * side.count + i) * num_components + c] = sum_of_lanes<T>(partial_sum);
        }

        const T factor = (weights ? weights[first_weight_of(b, shape) + c] * share : share) * T(rows_are_x ? 1 : -1);
        int64_t r = 0, k = 0;
        for (int64_t first = 0; first < num_totals; first += n) {
            const Lanes<T> sums = factor * sums_of_vectors<T>(tile_totals + first);
            for (int lane = 0; lane < n && r < num_rows; ++lane) {
                grad_rows[(b * side.count + first_row + r) * dim + c * size + k] = sums[lane];
                if (++k == size) {
                    k = 0;
                    ++r;
                }
            }
        }
    });
}

// Transposes every (num_rows, num_columns) matrix.
template <class T>
void transpose_matrices(const T* from, int64_t batch, int64_t num_rows, int64_t num_columns, T* to, int threads) {
    constexpr int64_t tile = 32;
    const int64_t num_tiles = (num_columns + tile - 1) / tile, pairs = num_rows * num_columns;
    parallel_for(batch * num_tiles, threads_for(batch * pairs, 1 << 15, threads), [=](int64_t task) {
        const int64_t first_pair = task / num_tiles * pairs, first = task % num_tiles * tile;
        for (int64_t i0 = 0; i0 < num_rows; i0 += tile)
            for (int64_t j = first; j < smaller(first + tile, num_columns); ++j)
                for (int64_t i = i0; i < smaller(i0 + tile, num_rows); ++i)
                    to[first_pair + j * num_rows + i] = from[first_pair + i * num_columns + j];
    });
}

// The columns are the side whose rows fill vectors better: y, unless x wastes fewer lanes.
template <class T>
bool columns_are_x(const PqePairwiseShape& shape) {
    return blocks_of<T>(shape.num_x) * shape.num_y < blocks_of<T>(shape.num_y) * shape.num_x;
}

template <class T>
int64_t packed_items(int64_t count, const PqePairwiseShape& shape) {
    return shape.batch * blocks_of<T>(count) * num_lanes<T> * shape.num_components * shape.dim_per_component;
}

template <class T, int K>
void pairwise_forward_of_size(const PqePairwiseForward<T>& call, int threads) {
    void* workspace = call.scratch;
    T* out = call.out;
    const T *x = call.x, *y = call.y, *weights = call.weights;
    const PqePairwiseShape& shape = call.shape;
    const PqeSide<T> side_x{x, shape.num_x}, side_y{y, shape.num_y};
    const int64_t items = weights ? 1 : shape.num_components, row_items = shape.num_y * items;
    if (columns_are_x<T>(shape)) {
        const auto columns = pack_columns(side_x, shape, workspace, threads);
        pair_distances<T, K, false>(side_y, columns, shape.num_x, weights,
                                    {out, shape.num_x * row_items, items, row_items, 1}, shape, threads);
    } else {
        const auto columns = pack_columns(side_y, shape, workspace, threads);
        pair_distances<T, K, true>(side_x, columns, shape.num_y, weights,
                                   {out, shape.num_x * row_items, row_items, items, 1}, shape, threads);
    }
}

template <class T, int K>
void pairwise_backward_of_size(const PqePairwiseBackward<T>& call, int threads) {
    void* workspace = call.scratch;
    T *grad_x = call.grad_x, *grad_y = call.grad_y, *partial = call.partial_weights;
    const T *grad_out = call.grad_out, *x = call.x, *y = call.y, *weights = call.weights;
    const PqePairwiseShape& shape = call.shape;
    const PqeSide<T> side_x{x, shape.num_x}, side_y{y, shape.num_y};
    const int64_t items = weights ? 1 : shape.num_components, row_items = shape.num_y * items;
    const int64_t batch_stride = shape.num_x * row_items, component_stride = weights ? 0 : 1;

    PairItems<const T> pairs{grad_out, batch_stride, row_items, items, component_stride};
    const auto columns_y = pack_columns(side_y, shape, workspace, threads);
    side_gradient<T, K, true>(side_x, columns_y, shape.num_y, pairs, weights, grad_x, partial, shape, threads);

    pairs = {grad_out, batch_stride, items, row_items, component_stride};
    const auto columns_x = pack_columns(side_x, shape, workspace, threads);
    if (weights) {
        T* transposed = static_cast<T*>(workspace) + packed_items<T>(shape.num_x, shape);
        transpose_matrices(grad_out, shape.batch, shape.num_x, shape.num_y, transposed, threads);
        pairs = {transposed, batch_stride, shape.num_x, 1, 0};
    }
    side_gradient<T, K, false>(side_y, columns_x, shape.num_x, pairs, weights, grad_y, nullptr, shape, threads);
}

// Calls run with the size of a component as a constant if there is a kernel for it, else with 0.
template <class Run>
void with_constant_size(int64_t dim_per_component, Run&& run) {
    switch (dim_per_component) {
        case 1:
            return run(std::integral_constant<int, 1>{});
        case 2:
            return run(std::integral_constant<int, 2>{});
        case 4:
            return run(std::integral_constant<int, 4>{});
        case 8:
            return run(std::integral_constant<int, 8>{});
        default:
            return run(std::integral_constant<int, 0>{});
    }
}

template <class T>
const T* weights_of_matrix(const T* weights, const PqePairwiseShape& shape, int64_t b) {
    return weights ? weights + b / (shape.batch / shape.num_weights) * shape.num_components : nullptr;
}

template <class T>
void forward_of_one_row(const PqePairwiseForward<T>& call, int threads) {
    const PqePairwiseShape& shape = call.shape;
    const int64_t num_components = shape.num_components, size = shape.dim_per_component;
    const int64_t items = call.weights ? 1 : num_components;
    const auto sides = many_and_one(shape, num_components * size, call.x, call.y);
    one_row_forward(sides, threads, [&](const Piece<T>& piece) {
        pqe_forward<T>({piece.x,
                        piece.y,
                        weights_of_matrix(call.weights, shape, piece.matrix),
                        call.out + piece.first * items,
                        {piece.rows, 1, num_components, size}},
                       1);
    });
}

// The weights' gradient is asked for per row of x: with a single x, only the loops over all pairs add it up over y.
template <class T>
bool is_of_one_row(const PqePairwiseBackward<T>& call) {
    return has_one_row(call.shape) && !(call.partial_weights && call.shape.num_y > 1);
}

template <class T>
void backward_of_one_row(const PqePairwiseBackward<T>& call, int threads) {
    const PqePairwiseShape& shape = call.shape;
    const int64_t num_components = shape.num_components, size = shape.dim_per_component;
    const int64_t items = call.weights ? 1 : num_components;
    const auto sides = many_and_one(shape, num_components * size, call.x, call.y);
    double* parts = static_cast<double*>(call.scratch);
    one_row_backward(sides, call.grad_x, call.grad_y, parts, threads, [&](const Piece<T>& piece, T* grad_x, T* grad_y) {
        T* partial = call.partial_weights ? call.partial_weights + piece.first * num_components : nullptr;
        pqe_backward<T>({call.grad_out + piece.first * items,
                         piece.x,
                         piece.y,
                         weights_of_matrix(call.weights, shape, piece.matrix),
                         grad_x,
                         grad_y,
                         partial,
                         1,
                         {piece.rows, 1, num_components, size}},
                        1);
    });
}

}  // namespace

template <class T>
int64_t pqe_pairwise_forward_scratch(const PqePairwiseForward<T>& call) {
    if (has_one_row(call.shape)) return 0;
    return int64_t(sizeof(T)) *
           packed_items<T>(columns_are_x<T>(call.shape) ? call.shape.num_x : call.shape.num_y, call.shape);
}

template <class T>
void pqe_pairwise_forward(const PqePairwiseForward<T>& call, int threads) {
    if (has_one_row(call.shape)) return forward_of_one_row(call, threads);
    with_constant_size(call.shape.dim_per_component,
                       [&](auto size) { pairwise_forward_of_size<T, size.value>(call, threads); });
}

template <class T>
int64_t pqe_pairwise_backward_scratch(const PqePairwiseBackward<T>& call) {
    const PqePairwiseShape& shape = call.shape;
    if (is_of_one_row(call)) {
        Workspace workspace{nullptr};
        take_parts(workspace, many_and_one(shape, shape.num_components * shape.dim_per_component, call.x, call.y));
        return workspace.used;
    }
    const int64_t of_x = packed_items<T>(shape.num_x, shape), of_y = packed_items<T>(shape.num_y, shape);
    const int64_t transposed = shape.batch * shape.num_x * shape.num_y;
    return int64_t(sizeof(T)) * (of_y > of_x + transposed ? of_y : of_x + transposed);
}

template <class T>
void pqe_pairwise_backward(const PqePairwiseBackward<T>& call, int threads) {
    if (is_of_one_row(call)) return backward_of_one_row(call, threads);
    with_constant_size(call.shape.dim_per_component,
                       [&](auto size) { pairwise_backward_of_size<T, size.value>(call, threads); });
}

}  // namespace qmk::QMK_TARGET
