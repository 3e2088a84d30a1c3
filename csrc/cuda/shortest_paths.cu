// Shortest paths between all nodes: Floyd and Warshall's closure by tiles, in the result's own memory, in the order of
// csrc/cpu/shortest_paths.cpp. Four launches per tile of nodes to go via. The third, for all pairs of other tiles, does
// nearly all of the work: two operations per way and node, on operands in shared memory, each read once for four ways.
//
// A graph with a length that is not at least 0 is marked by a NaN at its first place, which the closure leaves there.
#include <math.h>

#include "../math/shortest_paths.h"
#include "../ops/shortest_paths.h"
#include "launch.cuh"

namespace qmk::cuda {

namespace {

// A block's 256 threads hold a tile in registers, thread (row / 4, column / 4) 4 x 4 places of it.
constexpr int tile_size = 64, side = 4, tile_threads = (tile_size / side) * (tile_size / side), chunk = 16;

template <class T>
struct Graphs {
    T *distances, *next;
    int64_t batch, size, count;  // graphs, nodes, and tiles of nodes
};

// Where a tile is: its graph, and its rows and columns in units of tiles.
struct Place {
    int64_t graph, i, j;
};

template <class T>
__device__ __forceinline__ bool is_inside(const Graphs<T>& graphs, Place tile, int row, int column) {
    return tile.i * tile_size + row < graphs.size && tile.j * tile_size + column < graphs.size;
}

template <class T>
__device__ __forceinline__ int64_t offset(const Graphs<T>& graphs, Place tile, int row, int column) {
    return (tile.graph * graphs.size + tile.i * tile_size + row) * graphs.size + tile.j * tile_size + column;
}

template <class T>
__device__ __forceinline__ T length_at(const Graphs<T>& graphs, Place tile, int row, int column) {
    return is_inside(graphs, tile, row, column) ? graphs.distances[offset(graphs, tile, row, column)] : T(INFINITY);
}

// A thread's part of a tile.
template <class T, bool with_next>
struct Part {
    T length[side][side], next[with_next ? side : 1][with_next ? side : 1];
    const int row = int(threadIdx.x) / (tile_size / side) * side, column = int(threadIdx.x) % (tile_size / side) * side;

    __device__ __forceinline__ void load(const Graphs<T>& graphs, Place tile) {
#pragma unroll
        for (int r = 0; r < side; ++r)
#pragma unroll
            for (int c = 0; c < side; ++c) {
                length[r][c] = length_at(graphs, tile, row + r, column + c);
                if constexpr (with_next)
                    next[r][c] = is_inside(graphs, tile, row + r, column + c)
                                     ? graphs.next[offset(graphs, tile, row + r, column + c)]
                                     : T(-1);
            }
    }
    __device__ __forceinline__ void store(const Graphs<T>& graphs, Place tile) const {
#pragma unroll
        for (int r = 0; r < side; ++r)
#pragma unroll
            for (int c = 0; c < side; ++c)
                if (is_inside(graphs, tile, row + r, column + c)) {
                    graphs.distances[offset(graphs, tile, row + r, column + c)] = length[r][c];
                    if constexpr (with_next) graphs.next[offset(graphs, tile, row + r, column + c)] = next[r][c];
                }
    }
    // Goes via one node. to, first: the ways there from each row and their next nodes; from: the ways on to each
    // column.
    __device__ __forceinline__ void go_via(const T* to, const T* first, const T* from) {
        T on[side];
#pragma unroll
        for (int c = 0; c < side; ++c) on[c] = from[column + c];
#pragma unroll
        for (int r = 0; r < side; ++r) {
            const T there = to[row + r];
#pragma unroll
            for (int c = 0; c < side; ++c)
                if constexpr (with_next)
                    QMK_TARGET::shorten(length[r][c], next[r][c], there, first[row + r], on[c]);
                else
                    QMK_TARGET::shorten(length[r][c], there, on[c]);
        }
    }
};

template <class T>
__global__ void __launch_bounds__(tile_threads) shortest_paths_start_kernel(Graphs<T> graphs, const T* lengths) {
    const int64_t items = graphs.batch * graphs.size * graphs.size;
    for (int64_t i = int64_t(blockIdx.x) * tile_threads + threadIdx.x; i < items;
         i += int64_t(gridDim.x) * tile_threads) {
        const int64_t column = i % graphs.size, row = i / graphs.size % graphs.size;
        graphs.distances[i] = row == column ? T(0) : lengths[i];
        if (graphs.next) graphs.next[i] = T(column);
    }
}

template <class T>
__global__ void __launch_bounds__(tile_threads) shortest_paths_mark_kernel(Graphs<T> graphs, const T* lengths) {
    const int64_t items = graphs.size * graphs.size;
    for (int64_t i = int64_t(blockIdx.x) * tile_threads + threadIdx.x; i < graphs.batch * items;
         i += int64_t(gridDim.x) * tile_threads)
        if (!(lengths[i] >= T(0))) graphs.distances[i / items * items] = T(NAN);
}

template <class T>
__global__ void __launch_bounds__(tile_threads) shortest_paths_finish_kernel(Graphs<T> graphs) {
    const int64_t items = graphs.size * graphs.size;
    for (int64_t i = int64_t(blockIdx.x) * tile_threads + threadIdx.x; i < graphs.batch * items;
         i += int64_t(gridDim.x) * tile_threads) {
        const T mark = graphs.distances[i / items * items];
        if (mark != mark) graphs.distances[i] = mark;
        if (graphs.next && !(graphs.distances[i] < T(INFINITY))) graphs.next[i] = T(-1);
    }
}

// Shortens the ways to the nodes of tile k, one of these nodes after the other: of tile k itself, or of all other rows
// of tiles, each of which does the steps of tile k too.
template <class T, bool with_next, bool of_others>
__global__ void __launch_bounds__(tile_threads) shortest_paths_to_kernel(Graphs<T> graphs, int64_t k) {
    __shared__ T to[tile_size], first[tile_size], to_middle[tile_size], from[tile_size];
    const int64_t tiles = graphs.batch * (of_others ? graphs.count : 1);
    for (int64_t task = blockIdx.x; task < tiles; task += gridDim.x) {
        const Place tile{of_others ? task / graphs.count : task, of_others ? task % graphs.count : k, k};
        if (of_others && tile.i == k) continue;
        Part<T, with_next> part;
        Part<T, false> middle;
        part.load(graphs, tile);
        if constexpr (of_others) middle.load(graphs, Place{tile.graph, k, k});
        for (int node = 0; node < tile_size; node += side)
#pragma unroll
            for (int q = 0; q < side; ++q) {
#pragma unroll
                for (int s = 0; s < side; ++s) {
                    if (part.column == node) {
                        to[part.row + s] = part.length[s][q];
                        if constexpr (with_next) first[part.row + s] = part.next[s][q];
                        if constexpr (of_others) to_middle[part.row + s] = middle.length[s][q];
                    }
                    if (part.row == node) from[part.column + s] = of_others ? middle.length[q][s] : part.length[q][s];
                }
                __syncthreads();
                part.go_via(to, first, from);
                if constexpr (of_others) middle.go_via(to_middle, nullptr, from);
                __syncthreads();
            }
        part.store(graphs, tile);
    }
}

// Shortens the ways to all nodes outside tile k: those from tile k, or from all others. Unless one block of a
// multiprocessor may take all registers, the compiler saves some by spilling (sm_86).
template <class T, bool with_next, bool of_others>
__global__ void __launch_bounds__(tile_threads, 1) shortest_paths_from_kernel(Graphs<T> graphs, int64_t k) {
    __shared__ T to[chunk][tile_size], first[with_next ? chunk : 1][tile_size], from[chunk][tile_size];
    const int64_t count = graphs.count, tiles = graphs.batch * count * (of_others ? count : 1);
    for (int64_t task = blockIdx.x; task < tiles; task += gridDim.x) {
        const Place tile{of_others ? task / count / count : task / count, of_others ? task / count % count : k,
                         task % count};
        if ((of_others && tile.i == k) || tile.j == k) continue;
        const Place there{tile.graph, tile.i, k}, on{tile.graph, k, tile.j};
        Part<T, with_next> part;
        part.load(graphs, tile);
        for (int begin = 0; begin < tile_size; begin += chunk) {
            for (int i = threadIdx.x; i < chunk * tile_size; i += tile_threads) {
                const int row = i / chunk, node = i % chunk;
                to[node][row] = length_at(graphs, there, row, begin + node);
                if constexpr (with_next)
                    first[node][row] = is_inside(graphs, there, row, begin + node)
                                           ? graphs.next[offset(graphs, there, row, begin + node)]
                                           : T(-1);
                from[i / tile_size][i % tile_size] = length_at(graphs, on, begin + i / tile_size, i % tile_size);
            }
            __syncthreads();
#pragma unroll
            for (int node = 0; node < chunk; ++node) part.go_via(to[node], first[with_next ? node : 0], from[node]);
            __syncthreads();
        }
        part.store(graphs, tile);
    }
}

template <class T, bool with_next>
void close_graphs(const Graphs<T>& graphs, Context context) {
    const char* op = "shortest_paths_forward";
    const int64_t count = graphs.count, row = graphs.batch * count;
    for (int64_t k = 0; k < count; ++k) {
        launch(op, shortest_paths_to_kernel<T, with_next, true>, row, tile_threads, 0, context, graphs, k);
        launch(op, shortest_paths_to_kernel<T, with_next, false>, graphs.batch, tile_threads, 0, context, graphs, k);
        launch(op, shortest_paths_from_kernel<T, with_next, true>, row * count, tile_threads, 0, context, graphs, k);
        launch(op, shortest_paths_from_kernel<T, with_next, false>, row, tile_threads, 0, context, graphs, k);
    }
}

}  // namespace

template <class T>
void shortest_paths_forward(const ShortestPathsForward<T>& call, Context context) {
    const char* op = "shortest_paths_forward";
    const Graphs<T> graphs{call.distances, call.next, call.batch, call.size, divide_up(call.size, tile_size)};
    const int64_t blocks = divide_up(call.batch * call.size * call.size, tile_threads);
    const DeviceGuard guard(context.device, op);
    launch(op, shortest_paths_start_kernel<T>, blocks, tile_threads, 0, context, graphs, call.lengths);
    launch(op, shortest_paths_mark_kernel<T>, blocks, tile_threads, 0, context, graphs, call.lengths);
    if (call.next)
        close_graphs<T, true>(graphs, context);
    else
        close_graphs<T, false>(graphs, context);
    launch(op, shortest_paths_finish_kernel<T>, blocks, tile_threads, 0, context, graphs);
}

QMK_INSTANTIATE(shortest_paths_forward, ShortestPathsForward, Context)

}  // namespace qmk::cuda
