// Pairs of many rows with one, in every matrix of a batch: the pairwise form of candidates and a goal.
//
// A tile of pairs would be empty but for one row or column, after copies of both sides. Here the kernels of matching
// rows (rows.cuh, iqe_one_row.cu) read the one row again for each of the many, from the cache. Floor: reading the many
// once and, backward, writing their gradient; on top of it the parts of the one row's gradient, a row for every 4 to
// 64 of the many, are written and read.
#pragma once

#include "launch.cuh"

namespace qmk::cuda {

namespace {

// The many are counted through the batch. Every `rows_per_matrix` of them share a row of the other side.
struct OneRow {
    int64_t rows_per_matrix;
    bool is_x;

    __device__ __forceinline__ int64_t matrix_of(int64_t row) const { return row / rows_per_matrix; }
};

// Whether a side of the matrices is a single row. Shape is a pairwise shape.
template <class Shape>
bool has_one_row(const Shape& shape) {
    return shape.num_x == 1 || shape.num_y == 1;
}

template <class Shape>
OneRow one_row_of(const Shape& shape) {
    const bool is_x = shape.num_y != 1;
    return {is_x ? shape.num_y : shape.num_x, is_x};
}

// The gradient of a matrix's one row as parts, each the sum over a group of the many in their order. Few parts are few
// bytes, many fill a device. The rule depends only on the sizes, so that the result is the same on every device.
struct OneRowParts {
    int64_t batch, dim, rows_per_part, count;  // parts of a matrix

    OneRowParts(const OneRow& one, int64_t batch, int64_t dim, int64_t threads_per_row) : batch(batch), dim(dim) {
        const int64_t enough_threads = 1 << 16, rows = batch * one.rows_per_matrix;
        rows_per_part = std::min<int64_t>(std::max<int64_t>(rows * threads_per_row / enough_threads, 4), 64);
        count = divide_up(one.rows_per_matrix, rows_per_part);
    }
    // The memory they need; a single part is the gradient itself.
    int64_t values() const { return count == 1 ? 0 : batch * count * dim; }
};

constexpr int part_threads = 512;

// Adds up the parts (batch, count, dim): a block takes 32 columns, and each of its warps every n-th part.
template <class T>
__global__ void __launch_bounds__(part_threads)
    add_parts_kernel(const T* parts, int64_t batch, int64_t count, int64_t dim, T* grad) {
    constexpr int warps = part_threads / 32;
    __shared__ double of_warps[warps][32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int64_t tiles_across = (dim + 31) / 32;
    for (int64_t tile = blockIdx.x; tile < batch * tiles_across; tile += gridDim.x) {
        const int64_t matrix = tile / tiles_across, column = tile % tiles_across * 32 + lane;
        double sum = 0;
        if (column < dim)
#pragma unroll 4
            for (int64_t part = warp; part < count; part += warps)
                sum += double(parts[(matrix * count + part) * dim + column]);
        of_warps[warp][lane] = sum;
        __syncthreads();
        if (warp == 0 && column < dim) {
            for (int other = 1; other < warps; ++other) sum += of_warps[other][lane];
            grad[matrix * dim + column] = T(sum);
        }
        __syncthreads();
    }
}

template <class T>
void launch_add_parts(const char* op, const OneRowParts& parts, const T* memory, T* grad, Context context) {
    if (parts.count > 1)
        launch(op, add_parts_kernel<T>, parts.batch * divide_up(parts.dim, 32), part_threads, 0, context, memory,
               parts.batch, parts.count, parts.dim, grad);
}

}  // namespace

}  // namespace qmk::cuda
