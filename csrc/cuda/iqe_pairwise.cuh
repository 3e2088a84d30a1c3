// IQE of all pairs of rows of x and y: what the forward and backward kernels share.
//
// Only x decides the order of a component's intervals, so each row of x is sorted once. Then a thread scans the sorted
// x for 16 bytes of neighbouring y (4 float, 2 double), which are adjacent because y is transposed first; x and the
// position of its y are the same for the whole warp. While a block scans a chunk of components, it copies the next one
// to shared memory.
//
// Memory: the sorted rows, their positions and the transposed rows, D values each; nothing of size N * M * D.
// Precision: all arithmetic in T. The order of every sum is fixed, without atomics: the same input gives the same bits.
#pragma once

#include <cuda_pipeline_primitives.h>

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

// Columns (rows of y) of one tile: `packs` per thread of a warp.
template <class T, int packs = 1>
constexpr int tile_columns = packs * 32 * Pack<T>::size;

// Lines of the transposed y hold whole tiles of either type, so that they are read without a test.
constexpr int64_t padded(int64_t count) {
    return count <= 128 ? 128 : (count + 255) / 256 * 256;
}

// One interval of a sorted row: where it begins, and where the line of the transposed y with its ends is among its
// chunk's lines, in steps of the line's width in shared memory.
template <class T>
struct alignas(2 * sizeof(T)) Begin {
    T x;
    int32_t line_at;
};

// Bytes of a line in shared memory: `packs` of 16 bytes for each thread of a warp.
constexpr int line_bytes(int packs) {
    return 512 * packs;
}

// A component's intervals are filled up with empty ones, which begin at the largest number and change no length.
constexpr int64_t padded_size(int64_t size) {
    return (size + 7) / 8 * 8;
}

// What is staged at a time: components of 32 coordinates together, or a single one. Chunks are counted from the first
// component of a row.
struct PairChunk {
    int components, lines, begins;  // begins of each row
};

inline PairChunk pair_chunk(int64_t size) {
    const int components = int(std::max<int64_t>(32 / padded_size(size), 1));
    return {components, components * int(size), components * int(padded_size(size))};
}

// Both sides of the problem, prepared.
template <class T>
struct Prepared {
    const Begin<T>* begins;  // (batch, num_x, C, padded_size), ascending
    const T* lines;          // (batch, C, K, padded_y): y, transposed
    int batch, num_x, num_y, padded_y;
    int num_components, dim_per_component, padded_size;
    PairChunk chunk;

    // The first of a row's components, in rows of `size` values each; for a row past the last, that of the last.
    __device__ __forceinline__ int64_t first_in_row(int sample, int row, int component, int size) const {
        const int clamped = row < num_x ? row : num_x - 1;
        return ((int64_t(sample) * num_x + clamped) * num_components + component) * size;
    }
    __device__ __forceinline__ const Begin<T>* begins_in_row(int sample, int row, int component) const {
        return begins + first_in_row(sample, row, component, padded_size);
    }
    __device__ __forceinline__ const T* component_lines(int sample, int component) const {
        return lines + (int64_t(sample) * num_components + component) * dim_per_component * padded_y;
    }
    __host__ __device__ __forceinline__ int64_t num_pairs() const { return int64_t(batch) * num_x * num_y; }
};

// One warp sorts one component at a time, in shared memory: `size` values and positions per warp.
template <class T>
__global__ void __launch_bounds__(128)
    sort_components_kernel(const T* rows, T sign, int64_t count, int num_components, int size, int in_chunk,
                           int line_width, Begin<T>* begins) {
    extern __shared__ int4 dynamic_shared[];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    T* keys = reinterpret_cast<T*>(dynamic_shared) + warp * size;
    int32_t* places = reinterpret_cast<int32_t*>(reinterpret_cast<T*>(dynamic_shared) + warps * size) + warp * size;
    for (int64_t c = int64_t(blockIdx.x) * warps + warp; c < count; c += int64_t(gridDim.x) * warps) {
        for (int k = lane; k < size; k += 32) {
            keys[k] = finite_or_nan(sign * rows[c * size + k], Limits<T>::highest);
            places[k] = k;
        }
        __syncwarp();
        sort_by_warp(size, lane, keys, places);
        const int padded = int(padded_size(size)), first_line = int(c % num_components) % in_chunk * size;
        for (int k = lane; k < padded; k += 32)
            begins[c * padded + k] = {k < size ? keys[k] : Limits<T>::highest,
                                      (first_line + (k < size ? places[k] : 0)) * line_width};
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

// Copies lines to shared memory, some columns of each: `packs` per thread of a warp. Without registers in between,
// while the block computes.
template <class T, int packs>
struct LineCopy {
    static constexpr int in_line = 32 * packs, at_once = pair_block_threads / in_line;
    const int line = threadIdx.x / in_line;
    const T* from;  // this thread's first pack

    __device__ __forceinline__ LineCopy(const T* lines, int padded_y, int first_column)
        : from(lines + int64_t(line) * padded_y + first_column + threadIdx.x % in_line * Pack<T>::size) {}

    __device__ __forceinline__ void start(int num_lines, int padded_y, int4* staged) const {
        const T* next = from;
        int4* to = staged + threadIdx.x;
#pragma unroll 1
        for (int left = num_lines - line; left > 0; left -= 4 * at_once) {
#pragma unroll
            for (int n = 0; n < 4; ++n) {
                if (n == 0 || left > n * at_once) __pipeline_memcpy_async(to + n * pair_block_threads, next, 16);
                next += int64_t(at_once) * padded_y;
            }
            to += 4 * pair_block_threads;
        }
    }
};

// Copies begins of `num_rows` rows to shared memory, `stride` from one row to the next there.
template <class T, int num_rows>
struct BeginCopy {
    static constexpr int in_pack = Pack<Begin<T>>::size, threads_per_row = pair_block_threads / num_rows;
    const int first = threadIdx.x % threads_per_row * in_pack;
    const Begin<T>* from;  // this thread's first pack
    const int to;

    __device__ __forceinline__ BeginCopy(const Prepared<T>& sides, int sample, int component, int first_row, int stride)
        : from(sides.begins_in_row(sample, first_row + threadIdx.x / threads_per_row, component) + first),
          to(threadIdx.x / threads_per_row * stride + first) {}

    __device__ __forceinline__ void start(int count, int4* staged) const {
#pragma unroll 1
        for (int n = 0; n < count - first; n += threads_per_row * in_pack)
            __pipeline_memcpy_async(reinterpret_cast<Begin<T>*>(staged) + to + n, from + n, 16);
    }
};

// Where the intervals of one row begin and end: in shared memory, or in global memory if a component is too large.
template <class T, bool staged, int packs>
struct Intervals;
template <class T, int packs>
struct Intervals<T, true, packs> {
    const Begin<T>* begins;
    const int4* ends;

    __device__ __forceinline__ Pack<T> end(int line_at, int pack) const {
        return load_pack<T>(reinterpret_cast<const char*>(ends + 32 * pack) + line_at);
    }
};
template <class T, int packs>
struct Intervals<T, false, packs> {
    const Begin<T>* begins;
    const T* ends;
    int padded_y;

    __device__ __forceinline__ Pack<T> end(int line, int pack) const {  // lines have width 1
        return load_pack<T>(ends + int64_t(line) * padded_y + pack * tile_columns<T>);
    }
};

// Shared memory of a chunk, with the begins of some rows.
template <class T>
__host__ __device__ constexpr int packs_of_chunk(const PairChunk& chunk, int rows, int packs) {
    return 32 * packs * chunk.lines + rows * chunk.begins / Pack<Begin<T>>::size;
}

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

// Memory of the prepared sides: both hold rows of num_components components of `size` values.
template <class T>
struct SidesMemory {
    Begin<T>* begins;
    T* lines;
};

template <class T>
SidesMemory<T> take_sides(Workspace& workspace, int64_t batch, int64_t num_x, int64_t num_y, int64_t num_components,
                          int64_t size) {
    const int64_t begins = batch * num_x * num_components * padded_size(size);
    const int64_t ends = batch * padded(num_y) * num_components * size;
    auto* memory = static_cast<Begin<T>*>(workspace.take(begins * sizeof(Begin<T>)));
    return {memory, static_cast<T*>(workspace.take(ends * sizeof(T)))};
}

template <class T>
Prepared<T> prepare(const char* op, Workspace& workspace, const T* x, const T* y, T sign, int64_t batch, int64_t num_x,
                    int64_t num_y, int64_t num_components, int64_t size, int line_width, Context context) {
    const int64_t dim = num_components * size, components = batch * num_x * num_components;
    const PairChunk chunk = pair_chunk(size);
    const auto [begins, lines] = take_sides<T>(workspace, batch, num_x, num_y, num_components, size);
    const int64_t bytes = size * int64_t(sizeof(T) + sizeof(int32_t));
    int warps = 4;
    while (warps > 1 && warps * bytes > shared_bytes_without_asking) warps /= 2;
    launch(op, sort_components_kernel<T>, divide_up(components, warps), warps * 32, warps * bytes, context, x, sign,
           components, int(num_components), int(size), chunk.components, line_width, begins);
    launch(op, transpose_kernel<T>, batch * (padded(num_y) / 32) * divide_up(dim, 32), 256, 0, context, y, sign, batch,
           num_y, dim, lines);
    return {begins,
            lines,
            int(batch),
            int(num_x),
            int(num_y),
            int(padded(num_y)),
            int(num_components),
            int(size),
            int(padded_size(size)),
            chunk};
}

}  // namespace

}  // namespace qmk::cuda
