// Prepares both sides of a pairwise IQE for the scans: sorts one side's rows once, and lays out the other's as lanes.
#pragma once

#include "lanes.h"
#include "parallel.h"
#include "workspace.h"

namespace qmk::QMK_TARGET {

namespace {

// One side of the problem: `count` rows of a matrix, unchanged or negated.
template <class T>
struct Side {
    const T* rows;
    int64_t count;
    T sign;
};

// Rows of x ready to scan: per row and component, the values in ascending order, and for each where its y begins in a
// block of columns (`Columns`).
template <class T>
struct SortedRows {
    T* values;
    int32_t* offsets;
};

// Vectors of y side by side: [component][block of `width` rows][k][row in the block]. Copies of the last row fill the
// last block.
template <class T>
struct Columns {
    T* values;
    int64_t num_blocks;
};

// Vectors of y scanned at once: four hide the latency; fewer waste no lanes on few rows.
template <class T>
int vectors_at_once(int64_t num_columns) {
    return num_columns > 2 * num_lanes<T> ? 4 : num_columns > num_lanes<T> ? 2 : 1;
}

template <class T>
int64_t padded(int64_t num_columns) {
    const int64_t width = vectors_at_once<T>(num_columns) * num_lanes<T>;
    return (num_columns + width - 1) / width * width;
}

template <class T>
SortedRows<T> take_sorted_rows(Workspace& workspace, int64_t count, int64_t dim) {
    T* values = workspace.take<T>(count * dim);
    return {values, workspace.take<int32_t>(count * dim)};
}

template <class T>
Columns<T> take_columns(Workspace& workspace, int64_t count, int64_t dim) {
    const int64_t width = vectors_at_once<T>(count) * num_lanes<T>;
    return {workspace.take<T>(padded<T>(count) * dim), padded<T>(count) / width};
}

// Sorts components first .. first + num_lanes of all rows' components, of which there are `limit`.
template <class T>
void sort_components(Side<T> side, int64_t first, int64_t limit, int64_t size, int width, Lanes<T>* keys,
                     SortedRows<T> sorted) {
    const int last_lane = limit - first < num_lanes<T> ? int(limit - first) - 1 : num_lanes<T> - 1;
    auto* positions = reinterpret_cast<IndexLanes<T>*>(keys + size);
    load_columns(side.rows + first * size, size, last_lane, int(size), keys);
    for (int64_t k = 0; k < size; ++k) {
        keys[k] = finite_or_nan(keys[k] * side.sign, broadcast(Limits<T>::highest));
        positions[k] = int32_t(k * width) - IndexLanes<T>{};
    }
    if (size == 8)
        sort_fixed<8>(keys, positions);
    else
        sort_any(int(size), keys, positions);
    for (int lane = 0; lane <= last_lane; ++lane)
        for (int64_t k = 0; k < size; ++k) {
            sorted.values[(first + lane) * size + k] = keys[k][lane];
            sorted.offsets[(first + lane) * size + k] = int32_t(positions[k][lane]);
        }
}

template <class T>
void sort_rows(Side<T> side, int64_t num_components, int64_t size, int width, SortedRows<T> sorted, int threads) {
    const int64_t limit = side.count * num_components, per_task = 64 * num_lanes<T>;
    parallel_for((limit + per_task - 1) / per_task, threads_for(limit * size, 1 << 13, threads), [&](int64_t task) {
        const auto keys =
            scratch<128 * sizeof(Lanes<T>)>([=](Workspace& workspace) { return workspace.take<Lanes<T>>(2 * size); });
        const int64_t end = (task + 1) * per_task < limit ? (task + 1) * per_task : limit;
        for (int64_t c = task * per_task; c < end; c += num_lanes<T>)
            sort_components(side, c, end, size, width, keys.pieces, sorted);
    });
}

template <class T>
void pack_columns(Side<T> side, int64_t num_components, int64_t size, Columns<T> columns, int threads) {
    constexpr int n = num_lanes<T>;
    const int64_t dim = num_components * size, vectors = vectors_at_once<T>(side.count), width = vectors * n;
    parallel_for(columns.num_blocks * vectors, threads_for(side.count * dim, 1 << 13, threads), [&](int64_t task) {
        const int64_t block = task / vectors, column = task % vectors * n;
        const int64_t first = block * width + column < side.count ? block * width + column : side.count - 1;
        const int last_lane = side.count - first < n ? int(side.count - first) - 1 : n - 1;
        constexpr int strip = 16;
        Lanes<T> lanes[strip];
        for (int64_t k = 0; k < dim; k += strip) {
            const int count = dim - k < strip ? int(dim - k) : strip;
            load_columns(side.rows + first * dim + k, dim, last_lane, count, lanes);
            for (int i = 0; i < count; ++i) {
                const int64_t component = (k + i) / size, place = (k + i) % size;
                store(columns.values + ((component * columns.num_blocks + block) * size + place) * width + column,
                      finite_or_nan(lanes[i] * side.sign, broadcast(Limits<T>::highest)));
            }
        }
    });
}

}  // namespace

}  // namespace qmk::QMK_TARGET
