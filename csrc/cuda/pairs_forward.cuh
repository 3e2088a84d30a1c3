// All pairs of rows of x and y, forward: kernels and launchers. A head's operations per value of N * M * D.
#pragma once

#include "pair_tiles.cuh"

namespace qmk::cuda {

namespace {

template <class T, class Head>
struct ForwardPairs {
    Head head;
    Packs packs;
    const T *x, *y;
    T* out;
    T* partial;  // (splits, pairs): the sum of whole components; or (splits, numbers, pairs): the Sums of part of one
    int batch, num_x, num_y;
    int splits, splits_a_component, packs_per_split;  // splits_a_component > 1: each split is part of one component
    bool by_component;

    __host__ __device__ __forceinline__ int64_t num_pairs() const { return int64_t(batch) * num_x * num_y; }
};

constexpr int forward_packs = 8;  // of a slice

// A block handles a tile of pairs for the packs of its split. While it adds up a slice, it copies the next one.
template <class T, class Head>
__global__ void __launch_bounds__(tile_threads, sizeof(T) == 4 ? 3 : 2)
    forward_pairs_kernel(ForwardPairs<T, Head> task) {
    constexpr int R = thread_rows, C = thread_columns;
    using Sums = typename Head::Sums;
    constexpr int numbers = sizeof(Sums) / sizeof(T);
    constexpr int packs_per_row = staged_row(forward_packs);
    __shared__ int4 staged[2][(tile_rows + tile_columns) * packs_per_row];
    const Packs& packs = task.packs;
    const int tx = threadIdx.x % column_step, ty = threadIdx.x / column_step;
    const int tiles_y = (task.num_y + tile_columns - 1) / tile_columns;
    const int tiles_x = (task.num_x + tile_rows - 1) / tile_rows;
    const int64_t tiles_in_split = int64_t(tiles_x) * tiles_y, tiles = task.batch * task.splits * tiles_in_split;
    for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const int first_column = int(tile % tiles_y) * tile_columns;
        const int first_row = int(tile / tiles_y % tiles_x) * tile_rows;
        const int split = int(tile / tiles_in_split % task.splits);
        const int sample = int(tile / tiles_in_split / task.splits);
        const bool parts = task.splits_a_component > 1;
        const int split_component = split / task.splits_a_component * (parts ? packs.in_component : 0);
        const int first_pack =
            split_component + split % (parts ? task.splits_a_component : task.splits) * task.packs_per_split;
        const int limit = parts ? split_component + packs.in_component : packs.num_components * packs.in_component;
        const int last_pack = limit - first_pack < task.packs_per_split ? limit : first_pack + task.packs_per_split;
        const T* x = task.x + int64_t(sample) * task.num_x * packs.dim();
        const T* y = task.y + int64_t(sample) * task.num_y * packs.dim();
        const auto& head = task.head.of(sample);
        Sums sums[R][C];
        T totals[R][C];
#pragma unroll
        for (int r = 0; r < R; ++r)
#pragma unroll
            for (int c = 0; c < C; ++c) totals[r][c] = T(0);
        // Calls `store_at(pair, r, c)` for this thread's pairs.
        const auto for_each_pair = [&](auto&& store_at) {
            const int i = first_row + ty * R, j = first_column + tx;
#pragma unroll
            for (int r = 0; r < R; ++r)
#pragma unroll
                for (int c = 0; c < C; ++c)
                    if (i + r < task.num_x && j + c * column_step < task.num_y)
                        store_at((int64_t(sample) * task.num_x + i + r) * task.num_y + j + c * column_step, r, c);
        };
        const auto packs_of_slice = [&](int first) {
            return last_pack - first < forward_packs ? last_pack - first : forward_packs;
        };
        const auto start_copy = [&](int first, int4* to) {
            const int count = packs_of_slice(first);
            stage_rows<T, tile_rows, forward_packs, true, Copy::beside>(task.head, packs, x, T(1), first_row,
                                                                        task.num_x, first, count, to);
            stage_rows<T, tile_columns, forward_packs, false, Copy::beside>(
                task.head, packs, y, T(1), first_column, task.num_y, first, count, to + tile_rows * packs_per_row);
            __pipeline_commit();
        };
        // Takes the sums of a whole component.
        const auto finish = [&](int component) {
            if (parts) return;
            T values[R][C];
            head.with_form([&](auto form) {
#pragma unroll
                for (int r = 0; r < R; ++r)
#pragma unroll
                    for (int c = 0; c < C; ++c) values[r][c] = head.weighted(sums[r][c], form, component);
            });
#pragma unroll
            for (int r = 0; r < R; ++r)
#pragma unroll
                for (int c = 0; c < C; ++c) {
                    totals[r][c] += values[r][c];
                    sums[r][c] = {};
                }
            if (task.by_component)
                for_each_pair([&](int64_t pair, int r, int c) {
                    task.out[pair * packs.num_components + component] = values[r][c];
                });
        };
        int4 *here = staged[0], *other = staged[1];
        __syncthreads();
        start_copy(first_pack, here);
        PackInRow next{first_pack / packs.in_component, first_pack % packs.in_component};
        for (int slice = first_pack; slice < last_pack; slice += forward_packs) {
            __pipeline_wait_prior(0);
            __syncthreads();
            if (slice + forward_packs < last_pack) start_copy(slice + forward_packs, other);
            add_packs<T, forward_packs>(task.head, packs, here, here + tile_rows * packs_per_row, next,
                                        packs_of_slice(slice), sums, finish);
            int4* const copied = other;
            other = here;
            here = copied;
        }
        if (parts)
            for_each_pair([&](int64_t pair, int r, int c) {
                T values[numbers];
                __builtin_memcpy(values, &sums[r][c], sizeof(Sums));
#pragma unroll
                for (int n = 0; n < numbers; ++n)
                    task.partial[(int64_t(split) * numbers + n) * task.num_pairs() + pair] = values[n];
            });
        else if (!task.by_component)
            for_each_pair([&](int64_t pair, int r, int c) {
                T* to = task.splits == 1 ? task.out : task.partial + split * task.num_pairs();
                to[pair] = totals[r][c];
            });
    }
}

template <class T, class Head>
__global__ void __launch_bounds__(256) merge_parts_kernel(ForwardPairs<T, Head> task) {
    constexpr int numbers = sizeof(typename Head::Sums) / sizeof(T);
    const int64_t pairs = task.num_pairs();
    for (int64_t pair = int64_t(blockIdx.x) * 256 + threadIdx.x; pair < pairs; pair += int64_t(gridDim.x) * 256) {
        const auto& head = task.head.of(pair / (int64_t(task.num_x) * task.num_y));
        T total = T(0);
        int64_t at = pair;
        for (int component = 0; component < task.packs.num_components; ++component) {
            typename Head::Sums sums;
            for (int part = 0; part < task.splits_a_component; ++part) {
                T values[numbers];
#pragma unroll
                for (int n = 0; n < numbers; ++n, at += pairs) values[n] = task.partial[at];
                typename Head::Sums more;
                __builtin_memcpy(&more, values, sizeof(more));
                sums.merge(more);
            }
            const T value = head.weighted(sums, head.form(), component);
            if (task.by_component) task.out[pair * task.packs.num_components + component] = value;
            total += value;
        }
        if (!task.by_component) task.out[pair] = total;
    }
}

// How forward's work is split over blocks: by components or, if those are too few, by parts of components.
struct ForwardSplits {
    int64_t splits, splits_a_component, packs_per_split;
};
template <class T>
ForwardSplits forward_splits(const Packs& packs, int64_t batch, int64_t num_x, int64_t num_y) {
    const int64_t tiles = batch * divide_up(num_x, tile_rows) * divide_up(num_y, tile_columns);
    const int64_t components = packs.num_components, all_packs = components * packs.in_component;
    if (tiles == 0 || 2 * tiles >= enough_blocks) return {1, 1, all_packs};
    const int64_t wanted = divide_up(enough_blocks, tiles);
    if (components >= wanted || packs.in_component <= forward_packs) {
        const int64_t in_split = divide_up(components, std::min(components, wanted));
        return {divide_up(components, in_split), 1, in_split * packs.in_component};
    }
    const int64_t slices = divide_up(packs.in_component, forward_packs);
    const int64_t slices_per_split = divide_up(slices, std::min(slices, divide_up(wanted, components)));
    const int64_t parts = divide_up(slices, slices_per_split);
    return {components * parts, parts, parts == 1 ? packs.in_component : slices_per_split * forward_packs};
}

template <class T, class Head>
int64_t forward_pairs_workspace(const Packs& packs, int64_t batch, int64_t num_x, int64_t num_y) {
    const auto [splits, parts, packs_per_split] = forward_splits<T>(packs, batch, num_x, num_y);
    if (splits == 1) return 0;
    return splits * batch * num_x * num_y * int64_t(parts > 1 ? sizeof(typename Head::Sums) : sizeof(T));
}

template <class T, class Head>
void launch_forward_pairs(const char* op, Head head, Segments segments, const T* x, const T* y, T* out, void* workspace,
                          int64_t batch, int64_t num_x, int64_t num_y, int64_t num_components, bool by_component,
                          Context context) {
    const Packs packs = packs_of(segments, num_components, x, y);
    const auto [splits, parts, packs_per_split] = forward_splits<T>(packs, batch, num_x, num_y);
    auto* partial = static_cast<T*>(workspace);
    const ForwardPairs<T, Head> task{head,        packs,      x,          y,           out,        partial,
                                     int(batch),  int(num_x), int(num_y), int(splits), int(parts), int(packs_per_split),
                                     by_component};
    launch(op, forward_pairs_kernel<T, Head>,
           batch * splits * divide_up(num_x, tile_rows) * divide_up(num_y, tile_columns), tile_threads, 0, context,
           task);
    const int64_t pairs = batch * num_x * num_y;
    if (parts > 1)
        launch(op, merge_parts_kernel<T, Head>, divide_up(pairs, 256), 256, 0, context, task);
    else if (splits > 1 && !by_component)
        launch(op, add_splits_kernel<T>, divide_up(pairs, 256), 256, 0, context, partial, splits, pairs, out);
}

}  // namespace

}  // namespace qmk::cuda
