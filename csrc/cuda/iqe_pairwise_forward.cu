// IQE of all pairs of rows of x and y, forward: kernels and launchers. 4 operations per element of N * M * D.
//
// Few pairs of rows are split by components over more blocks, with a workspace of three numbers per pair and split.
#include "iqe_pairwise.cuh"
#include "max_weight.cuh"

namespace qmk::cuda {

namespace {

template <class T>
struct PairwiseForward {
    Prepared<T> sides;
    MaxWeight<T> max;
    T* out;
    int32_t* largest;
    T *partial_sum, *partial_maximum;  // (splits, pairs), if splits > 1
    int32_t* partial_largest;
    int splits, components_per_split;
    Reduction reduction;
};

constexpr int forward_rows = 2;  // rows of x per thread

// What a forward kernel does with the lengths: stores them, sums them, or also finds the largest.
enum class Wanted { lengths, sum, maximum };

template <class T>
__device__ __forceinline__ void store_reduced(const PairwiseForward<T>& task, int64_t pair, const RowSummary<T>& row) {
    const T weight = weight_of_row(task.max, pair, task.sides.num_pairs());
    task.out[pair] = reduced(task.reduction, row.sum, row.maximum, task.sides.num_components, weight);
    if (task.largest) task.largest[pair] = row.largest;
}

// A block handles 16 rows of x by 32 packs of y, for the components of its split.
template <class T, int K, bool staged, Wanted wanted>
__global__ void __launch_bounds__(pair_block_threads, 2) iqe_pairwise_forward_kernel(PairwiseForward<T> task) {
    constexpr int V = Pack<T>::size, R = forward_rows, tile_rows = R * warps_per_block;
    extern __shared__ int4 dynamic_shared[];
    const auto& sides = task.sides;
    const int size = K ? K : sides.dim_per_component, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int4* staged_ends = dynamic_shared;
    auto* staged_begins = reinterpret_cast<Begin<T>*>(dynamic_shared + 32 * size);
    const int tiles_y = (sides.num_y + tile_columns<T> - 1) / tile_columns<T>;
    const int tiles_x = (sides.num_x + tile_rows - 1) / tile_rows;
    const int64_t tiles_in_split = int64_t(tiles_x) * tiles_y, tiles = sides.batch * task.splits * tiles_in_split;
    for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const int first_column = int(tile % tiles_y) * tile_columns<T>;
        const int first_row = int(tile / tiles_y % tiles_x) * tile_rows;
        const int split = int(tile / tiles_in_split % task.splits);
        const int sample = int(tile / tiles_in_split / task.splits);
        const int first = split * task.components_per_split, past = first + task.components_per_split;
        const int last = past < sides.num_components ? past : sides.num_components;
        // Calls `pair_at(r, v, pair)` for this thread's pairs.
        const auto for_each_pair = [&](auto&& pair_at) {
            const int i = first_row + warp * R, j = first_column + lane * V;
#pragma unroll
            for (int r = 0; r < R; ++r)
#pragma unroll
                for (int v = 0; v < V; ++v)
                    if (i + r < sides.num_x && j + v < sides.num_y)
                        pair_at(r, v, (int64_t(sample) * sides.num_x + i + r) * sides.num_y + j + v);
        };
        RowSummary<T> rows[R][V];
        for (int component = first; component < last; ++component) {
            const T* lines = sides.component_lines(sample, component);
            Intervals<T, staged> intervals[R];
            if constexpr (staged) {
                __syncthreads();
                stage_lines(lines, sides.padded_y, first_column, size, staged_ends);
                stage_begins(sides, sample, first_row, tile_rows, component, 1, staged_begins);
                __syncthreads();
            }
#pragma unroll
            for (int r = 0; r < R; ++r) {
                if constexpr (staged) {
                    intervals[r] = {staged_begins + (warp * R + r) * size, staged_ends + lane};
                } else {
                    const int64_t at = sides.first_in_row(sample, first_row + warp * R + r, component);
                    intervals[r] = {sides.sorted_x + at, sides.position + at, lines + first_column + lane * V,
                                    sides.padded_y};
                }
            }
            IqeLength<T> scans[R][V];
#pragma unroll
            for (int r = 0; r < R; ++r)
#pragma unroll
                for (int v = 0; v < V; ++v) scans[r][v] = {-Limits<T>::highest, T(0)};
#pragma unroll 4
            for (int k = 0; k < size; ++k) {
#pragma unroll
                for (int r = 0; r < R; ++r) {
                    const Begin<T> begin = intervals[r].begin(k);
                    const Pack<T> ends = intervals[r].end(begin.line);
#pragma unroll
                    for (int v = 0; v < V; ++v) scans[r][v].add(begin.x, ends.values[v]);
                }
            }
            if constexpr (wanted == Wanted::lengths)
                for_each_pair([&](int r, int v, int64_t pair) {
                    task.out[pair * sides.num_components + component] = scans[r][v].length;
                });
#pragma unroll
            for (int r = 0; r < R; ++r)
#pragma unroll
                for (int v = 0; v < V; ++v) {
                    if constexpr (wanted == Wanted::maximum)
                        rows[r][v].add(scans[r][v].length, component);
                    else
                        rows[r][v].sum += scans[r][v].length;
                }
        }
        if constexpr (wanted != Wanted::lengths)
            for_each_pair([&](int r, int v, int64_t pair) {
                if (task.splits == 1) {
                    store_reduced(task, pair, rows[r][v]);
                } else {
                    const int64_t at = split * sides.num_pairs() + pair;
                    task.partial_sum[at] = rows[r][v].sum;
                    if constexpr (wanted == Wanted::maximum) {
                        task.partial_maximum[at] = rows[r][v].maximum;
                        task.partial_largest[at] = rows[r][v].largest;
                    }
                }
            });
    }
}

template <class T>
__global__ void __launch_bounds__(256) merge_splits_kernel(PairwiseForward<T> task) {
    const bool ranked = needs_largest(task.reduction);
    const int64_t pairs = task.sides.num_pairs();
    for (int64_t pair = int64_t(blockIdx.x) * 256 + threadIdx.x; pair < pairs; pair += int64_t(gridDim.x) * 256) {
        RowSummary<T> row;
        for (int64_t at = pair; at < task.splits * pairs; at += pairs)
            row.merge(task.partial_sum[at], ranked ? task.partial_maximum[at] : T(-1),
                      ranked ? task.partial_largest[at] : 0);
        store_reduced(task, pair, row);
    }
}

// Few tiles do not fill a device, so their components are split over more blocks. The rule depends only on the sizes,
// so that the result is the same on every device.
int64_t components_per_split(int64_t item_size, int64_t batch, int64_t num_x, int64_t num_y, int64_t num_components) {
    const int64_t tiles = batch * divide_up(num_x, forward_rows * warps_per_block) * divide_up(num_y, 512 / item_size);
    const int64_t enough = 512;
    return tiles == 0 || 2 * tiles >= enough ? num_components : divide_up(num_components, divide_up(enough, tiles));
}

// Parts of the reduction, per split and pair.
template <class T>
struct PartialMemory {
    T *sum, *maximum;
    int32_t* largest;
};

template <class T>
PartialMemory<T> take_partial(Workspace& workspace, int64_t count) {
    auto* sum = static_cast<T*>(workspace.take(count * sizeof(T)));
    auto* maximum = static_cast<T*>(workspace.take(count * sizeof(T)));
    return {sum, maximum, static_cast<int32_t*>(workspace.take(count * sizeof(int32_t)))};
}

template <class T, int K, bool staged>
void launch_pairwise_forward(const PairwiseForward<T>& task, Context context) {
    constexpr int tile_rows = forward_rows * warps_per_block;
    const auto& sides = task.sides;
    const auto kernel = task.reduction == Reduction::none ? iqe_pairwise_forward_kernel<T, K, staged, Wanted::lengths>
                        : needs_largest(task.reduction)   ? iqe_pairwise_forward_kernel<T, K, staged, Wanted::maximum>
                                                          : iqe_pairwise_forward_kernel<T, K, staged, Wanted::sum>;
    const int64_t tiles = int64_t(sides.batch) * task.splits * divide_up(sides.num_x, tile_rows) *
                          divide_up(sides.num_y, tile_columns<T>);
    launch("iqe_pairwise_forward", kernel, tiles, pair_block_threads,
           staged ? staged_bytes<T>(sides.dim_per_component, tile_rows) : 0, context, task);
}

}  // namespace

template <class T>
int64_t iqe_pairwise_forward_scratch(const IqePairwiseForward<T>& call) {
    const auto [batch, num_x, num_y, num_components, size] = call.shape;
    Workspace workspace{nullptr};
    take_sides<T>(workspace, batch, num_x, num_y, num_components * size);
    const int64_t in_split = components_per_split(sizeof(T), batch, num_x, num_y, num_components);
    if (in_split < num_components)
        take_partial<T>(workspace, divide_up(num_components, in_split) * batch * num_x * num_y);
    return workspace.used;
}

template <class T>
void iqe_pairwise_forward(const IqePairwiseForward<T>& call, Context context) {
    const Reduction reduction = call.reduction;
    const int64_t batch = call.shape.batch, num_x = call.shape.num_x, num_y = call.shape.num_y,
                  num_components = call.shape.num_components, size = call.shape.dim_per_component;
    void* memory = call.scratch;
    int32_t* largest = call.largest;
    T* out = call.out;
    const T *x = call.x, *y = call.y;
    const char* op = "iqe_pairwise_forward";
    check_sizes(op, batch, num_x, num_y, num_components, size);
    if (batch * num_x * num_y * num_components == 0) return;
    const DeviceGuard guard(context.device, op);
    Workspace workspace{static_cast<char*>(memory)};
    PairwiseForward<T> task{};
    task.sides = prepare(op, workspace, x, y, T(1), batch, num_x, num_y, num_components, size, context);
    task.max = call.max;
    task.out = out;
    task.largest = largest;
    task.reduction = reduction;
    task.components_per_split = int(components_per_split(sizeof(T), batch, num_x, num_y, num_components));
    task.splits = int(divide_up(num_components, task.components_per_split));
    if (task.splits > 1) {
        const auto partial = take_partial<T>(workspace, task.splits * batch * num_x * num_y);
        task.partial_sum = partial.sum;
        task.partial_maximum = partial.maximum;
        task.partial_largest = partial.largest;
    }
    if (size == 8)
        launch_pairwise_forward<T, 8, true>(task, context);
    else if (size == 16)
        launch_pairwise_forward<T, 16, true>(task, context);
    else if (size == 32)
        launch_pairwise_forward<T, 32, true>(task, context);
    else if (staged_bytes<T>(size, forward_rows * warps_per_block) <= shared_bytes_without_asking)
        launch_pairwise_forward<T, 0, true>(task, context);
    else
        launch_pairwise_forward<T, 0, false>(task, context);
    if (task.splits > 1 && reduction != Reduction::none)
        launch(op, merge_splits_kernel<T>, divide_up(batch * num_x * num_y, 256), 256, 0, context, task);
}

QMK_INSTANTIATE(iqe_pairwise_forward, IqePairwiseForward, Context)
QMK_INSTANTIATE_SCRATCH(iqe_pairwise_forward, IqePairwiseForward)

}  // namespace qmk::cuda
