// Finite scalar quantisation on CPUs, for one instruction set. All values form one long row: value i has the constants
// of level i % n, so a vector's constants repeat after n vectors. A block's levels stay in cache until they are summed
// into indices. Forward reads z and writes codes and indices; backward reads z and the gradient and writes one.
#include "../ops/fsq.h"

#include "../math/fsq.h"
#include "lanes.h"
#include "parallel.h"

namespace qmk::QMK_TARGET {

namespace {

constexpr int most_block_values = 1024, blocks_per_task = 16;

// The constants of n vectors, after which they repeat.
template <class T>
struct Period {
    FsqConstants<Lanes<T>> vectors[most_fsq_levels];
    int n;

    Period(const int64_t* levels, int n) : n(n) {
        for (int i = 0; i < n * num_lanes<T>; ++i) {
            const auto constants = fsq_constants<T>(levels[i % n]);
            const int v = i / num_lanes<T>, lane = i % num_lanes<T>;
            vectors[v].shift[lane] = constants.shift;
            vectors[v].half[lane] = constants.half;
            vectors[v].offset[lane] = constants.offset;
            vectors[v].width[lane] = constants.width;
        }
    }
};

// Calls run(first value, number of values) for blocks of whole periods; the last may be shorter.
template <class T, class Run>
QMK_INLINE void for_each_block(int64_t groups, int n, int threads, Run&& run) {
    const int64_t values = groups * n, period = n * num_lanes<T>, block = most_block_values / period * period;
    const int64_t per_task = blocks_per_task * block;
    parallel_for((values + per_task - 1) / per_task, threads_for(values, per_task, threads), [&](int64_t task) {
        const int64_t end = (task + 1) * per_task < values ? (task + 1) * per_task : values;
        for (int64_t first = task * per_task; first < end; first += block)
            run(first, end - first < block ? end - first : block);
    });
}

// Calls run(first value, number of values, constants) for the vectors of a block.
template <class T, class Run>
QMK_INLINE void for_each_vector(int64_t values, const Period<T>& period, Run&& run) {
    constexpr int lanes = num_lanes<T>;
    int64_t i = 0;
    int v = 0;
    for (; i + lanes <= values; i += lanes) {
        run(i, lanes, period.vectors[v]);
        v = v + 1 == period.n ? 0 : v + 1;
    }
    if (i < values) run(i, int(values - i), period.vectors[v]);
}

template <class T>
QMK_INLINE Lanes<T> load_some(const T* from, int count) {
    if (count == num_lanes<T>) return load<Lanes<T>>(from);
    T padded[num_lanes<T>] = {};
    __builtin_memcpy(padded, from, count * sizeof(T));
    return load<Lanes<T>>(padded);
}

template <class T>
QMK_INLINE void store_some(T* to, Lanes<T> vector, int count) {
    if (count == num_lanes<T>)
        store(to, vector);
    else
        __builtin_memcpy(to, &vector, count * sizeof(T));
}

// A level of T's size.
template <class T>
using Level = decltype(IndexLanes<T>{}[0] + 0);

// The indices of groups of `fixed` values, or n where fixed is 0.
template <int fixed, class Level>
QMK_INLINE void sum_levels(const Level* levels, const int64_t* places, int n, int64_t groups, int64_t* indices) {
    const int size = fixed ? fixed : n;
    for (int64_t group = 0; group < groups; ++group) {
        int64_t index = levels[group * size];
        for (int j = 1; j < size; ++j) index += levels[group * size + j] * places[j];
        indices[group] = index;
    }
}

template <class Level>
QMK_INLINE void write_indices(const Level* levels, const int64_t* places, int n, int64_t groups, int64_t* indices) {
    if (n == 1)
        sum_levels<1>(levels, places, n, groups, indices);
    else if (n == 2)
        sum_levels<2>(levels, places, n, groups, indices);
    else if (n == 3)
        sum_levels<3>(levels, places, n, groups, indices);
    else if (n == 4)
        sum_levels<4>(levels, places, n, groups, indices);
    else
        sum_levels<0>(levels, places, n, groups, indices);
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
void fsq_forward(const FsqForward<T>& call, int threads) {
    const int n = int(call.levels.count);
    const int64_t groups = call.groups, *levels = call.levels.values;
    int64_t* indices = call.indices;
    T* codes = call.codes;
    const T* z = call.z;
    const Period<T> period(levels, n);
    int64_t places[most_fsq_levels] = {1};
    for (int j = 1; j < n; ++j) places[j] = places[j - 1] * levels[j - 1];

    for_each_block<T>(groups, n, threads, [&](int64_t first, int64_t values) {
        Level<T> found[most_block_values];
        IndexLanes<T> nan{};
        for_each_vector<T>(values, period, [&](int64_t i, int count, const FsqConstants<Lanes<T>>& constants) {
            const auto result = fsq_quantised<T, IndexLanes<T>>(load_some(z + first + i, count), constants);
            store_some(codes + first + i, result.code, count);
            store(found + i, result.level);  // past the end of a last, partial vector, but within the block
            nan |= result.level < 0;
        });
        int64_t* to = indices + first / n;
        write_indices(found, places, n, values / n, to);
        if (any(nan))
            for (int64_t i = 0; i < values; ++i)
                if (found[i] < 0) to[i / n] = -1;
    });
}

template <class T>
void fsq_backward(const FsqBackward<T>& call, int threads) {
    const int n = int(call.levels.count);
    const int64_t groups = call.groups, *levels = call.levels.values;
    T* grad_z = call.grad_z;
    const T *grad_codes = call.grad_codes, *z = call.z;
    const Period<T> period(levels, n);
    for_each_block<T>(groups, n, threads, [&](int64_t first, int64_t values) {
        for_each_vector<T>(values, period, [&](int64_t i, int count, const FsqConstants<Lanes<T>>& constants) {
            const Lanes<T> slope = fsq_slope<T>(load_some(z + first + i, count), constants);
            store_some(grad_z + first + i, Lanes<T>(load_some(grad_codes + first + i, count) * slope), count);
        });
    });
}

QMK_INSTANTIATE(fsq_forward, FsqForward, int)
QMK_INSTANTIATE(fsq_backward, FsqBackward, int)

}  // namespace qmk::QMK_TARGET
