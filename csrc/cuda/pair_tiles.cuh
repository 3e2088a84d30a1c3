// All pairs of rows of x and y for heads of component.cuh: what forward (pairs_forward.cuh) and backward
// (pairs_backward.cuh) share.
//
// A block handles 32 x 64 pairs, 4 x 4 per thread, over slices of rows that it stages in shared memory. A staged row is
// 16 bytes longer than its slice, so that neighbouring threads read neighbouring rows from all banks. A component's
// segments are padded to whole packs there, so each pack belongs to one component and one kind.
//
// Little work is split over more blocks, forward by values, backward by rows of the other side, with a workspace of one
// or two numbers per result and split. The rule depends only on the sizes, so that the result is the same on every
// device.
//
// Memory: nothing of size N * M * D. Precision: all arithmetic in T; the order of every sum is fixed, without atomics.
#pragma once

#include <cuda_pipeline_primitives.h>

#include <type_traits>

#include "component.cuh"

namespace qmk::cuda {

namespace {

constexpr int tile_rows = 32, tile_columns = 64, tile_threads = 128;
constexpr int thread_rows = 4, thread_columns = 4;  // a thread's pairs: neighbouring rows, every 16th column
constexpr int column_step = tile_columns / thread_columns;
constexpr int64_t enough_blocks = 512;

// From one row of a slice to the next in shared memory, in packs.
constexpr int staged_row(int slice_packs) {
    return slice_packs + 1;
}

// The packs of a row. `second` is a component's first pack of its second segment.
struct Packs {
    Segments segments;
    int num_components;
    int second, in_component;
    bool whole;  // every pack has 16 bytes of values, aligned to 16 bytes

    __host__ __device__ __forceinline__ int dim() const { return num_components * segments.total(); }
};

// Some packs of a component: all of one segment, or those of a slice.
struct PackRange {
    int begin, end;
    __host__ __device__ __forceinline__ int count() const { return end > begin ? end - begin : 0; }
    __host__ __device__ __forceinline__ PackRange within(int first, int last) const {
        return {begin > first ? begin : first, end < last ? end : last};
    }
};
// The packs of the placed kind (component.cuh), and those of another one.
template <class Head>
__host__ __device__ __forceinline__ PackRange placed_packs(const Packs& packs) {
    if (packs.second > 0 && packs.segments.kind[0] == Head::placed_kind) return {0, packs.second};
    if (packs.segments.kind[1] == Head::placed_kind) return {packs.second, packs.in_component};
    return {0, 0};
}
template <class Head>
__host__ __device__ __forceinline__ PackRange summed_packs(const Packs& packs) {
    const PackRange placed = placed_packs<Head>(packs);
    if (placed.count() == 0) return {0, packs.in_component};
    return placed.begin > 0 ? PackRange{0, placed.begin} : PackRange{placed.end, packs.in_component};
}

// One pack: its kind, the index of its first value in the component, and its number of values.
struct PackPlace {
    int kind, place, count;
};
template <int V>
__device__ __forceinline__ PackPlace pack_place(const Packs& packs, int in_component) {
    const bool is_second = in_component >= packs.second;
    const int first = packs.segments.size[0], before = (in_component - (is_second ? packs.second : 0)) * V;
    const int left = (is_second ? packs.segments.size[1] : first) - before;
    return {is_second ? packs.segments.kind[1] : packs.segments.kind[0], is_second ? first + before : before,
            left < V ? left : V};
}

// Calls `body(kind)` with the kind as a type.
template <int kinds, class Body>
__device__ __forceinline__ void with_kind(int kind, Body&& body) {
    if constexpr (kinds == 1) {
        body(std::integral_constant<int, 0>{});
    } else {
        if (kind == kinds - 1)
            body(std::integral_constant<int, kinds - 1>{});
        else
            with_kind<kinds - 1>(kind, body);
    }
}

// How whole packs are copied: while the threads go on, or times a sign.
enum class Copy { beside, with_sign };

// Copies `num_packs` packs of `num_rows` rows to shared memory; for a row past the last, those of the last. Padding in
// a pack is 0, or on the side of x the head's padding.
template <class T, int num_rows, int slice_packs, bool is_x, Copy copy, class Head>
__device__ __forceinline__ void stage_rows(const Head& head, const Packs& packs, const T* rows, T sign, int first_row,
                                           int count, int first_pack, int num_packs, int4* staged) {
    constexpr int V = Pack<T>::size, step = tile_threads / slice_packs, packs_per_row = staged_row(slice_packs);
    const int p = threadIdx.x % slice_packs, r = threadIdx.x / slice_packs;
    if (p >= num_packs) return;
    int4* to = staged + r * packs_per_row + p;
    const auto row_at = [&](const T* rows, int n) {
        const int row = first_row + r + n * step, last = count - 1;
        return rows + int64_t(row < last ? row : last) * packs.dim();
    };
    if (packs.whole) {
        const T* first = rows + (first_pack + p) * V;
#pragma unroll
        for (int n = 0; n < num_rows / step; ++n) {
            if constexpr (copy == Copy::beside) {
                __pipeline_memcpy_async(to + n * step * packs_per_row, row_at(first, n), 16);
            } else {
                Pack<T> pack = load_pack<T>(row_at(first, n));
#pragma unroll
                for (int v = 0; v < V; ++v) pack.values[v] *= sign;
                store_pack(to + n * step * packs_per_row, pack);
            }
        }
    } else {
        const int component = (first_pack + p) / packs.in_component;
        const auto [kind, place, values] = pack_place<V>(packs, first_pack + p - component * packs.in_component);
        const T padding = is_x ? head.padding(kind) : T(0);
        const T* first = rows + component * packs.segments.total() + place;
#pragma unroll 1
        for (int n = 0; n < num_rows / step; ++n) {
            const T* from = row_at(first, n);
            Pack<T> pack;
#pragma unroll
            for (int v = 0; v < V; ++v) pack.values[v] = v < values ? sign * from[v] : padding;
            store_pack(to + n * step * packs_per_row, pack);
        }
    }
}

// A pack of a row: the component, and the pack's index in it.
struct PackInRow {
    int component, in_component;
};

// Adds `num_packs` staged packs, of which the first is `next`, to the sums of this thread's pairs, and calls
// `finish(component)` after the last pack of a component. Moves `next` behind them.
template <class T, int slice_packs, class Head, class Sums, class Finish>
__device__ __forceinline__ void add_packs(const Head& head, const Packs& packs, const int4* staged_x,
                                          const int4* staged_y, PackInRow& next, int num_packs,
                                          Sums (&sums)[thread_rows][thread_columns], Finish&& finish) {
    constexpr int V = Pack<T>::size, packs_per_row = staged_row(slice_packs);
    const int4* own_x = staged_x + threadIdx.x / column_step * thread_rows * packs_per_row;
    const int4* own_y = staged_y + threadIdx.x % column_step * packs_per_row;
    for (int left = num_packs; left > 0;) {
        const PackPlace at = pack_place<V>(packs, next.in_component);
        const int of_kind = (next.in_component < packs.second ? packs.second : packs.in_component) - next.in_component;
        const int count = of_kind < left ? of_kind : left;
        with_kind<Head::kinds>(at.kind, [&](auto kind) {
            int pack = num_packs - left;
#pragma unroll 1  // unrolled, it would not fit into registers
            for (const int end = pack + count; pack < end; ++pack, ++own_x, ++own_y) {
                Pack<T> y[thread_columns];
#pragma unroll
                for (int c = 0; c < thread_columns; ++c) y[c] = load_pack<T>(own_y + c * column_step * packs_per_row);
#pragma unroll
                for (int r = 0; r < thread_rows; ++r) {
                    const Pack<T> x = load_pack<T>(own_x + r * packs_per_row);
#pragma unroll
                    for (int c = 0; c < thread_columns; ++c)
                        head.template add_pack<decltype(kind)::value>(sums[r][c], x, y[c], pack);
                }
            }
        });
        left -= count;
        next.in_component += count;
        if (next.in_component == packs.in_component) {
            finish(next.component++);
            next.in_component = 0;
        }
    }
}

// out[n] = the sum over splits of partial[split][n].
template <class T>
__global__ void __launch_bounds__(256) add_splits_kernel(const T* partial, int64_t splits, int64_t count, T* out) {
    for (int64_t n = int64_t(blockIdx.x) * 256 + threadIdx.x; n < count; n += int64_t(gridDim.x) * 256) {
        T sum = T(0);
        for (int64_t at = n; at < splits * count; at += count) sum += partial[at];
        out[n] = sum;
    }
}

template <class T>
Packs packs_of(Segments segments, int64_t num_components, const T* x, const T* y) {
    constexpr int V = Pack<T>::size;
    const int second = int(divide_up(segments.size[0], V));
    const bool whole =
        segments.size[0] % V == 0 && segments.size[1] % V == 0 && is_aligned_to_16(x) && is_aligned_to_16(y);
    return {segments, int(num_components), second, second + int(divide_up(segments.size[1], V)), whole};
}

// A number of rows fits into 32 bits, even rounded up to tiles. A number of pairs has 64.
inline void check_pairs(const char* op, int64_t batch, int64_t num_x, int64_t num_y) {
    if (std::max(batch, std::max(num_x, num_y)) > (int64_t(1) << 31) - 1024)
        throw std::runtime_error(std::string(op) + ": up to 2^31 - 1024 rows on a side, got " + std::to_string(num_x) +
                                 " and " + std::to_string(num_y) + " in " + std::to_string(batch) + " matrices");
}

}  // namespace

}  // namespace qmk::cuda
