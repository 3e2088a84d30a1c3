// IQE of all pairs of rows of x and y: what the forward and backward kernels share.
//
// Only x decides the order of a component's intervals, so each row of x is sorted once. Then a thread scans the sorted
// x for 16 bytes of neighbouring y (4 float, 2 double), which are adjacent because y is transposed first; x and the
// position of its y are the same for the whole warp.
//
// Memory: the sorted rows, their positions and the transposed rows, D values each; nothing of size N * M * D.
// Precision: all arithmetic in T. The order of every sum is fixed, without atomics: the same input gives the same bits.
#pragma once

#include "../math/iqe.h"
#include "../ops/iqe.h"
#include "launch.cuh"
#include "pack.cuh"
#include "sort.cuh"
#include "warp.cuh"

namespace qmk::cuda {

namespace {

using namespace QMK_TARGET;

constexpr int warps_per_block = 8, pair_block_threads = 32 * warps_per_block;

// Columns (rows of y) of one tile: one pack per thread of a warp.
template <class T>
constexpr int tile_columns = 32 * Pack<T>::size;

// Lines of the transposed y hold whole tiles of either type, so that they are read without a test.
constexpr int64_t padded(int64_t count) {
    return (count + 127) / 128 * 128;
}

// One interval of a sorted row: where it begins, and the line of the component's transposed y with its ends.
template <class T>
struct alignas(2 * sizeof(T)) Begin {
    T x;
    int32_t line;
};

// Both sides of the problem, prepared.
template <class T>
struct Prepared {
    const T* sorted_x;        // (batch, num_x, C, K), ascending in K
    const int32_t* position;  // (batch, num_x, C, K): the index of each before sorting
    const T* lines;           // (batch, C, K, padded_y): y, transposed
    int batch, num_x, num_y, padded_y;
    int num_components, dim_per_component;

    // For a row past the last, that of the last.
    __device__ __forceinline__ int64_t first_in_row(int sample, int row, int component) const {
        const int clamped = row < num_x ? row : num_x - 1;
        return ((int64_t(sample) * num_x + clamped) * num_components + component) * dim_per_component;
    }
    __device__ __forceinline__ const T* component_lines(int sample, int component) const {
        return lines + (int64_t(sample) * num_components + component) * dim_per_component * padded_y;
    }
    __host__ __device__ __forceinline__ int64_t num_pairs() const { return int64_t(batch) * num_x * num_y; }
};

// One warp sorts one component at a time, in shared memory: `size` values and positions per warp.
template <class T>
__global__ void __launch_bounds__(128)
    sort_components_kernel(const T* rows, T sign, int64_t num_components, int size, T* sorted, int32_t* position) {
    extern __shared__ int4 dynamic_shared[];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    T* keys = reinterpret_cast<T*>(dynamic_shared) + warp * size;
    int32_t* places = reinterpret_cast<int32_t*>(reinterpret_cast<T*>(dynamic_shared) + warps * size) + warp * size;
    for (int64_t c = int64_t(blockIdx.x) * warps + warp; c < num_components; c += int64_t(gridDim.x) * warps) {
        for (int k = lane; k < size; k += 32) {
            keys[k] = finite_or_nan(sign * rows[c * size + k], Limits<T>::highest);
            places[k] = k;
        }
        __syncwarp();
        sort_by_warp(size, lane, keys, places);
        for (int k = lane; k < size; k += 32) {
            sorted[c * size + k] = keys[k];
            position[c * size + k] = places[k];
        }
        __syncwarp();
    }
}

// Transposes rows (batch, count, dim) to lines (batch, dim, padded(count)), with zeros in the padding; 32 x 32 numbers
// per block at a time.
template <class T>
__global__ void __launch_bounds__(256)
    transpose_kernel(const T* rows, T sign, int64_t batch, int64_t count, int64_t dim, T* lines) {
    __shared__ T tile[32][33];
    const int64_t line_length = padded(count), tiles_along = line_length / 32, tiles_across = (dim + 31) / 32;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int64_t t = blockIdx.x; t < batch * tiles_along * tiles_across; t += gridDim.x) {
        const int64_t first_column = t % tiles_across * 32, first_row = t / tiles_across % tiles_along * 32;
        const int64_t sample = t / (tiles_across * tiles_along);
        for (int r = warp; r < 32; r += 8) {
            const bool exists = first_row + r < count && first_column + lane < dim;
            const T value = exists ? rows[(sample * count + first_row + r) * dim + first_column + lane] : T(0);
            tile[r][lane] = finite_or_nan(sign * value, Limits<T>::highest);
        }
        __syncthreads();
        for (int c = warp; c < 32; c += 8)
            if (first_column + c < dim)
                lines[(sample * dim + first_column + c) * line_length + first_row + lane] = tile[lane][c];
        __syncthreads();
    }
}

// Copies `num_lines` lines, columns first .. first + tile_columns, to shared memory.
template <class T>
__device__ __forceinline__ void stage_lines(const T* lines, int padded_y, int first_column, int num_lines,
                                            int4* staged) {
    for (int pack = threadIdx.x; pack < 32 * num_lines; pack += pair_block_threads)
        staged[pack] = *reinterpret_cast<const int4*>(lines + int64_t(pack / 32) * padded_y + first_column +
                                                      pack % 32 * Pack<T>::size);
}

// Copies the begins of `count` components of `num_rows` rows to shared memory, row by row. The lines of each further
// component follow after `staged` lines.
template <class T>
__device__ __forceinline__ void stage_begins(const Prepared<T>& sides, int sample, int first_row, int num_rows,
                                             int component, int count, Begin<T>* begins) {
    const int size = sides.dim_per_component, values = count * size;
    const int exist = sides.num_components - component < count ? sides.num_components - component : count;
    for (int n = threadIdx.x; n < num_rows * values; n += pair_block_threads) {
        const int value = n % values;
        if (value >= exist * size) continue;
        const int64_t at = sides.first_in_row(sample, first_row + n / values, component) + value;
        begins[n] = {sides.sorted_x[at], sides.position[at] + value / size * size};
    }
}

// Where the intervals of one row begin and end: in shared memory, or in global memory if a component is too large.
template <class T, bool staged>
struct Intervals;
template <class T>
struct Intervals<T, true> {
    const Begin<T>* begins;
    const int4* ends;

    __device__ __forceinline__ Begin<T> begin(int k) const { return begins[k]; }
    __device__ __forceinline__ Pack<T> end(int line) const { return load_pack<T>(ends + 32 * line); }
};
template <class T>
struct Intervals<T, false> {
    const T* sorted_x;
    const int32_t* position;
    const T* ends;
    int padded_y;

    __device__ __forceinline__ Begin<T> begin(int k) const { return {sorted_x[k], position[k]}; }
    __device__ __forceinline__ Pack<T> end(int line) const { return load_pack<T>(ends + int64_t(line) * padded_y); }
};

// Hands out memory piece by piece, each aligned to 16 bytes; without memory behind it, it only counts.
struct Workspace {
    char* memory;
    int64_t used = 0;

    void* take(int64_t bytes) {
        void* piece = memory ? memory + used : nullptr;
        used += (bytes + 15) / 16 * 16;
        return piece;
    }
};

// A number of rows fits into 32 bits, even rounded up to tiles. A number of pairs has 64.
inline void check_sizes(const char* op, int64_t batch, int64_t num_x, int64_t num_y, int64_t num_components,
                        int64_t size) {
    check_row_size(op, num_components, size);
    if (std::max(batch, std::max(num_x, num_y)) > (int64_t(1) << 31) - 1024)
        throw std::runtime_error(std::string(op) + ": up to 2^31 - 1024 rows on a side, got " + std::to_string(num_x) +
                                 " and " + std::to_string(num_y) + " in " + std::to_string(batch) + " matrices");
}

// Memory of the prepared sides: both hold rows of dim = num_components * dim_per_component values.
template <class T>
struct SidesMemory {
    T* sorted;
    int32_t* position;
    T* lines;
};

template <class T>
SidesMemory<T> take_sides(Workspace& workspace, int64_t batch, int64_t num_x, int64_t num_y, int64_t dim) {
    auto* sorted = static_cast<T*>(workspace.take(batch * num_x * dim * sizeof(T)));
    auto* position = static_cast<int32_t*>(workspace.take(batch * num_x * dim * sizeof(int32_t)));
    return {sorted, position, static_cast<T*>(workspace.take(batch * padded(num_y) * dim * sizeof(T)))};
}

template <class T>
Prepared<T> prepare(const char* op, Workspace& workspace, const T* x, const T* y, T sign, int64_t batch, int64_t num_x,
                    int64_t num_y, int64_t num_components, int64_t size, Context context) {
    const int64_t dim = num_components * size, components = batch * num_x * num_components;
    const auto [sorted, position, lines] = take_sides<T>(workspace, batch, num_x, num_y, dim);
    const int64_t bytes = size * int64_t(sizeof(T) + sizeof(int32_t));
    int warps = 4;
    while (warps > 1 && warps * bytes > shared_bytes_without_asking) warps /= 2;
    launch(op, sort_components_kernel<T>, divide_up(components, warps), warps * 32, warps * bytes, context, x, sign,
           components, int(size), sorted, position);
    launch(op, transpose_kernel<T>, batch * (padded(num_y) / 32) * divide_up(dim, 32), 256, 0, context, y, sign, batch,
           num_y, dim, lines);
    return {sorted,   position, lines, int(batch), int(num_x), int(num_y), int(padded(num_y)), int(num_components),
            int(size)};
}

template <class T>
int64_t staged_bytes(int64_t size, int rows) {
    return size * (tile_columns<T> * int64_t(sizeof(T)) + rows * int64_t(sizeof(Begin<T>)));
}

}  // namespace

}  // namespace qmk::cuda
