// Nearest neighbours on CPUs, for one instruction set: few distances of a tile are below the largest of the k so far,
// so most of a row is only compared with that one, a vector at a time; smaller ones are inserted in order.
#include "../ops/nearest.h"

#include "../math/nearest.h"
#include "lanes.h"
#include "parallel.h"

namespace qmk::QMK_TARGET {

namespace {

// Inserts a distance that comes before the last of the k places.
template <class T>
QMK_INLINE void insert(T distance, int64_t index, T* values, int64_t* indices, int64_t k) {
    int64_t place = k - 1;
    for (; place > 0 && goes_before(distance, Neighbour<T>{values[place - 1], indices[place - 1]}); --place) {
        values[place] = values[place - 1];
        indices[place] = indices[place - 1];
    }
    values[place] = distance;
    indices[place] = index;
}

template <class Mask>
QMK_INLINE bool any(Mask mask) {
    uint64_t words[sizeof(Mask) / sizeof(uint64_t)], seen = 0;
    __builtin_memcpy(words, &mask, sizeof(Mask));
    for (uint64_t word : words) seen |= word;
    return seen != 0;
}

}  // namespace

template <class T>
void nearest_merge(const NearestMerge<T>& call, int threads) {
    const int64_t rows = call.rows, columns = call.columns, k = call.k, first = call.first;
    int64_t* indices = call.indices;
    T* values = call.values;
    const T* distances = call.distances;
    constexpr int n = num_lanes<T>;
    constexpr int64_t rows_per_task = 8;
    const int64_t tasks = (rows + rows_per_task - 1) / rows_per_task;
    parallel_for(tasks, threads_for(rows * columns, 1 << 15, threads), [=](int64_t task) {
        const int64_t end = (task + 1) * rows_per_task < rows ? (task + 1) * rows_per_task : rows;
        for (int64_t row = task * rows_per_task; row < end; ++row) {
            const T* from = distances + row * columns;
            T *to = values + row * k, *last = to + k - 1;
            int64_t* places = indices + row * k;
            const auto consider = [&](int64_t j) {
                if (goes_before(from[j], Neighbour<T>{*last, places[k - 1]})) insert(from[j], first + j, to, places, k);
            };
            int64_t j = 0;
            for (; j < columns && (places[k - 1] < 0 || *last != *last); ++j) consider(j);
            for (; j + 4 * n <= columns; j += 4 * n) {
                const T most = *last;
                auto below = load<Lanes<T>>(from + j) < most;
                for (int v = 1; v < 4; ++v) below |= load<Lanes<T>>(from + j + v * n) < most;
                if (any(below))
                    for (int64_t i = j; i < j + 4 * n; ++i) consider(i);
            }
            for (; j < columns; ++j) consider(j);
        }
    });
}

QMK_INSTANTIATE(nearest_merge, NearestMerge, int)

}  // namespace qmk::QMK_TARGET
