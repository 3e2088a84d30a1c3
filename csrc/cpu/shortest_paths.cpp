// Shortest paths between all nodes on CPUs, for one instruction set: Floyd and Warshall's closure by tiles. Per tile of
// nodes to go via, the ways to these nodes are closed node by node; then the ways to all others are a product of minima
// of sums, which takes nearly all of the time.
//
// Cost: size^3 additions and as many minima, that is two operations per register; `next` adds a comparison and a
// choice. A product holds a block of the result in registers, reads two tiles from the cache, and writes each tile once
// per `tile_size` nodes. The graph is copied into tiles, padded with infinity, so that no loop has an end of its own.
#include "../ops/shortest_paths.h"

#include <limits>

#include "../math/shortest_paths.h"
#include "lanes.h"
#include "parallel.h"
#include "workspace.h"

namespace qmk::QMK_TARGET {

namespace {

constexpr int tile_size = 64, tile_items = tile_size * tile_size;

// Ways from one tile of nodes to another, row by row. next: null if it is not wanted.
template <class T>
struct Tile {
    T *lengths, *next;
};

// Shortens a tile's ways by those via `depth` nodes: `to` leads there, `from` on. They must be other memory.
template <class T, bool with_next>
void go_via(Tile<T> ways, Tile<T> to, const T* from, int rows, int columns, int depth) {
    constexpr int n = num_lanes<T>;
    constexpr bool has_32_registers = QMK_LANE_BYTES == 64;
    constexpr int height = with_next && !has_32_registers ? 2 : 4, width = with_next || !has_32_registers ? 2 : 4;
    for (int j = 0; j < columns; j += width * n)
        for (int i = 0; i < rows; i += height) {
            Lanes<T> length[height][width], next[height][width];
            for (int r = 0; r < height; ++r)
                for (int c = 0; c < width; ++c) {
                    length[r][c] = load<Lanes<T>>(ways.lengths + (i + r) * tile_size + j + c * n);
                    if constexpr (with_next) next[r][c] = load<Lanes<T>>(ways.next + (i + r) * tile_size + j + c * n);
                }
            for (int k = 0; k < depth; ++k) {
                Lanes<T> on[width];
                for (int c = 0; c < width; ++c) on[c] = load<Lanes<T>>(from + k * tile_size + j + c * n);
                for (int r = 0; r < height; ++r) {
                    const int place = (i + r) * tile_size + k;
                    const Lanes<T> there = load_broadcast(to.lengths + place);
                    if constexpr (with_next) {
                        const Lanes<T> first = load_broadcast(to.next + place);
                        for (int c = 0; c < width; ++c) shorten(length[r][c], next[r][c], there, first, on[c]);
                    } else {
                        for (int c = 0; c < width; ++c) shorten(length[r][c], there, on[c]);
                    }
                }
            }
            for (int r = 0; r < height; ++r)
                for (int c = 0; c < width; ++c) {
                    store(ways.lengths + (i + r) * tile_size + j + c * n, length[r][c]);
                    if constexpr (with_next) store(ways.next + (i + r) * tile_size + j + c * n, next[r][c]);
                }
        }
}

// Shortens, in place, a tile's ways to the nodes of one tile by those via these nodes, one after the other. on: row k
// holds the ways on from node k, as they are when its turn comes.
template <class T, bool with_next>
void go_via_each(Tile<T> ways, const T* on, int k, int rows, int columns) {
    constexpr int n = num_lanes<T>;
    for (int i = 0; i < rows; ++i) {
        const int row = i * tile_size;
        const Lanes<T> there = load_broadcast(ways.lengths + row + k);
        [[maybe_unused]] Lanes<T> first;
        if constexpr (with_next) first = load_broadcast(ways.next + row + k);
        for (int j = 0; j < columns; j += n) {
            Lanes<T> length = load<Lanes<T>>(ways.lengths + row + j);
            const Lanes<T> from = load<Lanes<T>>(on + j);
            if constexpr (with_next) {
                Lanes<T> next = load<Lanes<T>>(ways.next + row + j);
                shorten(length, next, there, first, from);
                store(ways.next + row + j, next);
            } else {
                shorten(length, there, from);
            }
            store(ways.lengths + row + j, length);
        }
    }
}

// The tiles of one graph.
template <class T, bool with_next>
struct Graph {
    Tile<T> tiles;
    int64_t size, count;  // of nodes, of tiles along a side
    int threads;

    Tile<T> tile(int64_t i, int64_t j) const {
        const int64_t first = (i * count + j) * tile_items;
        return {tiles.lengths + first, with_next ? tiles.next + first : nullptr};
    }
    int nodes_of(int64_t i) const { return int(size - i * tile_size < tile_size ? size - i * tile_size : tile_size); }

    // Calls run(i, j, row, column, is_inside) for all places of all tiles.
    template <class Run>
    void for_each_place(Run&& run) const {
        parallel_for(count * count, threads_for(size * size, 1 << 15, threads), [&](int64_t task) {
            const int64_t i = task / count, j = task % count;
            const Tile<T> here = tile(i, j);
            const int rows = nodes_of(i), columns = nodes_of(j);
            for (int row = 0; row < tile_size; ++row)
                for (int column = 0; column < tile_size; ++column)
                    run(here, row * tile_size + column, i * tile_size + row, j * tile_size + column,
                        row < rows && column < columns);
        });
    }

    void read(const T* lengths) const {
        for_each_place([&](Tile<T> here, int place, int64_t row, int64_t column, bool is_inside) {
            const T none = std::numeric_limits<T>::infinity();
            here.lengths[place] = !is_inside ? none : row == column ? T(0) : lengths[row * size + column];
            if constexpr (with_next) here.next[place] = T(column);
        });
    }

    void write(T* distances, T* next) const {
        for_each_place([&](Tile<T> here, int place, int64_t row, int64_t column, bool is_inside) {
            if (!is_inside) return;
            const T length = here.lengths[place];
            distances[row * size + column] = length;
            if constexpr (with_next) next[row * size + column] = length - length == T(0) ? here.next[place] : T(-1);
        });
    }

    // Shortens all ways by those via the nodes of tile k: first the ways to these nodes, of which each may lead via
    // others of them; then those to all other nodes, whose last node of tile k is the one they are divided at.
    void go_via_tile(int64_t k) const {
        const int depth = nodes_of(k), used = threads_for(size * size * depth, 1 << 18, threads);
        const Tile<T> middle = tile(k, k);
        alignas(64) T on[tile_items];
        for (int node = 0; node < depth; ++node) {
            __builtin_memcpy(on + node * tile_size, middle.lengths + node * tile_size, tile_size * sizeof(T));
            go_via_each<T, with_next>(middle, on + node * tile_size, node, depth, depth);
        }
        const T* from = on;
        parallel_for(count, used, [&](int64_t i) {
            if (i == k) return;
            for (int node = 0; node < depth; ++node)
                go_via_each<T, with_next>(tile(i, k), from + node * tile_size, node, nodes_of(i), depth);
        });
        parallel_for(count * count, used, [&](int64_t task) {
            const int64_t i = task / count, j = task % count;
            if (i != k && j != k)
                go_via<T, with_next>(tile(i, j), tile(i, k), tile(k, j).lengths, nodes_of(i), nodes_of(j), depth);
        });
        parallel_for(count, used, [&](int64_t j) {
            if (j == k) return;
            alignas(64) T before[tile_items];
            __builtin_memcpy(before, tile(k, j).lengths, sizeof(before));
            go_via<T, with_next>(tile(k, j), middle, before, depth, nodes_of(j), depth);
        });
    }
};

template <class T>
bool are_lengths(const T* values, int64_t count) {
    bool all = true;
    for (int64_t i = 0; i < count; ++i) all &= values[i] >= T(0);
    return all;
}

template <class T, bool with_next>
void close_graph(const T* lengths, T* distances, T* next, int64_t size, int threads) {
    if (!are_lengths(lengths, size * size)) {
        for (int64_t i = 0; i < size * size; ++i) {
            distances[i] = std::numeric_limits<T>::quiet_NaN();
            if constexpr (with_next) next[i] = T(-1);
        }
        return;
    }
    const int64_t count = (size + tile_size - 1) / tile_size;
    const auto memory = scratch([=](Workspace& workspace) {
        const int64_t items = count * count * tile_items;
        T* tiles = workspace.take<T>(items);
        return Tile<T>{tiles, with_next ? workspace.take<T>(items) : nullptr};
    });
    const Graph<T, with_next> graph{memory.pieces, size, count, threads};
    graph.read(lengths);
    for (int64_t k = 0; k < count; ++k) graph.go_via_tile(k);
    graph.write(distances, next);
}

}  // namespace

template <class T>
void shortest_paths_forward(const ShortestPathsForward<T>& call, int threads) {
    const int64_t items = call.size * call.size;
    // A thread for each of many graphs, or all for one after the other.
    const bool one_each = call.batch >= threads;
    parallel_for(call.batch, one_each ? threads_for(call.batch * items * call.size, 1 << 18, threads) : 1,
                 [&](int64_t graph) {
                     const T* lengths = call.lengths + graph * items;
                     T* distances = call.distances + graph * items;
                     const int inside = one_each ? 1 : threads;
                     if (call.next)
                         close_graph<T, true>(lengths, distances, call.next + graph * items, call.size, inside);
                     else
                         close_graph<T, false>(lengths, distances, nullptr, call.size, inside);
                 });
}

QMK_INSTANTIATE(shortest_paths_forward, ShortestPathsForward, int)

}  // namespace qmk::QMK_TARGET
