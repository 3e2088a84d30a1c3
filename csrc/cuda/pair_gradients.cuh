// Backward of all pairs: a tile's slopes in shared memory, and what one slice adds to the gradients of the tile's rows,
// in registers or, of the placed kind (component.cuh), in shared memory.
#pragma once

#include "pair_tiles.cuh"

namespace qmk::cuda {

namespace {

template <class T>
constexpr int backward_packs = sizeof(T) == 4 ? 16 : 8;  // of a slice
constexpr int warps_in_tile = tile_threads / 32;
static_assert(tile_rows == 32);  // a lane adds up placed gradients of one row

// The slopes of a tile of pairs, number by number, with neighbouring rows side by side.
template <class T, class Head>
struct TileSlopes {
    using Slopes = typename Head::Slopes;
    static constexpr int V = Pack<T>::size, numbers = sizeof(Slopes) / sizeof(T);
    static constexpr int other_stride = tile_rows + V, number_stride = tile_columns * other_stride;
    T* memory;

    __device__ __forceinline__ T* at(int number, int other, int row) const {
        return memory + number * number_stride + other * other_stride + row;
    }
    __device__ __forceinline__ void store(int other, int first_row, const Slopes (&slopes)[thread_rows]) const {
        T values[thread_rows][numbers];
        __builtin_memcpy(values, &slopes, sizeof(slopes));
#pragma unroll
        for (int n = 0; n < numbers; ++n)
#pragma unroll
            for (int r = 0; r < thread_rows; r += V) {
                Pack<T> pack;
#pragma unroll
                for (int v = 0; v < V; ++v) pack.values[v] = values[r + v][n];
                store_pack(at(n, other, first_row + r), pack);
            }
    }
    __device__ __forceinline__ void load(int other, int first_row, Slopes (&slopes)[thread_rows]) const {
        T values[thread_rows][numbers];
#pragma unroll
        for (int n = 0; n < numbers; ++n)
#pragma unroll
            for (int r = 0; r < thread_rows; r += V) {
                const Pack<T> pack = load_pack<T>(at(n, other, first_row + r));
#pragma unroll
                for (int v = 0; v < V; ++v) values[r + v][n] = pack.values[v];
            }
        __builtin_memcpy(&slopes, values, sizeof(slopes));
    }
    __device__ __forceinline__ Slopes load(int other, int row) const {
        T values[numbers];
#pragma unroll
        for (int n = 0; n < numbers; ++n) values[n] = *at(n, other, row);
        Slopes slopes;
        __builtin_memcpy(&slopes, values, sizeof(slopes));
        return slopes;
    }
};

// Gradients of placed kinds in one slice, of a tile's rows: each warp adds up those of its pairs, a lane for each row.
template <class T>
struct PlacedGradients {
    T* memory;  // (warps, values, 32 rows), 0 from one slice to the next
    int values;

    __device__ __forceinline__ T* of(int warp) const { return memory + warp * values * 32 + threadIdx.x % 32; }

    __device__ __forceinline__ void clear() const {
        for (int n = threadIdx.x; n < warps_in_tile * values * 32; n += tile_threads) memory[n] = T(0);
    }
    // Adds this warp's share of a tile: of `count` values, of which the first is at `first_place`.
    template <class Head>
    __device__ __forceinline__ void add(const TileSlopes<T, Head>& slopes, int columns, int first_place,
                                        int count) const {
        constexpr int in_share = tile_columns / warps_in_tile;
        T* const sums = of(threadIdx.x / 32);
        const int first = threadIdx.x / 32 * in_share, others = columns - first < in_share ? columns - first : in_share;
        bool is_elsewhere = false;
        const auto slopes_of = [&](int n) { return slopes.load(first + n, threadIdx.x % 32); };
#pragma unroll 4
        for (int n = 0; n < others; ++n) {
            const auto own = slopes_of(n);
            const int place = int(own.place) - first_place;
            if (unsigned(place) < unsigned(count)) sums[place * 32] += Head::at_place(own, true);
            is_elsewhere |= Head::at_place(own, false) != T(0);
        }
        for (int n = 0; is_elsewhere && n < others; ++n) {
            const auto own = slopes_of(n);
            const T elsewhere = Head::at_place(own, false);
            for (int value = 0; elsewhere != T(0) && value < count; ++value)
                if (value != int(own.place) - first_place) sums[value * 32] += elsewhere;
        }
    }
    // The sums of all warps, after which they are 0.
    __device__ __forceinline__ T take(int n) const {
        T sum = T(0);
#pragma unroll
        for (int warp = 0; warp < warps_in_tile; ++warp) {
            sum += of(warp)[n * 32];
            of(warp)[n * 32] = T(0);
        }
        return sum;
    }
};

// Finds the places of the largest differences up to a slice, where a pack of this slice has them; `placed` are its
// packs of the placed kind.
template <class T, int slice_packs, class Head, class Sums>
__device__ __forceinline__ void find_places(const Head& head, const Packs& packs, PackRange placed, int slice,
                                            const int4* staged_rows, const int4* staged_others,
                                            Sums (&sums)[thread_rows][thread_columns]) {
    constexpr int V = Pack<T>::size, packs_per_row = staged_row(slice_packs);
    if (placed.count() == 0) return;
    const int place_of_slice = pack_place<V>(packs, placed.begin).place - (placed.begin - slice) * V;
    const int4* own_x = staged_rows + threadIdx.x / column_step * thread_rows * packs_per_row;
    const int4* own_y = staged_others + threadIdx.x % column_step * packs_per_row;
#pragma unroll
    for (int r = 0; r < thread_rows; ++r)
#pragma unroll
        for (int c = 0; c < thread_columns; ++c) {
            const int pack = sums[r][c].at > 0 ? sums[r][c].at : 0;
            const int value = head.find(sums[r][c], load_pack<T>(own_x + r * packs_per_row + pack),
                                        load_pack<T>(own_y + c * column_step * packs_per_row + pack));
            if (sums[r][c].at >= 0) sums[r][c].at = -2 - (place_of_slice + pack * V + value);
        }
}

// Adds the gradients of one pack, of a kind that is not placed, of four rows over other rows from `begin` to `end`.
template <class T, int slice_packs, class Head>
__device__ __forceinline__ void add_summed(const Head& head, const TileSlopes<T, Head>& tile_slopes, PackPlace at,
                                           const int4* rows_at, const int4* others_at, int first_row, int begin,
                                           int end, T (&grads)[thread_rows][Pack<T>::size]) {
    constexpr int R = thread_rows, V = Pack<T>::size, packs_per_row = staged_row(slice_packs);
    with_kind<Head::kinds>(at.kind, [&](auto kind) {
        if constexpr (decltype(kind)::value != Head::placed_kind) {
            Pack<T> x[R];
#pragma unroll
            for (int r = 0; r < R; ++r) x[r] = load_pack<T>(rows_at + (first_row + r) * packs_per_row);
#pragma unroll 4
            for (int other = begin; other < end; ++other) {
                const Pack<T> y = load_pack<T>(others_at + other * packs_per_row);
                typename Head::Slopes slopes[R];
                tile_slopes.load(other, first_row, slopes);
#pragma unroll
                for (int r = 0; r < R; ++r)
#pragma unroll
                    for (int v = 0; v < V; ++v)
                        grads[r][v] += head.template gradient<decltype(kind)::value>(slopes[r], x[r].values[v],
                                                                                     y.values[v], T(at.place + v));
            }
        }
    });
}

}  // namespace

}  // namespace qmk::cuda
