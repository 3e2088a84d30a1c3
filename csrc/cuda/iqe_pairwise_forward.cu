// IQE of all pairs of rows of x and y, forward: kernels and launchers. 4 operations per element of N * M * D.
//
// Few pairs of rows are split by components over more blocks, with a workspace of three numbers per pair and split.
#include "iqe_one_row.cuh"
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

// A block handles 16 rows of x by `packs` packs of y per thread of a warp, for the components of its split. A scan
// takes `at_once` intervals at a time.
template <class T, int packs, bool staged, int at_once, Wanted wanted>
__global__ void __launch_bounds__(pair_block_threads, 2) iqe_pairwise_forward_kernel(PairwiseForward<T> task) {
    constexpr int V = Pack<T>::size, R = forward_rows, tile_rows = R * warps_per_block;
    constexpr int in_pack = Pack<Begin<T>>::size;
    extern __shared__ int4 dynamic_shared[];
    const auto& sides = task.sides;
    const int size = sides.dim_per_component, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int in_chunk = sides.chunk.components, chunk_packs = packs_of_chunk<T>(sides.chunk, tile_rows, packs);
    const int tiles_y = (sides.num_y + tile_columns<T, packs> - 1) / tile_columns<T, packs>;
    const int tiles_x = (sides.num_x + tile_rows - 1) / tile_rows;
    const int64_t tiles_in_split = int64_t(tiles_x) * tiles_y, tiles = sides.batch * task.splits * tiles_in_split;
    for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const int first_column = int(tile % tiles_y) * tile_columns<T, packs>;
        const int first_row = int(tile / tiles_y % tiles_x) * tile_rows;
        const int split = int(tile / tiles_in_split % task.splits);
        const int sample = int(tile / tiles_in_split / task.splits);
        const int first = split * task.components_per_split, past = first + task.components_per_split;
        const int last = past < sides.num_components ? past : sides.num_components;
        // Calls `pair_at(p, v, pair)` for this thread's pairs of one row.
        const auto for_each_pair = [&](int r, auto&& pair_at) {
            const int i = first_row + warp * R + r, j = first_column + lane * V;
#pragma unroll
            for (int p = 0; p < packs; ++p)
#pragma unroll
                for (int v = 0; v < V; ++v)
                    if (i < sides.num_x && j + p * tile_columns<T> + v < sides.num_y)
                        pair_at(p, v, (int64_t(sample) * sides.num_x + i) * sides.num_y + j + p * tile_columns<T> + v);
        };
        LineCopy<T, packs> lines(sides.component_lines(sample, first), sides.padded_y, first_column);
        BeginCopy<T, tile_rows> begins(sides, sample, first, first_row, sides.chunk.begins);
        // Starts to copy the chunk that begins with a component; those before it are copied already.
        const auto start_copy = [&](int component, int4* to) {
            const int components = last - component < in_chunk ? last - component : in_chunk;
            lines.start(components * size, sides.padded_y, to);
            begins.start(components * sides.padded_size, to + 32 * packs * sides.chunk.lines);
            __pipeline_commit();
            lines.from += int64_t(sides.chunk.lines) * sides.padded_y;
            begins.from += sides.chunk.begins;
        };
        int4 *here = dynamic_shared, *next = dynamic_shared + chunk_packs;
        if constexpr (staged) {
            __syncthreads();
            start_copy(first, here);
        }
        RowSummary<T> rows[R][packs][V];
        for (int chunk = first; chunk < last; chunk += in_chunk) {
            Intervals<T, staged, packs> intervals[R];
            if constexpr (staged) {
                __pipeline_wait_prior(0);
                __syncthreads();
                if (chunk + in_chunk < last) start_copy(chunk + in_chunk, next);
            }
#pragma unroll
            for (int r = 0; r < R; ++r) {
                if constexpr (staged)
                    intervals[r] = {reinterpret_cast<const Begin<T>*>(here + 32 * packs * sides.chunk.lines) +
                                        (warp * R + r) * sides.chunk.begins,
                                    here + lane};
                else
                    intervals[r] = {sides.begins_in_row(sample, first_row + warp * R + r, chunk),
                                    sides.component_lines(sample, chunk) + first_column + lane * V, sides.padded_y};
            }
            int4* const copied = next;
            next = here;
            here = copied;
            for (int component = chunk; component < chunk + in_chunk && component < last; ++component) {
#pragma unroll
                for (int r = 0; r < R; ++r) {
                    IqeLength<T> scans[packs][V];
                    const auto scan = [&](int from, auto is_first) {
#pragma unroll
                        for (int k = 0; k < at_once; k += in_pack) {
                            const auto begins = load_pack<Begin<T>>(intervals[r].begins + from + k);
#pragma unroll
                            for (int b = 0; b < in_pack; ++b)
#pragma unroll
                                for (int p = 0; p < packs; ++p) {
                                    const T x = begins.values[b].x;
                                    const Pack<T> ends = intervals[r].end(begins.values[b].line_at, p);
#pragma unroll
                                    for (int v = 0; v < V; ++v) {
                                        if (is_first.value && k + b == 0)
                                            scans[p][v].start(x, ends.values[v]);
                                        else
                                            scans[p][v].add(x, ends.values[v]);
                                    }
                                }
                        }
                    };
                    scan(0, std::true_type{});
                    for (int k = at_once; k < size; k += at_once) scan(k, std::false_type{});
                    intervals[r].begins += sides.padded_size;
                    if constexpr (wanted == Wanted::lengths)
                        for_each_pair(r, [&](int p, int v, int64_t pair) {
                            task.out[pair * sides.num_components + component] = scans[p][v].length;
                        });
#pragma unroll
                    for (int p = 0; p < packs; ++p)
#pragma unroll
                        for (int v = 0; v < V; ++v) {
                            if constexpr (wanted == Wanted::maximum)
                                rows[r][p][v].add(scans[p][v].length, component);
                            else
                                rows[r][p][v].sum += scans[p][v].length;
                        }
                }
            }
        }
        if constexpr (wanted != Wanted::lengths)
#pragma unroll
            for (int r = 0; r < R; ++r)
                for_each_pair(r, [&](int p, int v, int64_t pair) {
                    const RowSummary<T>& row = rows[r][p][v];
                    if (task.splits == 1) {
                        store_reduced(task, pair, row);
                    } else {
                        const int64_t at = split * sides.num_pairs() + pair;
                        task.partial_sum[at] = row.sum;
                        if constexpr (wanted == Wanted::maximum) {
                            task.partial_maximum[at] = row.maximum;
                            task.partial_largest[at] = row.largest;
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
// so that the result is the same on every device. Splits hold whole chunks.
int64_t components_per_split(int64_t item_size, int64_t batch, int64_t num_x, int64_t num_y, int64_t num_components,
                             int64_t size) {
    const int64_t tiles = batch * divide_up(num_x, forward_rows * warps_per_block) * divide_up(num_y, 512 / item_size);
    const int64_t enough = 512;
    if (tiles == 0 || 2 * tiles >= enough) return num_components;
    const int64_t in_chunk = pair_chunk(size).components;
    return divide_up(divide_up(num_components, divide_up(enough, tiles)), in_chunk) * in_chunk;
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

template <class T>
constexpr int most_packs = sizeof(T) == 4 ? 2 : 1;  // for which there are registers

// Packs of a thread in a line; 0 if a chunk is too large for shared memory. Storing each length leaves registers for
// one.
template <class T>
int packs_in_tile(int64_t num_y, int64_t size, Reduction reduction) {
    const auto fits = [&](int packs) {
        const int64_t bytes = 2 * 16 * packs_of_chunk<T>(pair_chunk(size), forward_rows * warps_per_block, packs);
        return bytes <= shared_bytes_of_any_device;
    };
    if (size % 8 == 0 && num_y > tile_columns<T> && reduction != Reduction::none && fits(most_packs<T>))
        return most_packs<T>;
    return fits(1) ? 1 : 0;
}

template <class T, int packs, bool staged, int at_once>
void launch_pairwise_forward(const PairwiseForward<T>& task, Context context) {
    constexpr int tile_rows = forward_rows * warps_per_block;
    const auto& sides = task.sides;
    const auto kernel =
        task.reduction == Reduction::none ? iqe_pairwise_forward_kernel<T, 1, staged, at_once, Wanted::lengths>
        : needs_largest(task.reduction)   ? iqe_pairwise_forward_kernel<T, packs, staged, at_once, Wanted::maximum>
                                          : iqe_pairwise_forward_kernel<T, packs, staged, at_once, Wanted::sum>;
    const int64_t tiles = int64_t(sides.batch) * task.splits * divide_up(sides.num_x, tile_rows) *
                          divide_up(sides.num_y, tile_columns<T, packs>);
    launch("iqe_pairwise_forward", kernel, tiles, pair_block_threads,
           staged ? 2 * 16 * packs_of_chunk<T>(sides.chunk, tile_rows, packs) : 0, context, task);
}

}  // namespace

template <class T>
int64_t iqe_pairwise_forward_scratch(const IqePairwiseForward<T>& call) {
    if (has_one_row(call.shape)) return 0;
    const auto [batch, num_x, num_y, num_components, size] = call.shape;
    Workspace workspace{nullptr};
    take_sides<T>(workspace, batch, num_x, num_y, num_components, size);
    const int64_t in_split = components_per_split(sizeof(T), batch, num_x, num_y, num_components, size);
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
    if (has_one_row(call.shape)) return iqe_one_row_forward(call, context);
    Workspace workspace{static_cast<char*>(memory)};
    PairwiseForward<T> task{};
    const int packs = packs_in_tile<T>(num_y, size, reduction);
    task.sides = prepare(op, workspace, x, y, T(1), batch, num_x, num_y, num_components, size,
                         packs ? line_bytes(packs) : 1, context);
    task.max = call.max;
    task.out = out;
    task.largest = largest;
    task.reduction = reduction;
    task.components_per_split = int(components_per_split(sizeof(T), batch, num_x, num_y, num_components, size));
    task.splits = int(divide_up(num_components, task.components_per_split));
    if (task.splits > 1) {
        const auto partial = take_partial<T>(workspace, task.splits * batch * num_x * num_y);
        task.partial_sum = partial.sum;
        task.partial_maximum = partial.maximum;
        task.partial_largest = partial.largest;
    }
    if (packs == most_packs<T> && size % 8 == 0)
        launch_pairwise_forward<T, most_packs<T>, true, 8>(task, context);
    else if (packs && size % 8 == 0)
        launch_pairwise_forward<T, 1, true, 8>(task, context);
    else if (packs)
        launch_pairwise_forward<T, 1, true, 4>(task, context);
    else
        launch_pairwise_forward<T, 1, false, 2>(task, context);
    if (task.splits > 1 && reduction != Reduction::none)
        launch(op, merge_splits_kernel<T>, divide_up(batch * num_x * num_y, 256), 256, 0, context, task);
}

QMK_INSTANTIATE(iqe_pairwise_forward, IqePairwiseForward, Context)
QMK_INSTANTIATE_SCRATCH(iqe_pairwise_forward, IqePairwiseForward)

}  // namespace qmk::cuda
