// IQE of all pairs of rows of x and y, backward: kernels and launchers.
//
// Finds left ends, and so the gradient of x, by the same kind of scan as forward; the gradient of y is that of x for
// the mirrored points x' = -y, y' = -x. Twice 4 operations per element of N * M * D; with the gradient of max_weight,
// which also needs the lengths, 6 and 4. One warp sums each gradient.
#include "iqe_one_row.cuh"
#include "iqe_pairwise.cuh"
#include "max_weight.cuh"

namespace qmk::cuda {

namespace {

template <class T>
struct PairwiseBackward {
    Prepared<T> sides;
    const T* grad_out;
    const int32_t* largest;
    const ReductionWeights<T>* weights;  // (batch)
    T* grad;                             // (batch, num_x, C, K)
    T* partial_spread;                   // null or (batch, C, num_x): parts of the gradient of the weights
    T sign, share;                       // share: of one component in the mean
    int stride_x, stride_y;              // pairs from one row to the next in grad_out and largest
    Reduction reduction;
    int64_t tiles;  // of 8 rows of x and a chunk of components
    int tiles_x, groups;
};

// What the upstream gradient is of: every length (reduction none), or the distance of a pair; and whether the gradient
// by max_weight is needed too.
enum class Given { length_gradients, pair_gradients, pair_gradients_and_weight };

template <Given given>
constexpr bool with_weight = given == Given::pair_gradients_and_weight;

// The pairs of one row of x and a thread's columns: the gradient, which component is the longest, and, if several
// components need them, the gradients by the length of one that is the longest and of another.
template <class T, Given given, bool several>
struct PairGradients {
    static constexpr int V = Pack<T>::size;
    const T* from;                // of the first pair
    const int32_t* largest_from;  // null if no component is the longest
    T grad[V], of_other[V], of_largest[V];
    int32_t largest[V];

    // Starts with the first columns.
    __device__ __forceinline__ PairGradients(const PairwiseBackward<T>& task, int sample, int i) {
        const auto& sides = task.sides;
        const int64_t pair = int64_t(sample) * sides.num_x * sides.num_y + int64_t(i) * task.stride_x +
                             int64_t(threadIdx.x % 32 * V) * task.stride_y;
        from = task.grad_out + pair * (given == Given::length_gradients ? sides.num_components : 1);
        largest_from = task.largest ? task.largest + pair : nullptr;
    }

    __device__ __forceinline__ void next_tile(const PairwiseBackward<T>& task) {
        const int64_t pairs = int64_t(tile_columns<T>) * task.stride_y;
        from += pairs * (given == Given::length_gradients ? task.sides.num_components : 1);
        if (largest_from) largest_from += pairs;
    }

    // Loads `columns` pairs, if there are as many.
    __device__ __forceinline__ void load(const PairwiseBackward<T>& task, ReductionWeights<T> weights, int columns) {
        if constexpr (given != Given::length_gradients) {
            const T* next = from;
#pragma unroll
            for (int v = 0; v < V; ++v) {
                grad[v] = v < columns ? *next : T(0);
                next += task.stride_y;
                largest[v] = -1;
            }
            if constexpr (several) {
                multiply(weights.every, of_other);
                multiply(weights.every + weights.largest, of_largest);
            }
            if (const int32_t* next_largest = largest_from) {
#pragma unroll
                for (int v = 0; v < V; ++v) {
                    if (v < columns) largest[v] = *next_largest;
                    next_largest += task.stride_y;
                }
            }
        }
    }

    __device__ __forceinline__ void multiply(T weight, T (&products)[V]) const {
#pragma unroll
        for (int v = 0; v < V; ++v) products[v] = grad[v] * weight;
        if (weight == T(0))
#pragma unroll
            for (int v = 0; v < V; ++v) products[v] = T(0);
    }

    // The gradient by the length of one component, and with the gradient of max_weight that of the spread by it.
    __device__ __forceinline__ void weigh(const PairwiseBackward<T>& task, ReductionWeights<T> weights, int component,
                                          int columns, T (&by_length)[V], T (&of_spread)[V]) const {
#pragma unroll
        for (int v = 0; v < V; ++v) {
            const bool is_largest = largest[v] == component;
            if constexpr (given == Given::length_gradients) {
                by_length[v] =
                    v < columns ? from[int64_t(v) * task.stride_y * task.sides.num_components + component] : T(0);
            } else if constexpr (several) {
                by_length[v] = is_largest ? of_largest[v] : of_other[v];
            } else {
                by_length[v] = weighted(grad[v], is_largest ? weights.every + weights.largest : weights.every);
            }
            if constexpr (with_weight<given>)
                of_spread[v] = v < columns ? grad[v] * ((is_largest ? T(1) : T(0)) - task.share) : T(0);
        }
    }
};

// Adds up to `count` intervals of V pairs to their scans, of those left: to each sum the gradients of the pairs in
// which x starts a piece. Empty intervals fill up the last eight. Without `lengths`, only finds the starts. `starts`:
// these are the scans' first.
template <class T, bool lengths, bool starts, int count, class OfRow>
__device__ __forceinline__ void add_intervals(const OfRow& intervals, int first, int left,
                                              const T (&by_length)[Pack<T>::size], IqeLength<T> (&scans)[Pack<T>::size],
                                              T* sums) {
    constexpr int in_pack = Pack<Begin<T>>::size;
#pragma unroll
    for (int eight = 0; eight < count; eight += 8) {
        if (eight > 0 && eight >= left) break;
#pragma unroll
        for (int k = eight; k < eight + 8; k += in_pack) {
            const auto begins = load_pack<Begin<T>>(intervals.begins + first + k);
#pragma unroll
            for (int b = 0; b < in_pack; ++b) {
                const bool is_first = starts && k + b == 0;
                const T x = begins.values[b].x;
                const Pack<T> ends = intervals.end(begins.values[b].line_at, 0);
#pragma unroll
                for (int v = 0; v < Pack<T>::size; ++v) {
                    const T y = ends.values[v];
                    IqeLeftEnds<T> left_ends{scans[v].furthest};
                    if (is_first ? left_ends.start(x, y) : left_ends.add(x, y)) sums[k + b] += by_length[v];
                    if constexpr (lengths) {
                        if (is_first)
                            scans[v].start(x, y);
                        else
                            scans[v].add(x, y);
                    } else {
                        scans[v].furthest = left_ends.furthest;
                    }
                }
            }
        }
    }
}

constexpr int largest_in_registers = 64;  // values of a component whose gradients a warp sums up in registers

// Components of up to K = 8, 16, 32 or 64 values. A warp handles one row of x and a chunk of components, and walks over
// all of y: the sums of the chunk's coordinates stay in registers until the end.
template <class T, int K, Given given>
__global__ void __launch_bounds__(pair_block_threads, sizeof(T) == 4 ? 2 : 1)
    iqe_pairwise_backward_kernel(PairwiseBackward<T> task) {
    constexpr int V = Pack<T>::size, G = K < 32 ? 32 / K : 1;
    extern __shared__ int4 dynamic_shared[];
    const auto& sides = task.sides;
    const int size = sides.dim_per_component, lane = threadIdx.x % 32;
    const int warp = __shfl_sync(whole_warp, threadIdx.x / 32, 0);  // so that the compiler sees one for the whole warp
    const auto* begins = reinterpret_cast<const Begin<T>*>(dynamic_shared) + warp * G * K;
    int4* const staged_lines = dynamic_shared + warps_per_block * G * K / Pack<Begin<T>>::size;
    for (int64_t tile = blockIdx.x; tile < task.tiles; tile += gridDim.x) {
        const int first_row = int(tile % task.tiles_x) * warps_per_block, i = first_row + warp;
        const int first = int(tile / task.tiles_x % task.groups) * G, sample = int(tile / task.tiles_x / task.groups);
        const int count = sides.num_components - first < G ? sides.num_components - first : G;
        const auto weights = task.weights[sample];
        LineCopy<T, 1> lines(sides.component_lines(sample, first), sides.padded_y, 0);
        int4 *here = staged_lines, *next = staged_lines + 32 * sides.chunk.lines;
        const auto start_copy = [&](int4* to) {
            lines.start(count * size, sides.padded_y, to);
            __pipeline_commit();
            lines.from += tile_columns<T>;
        };
        __syncthreads();
        BeginCopy<T, warps_per_block>(sides, sample, first, first_row, G * K)
            .start(count * sides.padded_size, dynamic_shared);
        start_copy(here);
        T sums[G * K], spreads[G];
#pragma unroll
        for (int n = 0; n < G * K; ++n) sums[n] = T(0);
#pragma unroll
        for (int g = 0; g < G; ++g) spreads[g] = T(0);
        // With the gradient of max_weight there are no registers for the products.
        PairGradients<T, given, (G > 1 && !with_weight<given>)> gradients(task, sample, i);
        int columns = i < sides.num_x ? sides.num_y - lane * V : 0;  // left for this thread
        for (int first_column = 0; first_column < sides.num_y; first_column += tile_columns<T>) {
            __pipeline_wait_prior(0);
            __syncthreads();
            if (first_column + tile_columns<T> < sides.num_y) start_copy(next);
            gradients.load(task, weights, columns);
            const Intervals<T, true, 1> intervals{begins, here + lane};
#pragma unroll
            for (int g = 0; g < G; ++g) {
                if (g >= count) continue;
                T by_length[V], of_spread[V];
                gradients.weigh(task, weights, first + g, columns, by_length, of_spread);
                IqeLength<T> scans[V] = {};
                add_intervals<T, with_weight<given>, true, K>(intervals, g * K, size, by_length, scans, sums + g * K);
                if constexpr (with_weight<given>)
#pragma unroll
                    for (int v = 0; v < V; ++v) spreads[g] += of_spread[v] * scans[v].length;
            }
            gradients.next_tile(task);
            columns -= tile_columns<T>;
            int4* const copied = next;
            next = here;
            here = copied;
        }
#pragma unroll
        for (int n = 0; n < G * K; n += 32) {
            const T mine = sums_of_threads(sums + n);
            if (i < sides.num_x && (n + lane) / K < count && (n + lane) % K < size)
                task.grad[sides.first_in_row(sample, i, first, size) + begins[n + lane].line_at / line_bytes(1)] =
                    task.sign * mine;
        }
        if constexpr (with_weight<given>) {
#pragma unroll
            for (int g = 0; g < G; ++g) {
                const T spread = sum_of_threads(spreads[g]);
                if (lane == 0 && g < count && i < sides.num_x)
                    task.partial_spread[(int64_t(sample) * sides.num_components + first + g) * sides.num_x + i] =
                        spread;
            }
        }
    }
}

// Larger components: a warp handles one row of x and one component, and sums 32 coordinates at a time, tile by tile of
// y, in the gradient itself. The same thread always writes the same coordinate.
template <class T, Given given>
__global__ void __launch_bounds__(pair_block_threads, 1) iqe_pairwise_backward_large_kernel(PairwiseBackward<T> task) {
    constexpr int V = Pack<T>::size;
    const auto& sides = task.sides;
    const int size = sides.dim_per_component, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int64_t tile = blockIdx.x; tile < task.tiles; tile += gridDim.x) {
        const int i = int(tile % task.tiles_x) * warps_per_block + warp;
        const int component = int(tile / task.tiles_x % task.groups);
        const int sample = int(tile / task.tiles_x / task.groups);
        const auto weights = task.weights[sample];
        const Begin<T>* begins = sides.begins_in_row(sample, i, component);
        T* const grads = task.grad + sides.first_in_row(sample, i, component, size);
        const T* ends = sides.component_lines(sample, component) + lane * V;
        T spread = T(0);
        PairGradients<T, given, false> gradients(task, sample, i);
        for (int first_column = 0; first_column < sides.num_y; first_column += tile_columns<T>) {
            const int columns = i < sides.num_x ? sides.num_y - first_column - lane * V : 0;  // that exist
            gradients.load(task, weights, columns);
            T by_length[V], of_spread[V];
            gradients.weigh(task, weights, component, columns, by_length, of_spread);
            IqeLength<T> scans[V];
#pragma unroll
            for (int v = 0; v < V; ++v) scans[v] = {-Limits<T>::highest, T(0)};
            const Intervals<T, false, 1> intervals{begins, ends + first_column, sides.padded_y};
            for (int start = 0; start < size; start += 32) {
                T sums[32];
#pragma unroll
                for (int n = 0; n < 32; ++n) sums[n] = T(0);
                add_intervals<T, with_weight<given>, false, 32>(intervals, start, size - start, by_length, scans, sums);
                const T mine = sums_of_threads(sums);
                if (i < sides.num_x && lane < size - start) {
                    T& grad = grads[begins[start + lane].line_at];
                    grad = (first_column == 0 ? T(0) : grad) + task.sign * mine;
                }
            }
            if constexpr (with_weight<given>)
#pragma unroll
                for (int v = 0; v < V; ++v) spread += of_spread[v] * scans[v].length;
            gradients.next_tile(task);
        }
        if constexpr (with_weight<given>) {
            spread = sum_of_threads(spread);
            if (lane == 0 && i < sides.num_x)
                task.partial_spread[(int64_t(sample) * sides.num_components + component) * sides.num_x + i] = spread;
        }
    }
}

template <class T>
struct NanInputs {
    const T *x, *y;
    T *grad_x, *grad_y;
    int batch, num_x, num_y, num_components, dim_per_component;
};

// Computes the weights of each matrix. The kernels that need them lack the registers to do so.
template <class T>
__global__ void __launch_bounds__(256) matrix_weights_kernel(MaxWeight<T> max, Reduction reduction, int num_components,
                                                             int batch, ReductionWeights<T>* weights) {
    for (int sample = blockIdx.x * 256 + threadIdx.x; sample < batch; sample += gridDim.x * 256)
        weights[sample] = reduction_weights(reduction, num_components, weight_of_row(max, sample, batch));
}

// One block per component of a matrix. A component with NaN makes its gradients NaN in every pair: those of its
// coordinates in its own row and in all rows of the other side.
template <class T>
__global__ void __launch_bounds__(pair_block_threads) iqe_pairwise_nan_kernel(NanInputs<T> task) {
    __shared__ int found[2];
    const int size = task.dim_per_component, dim = task.num_components * size;
    const auto has_nan = [&](const T* component) {
        bool any = false;
        for (int k = 0; k < size; ++k) any |= component[k] != component[k];
        return any;
    };
    for (int64_t tile = blockIdx.x; tile < int64_t(task.batch) * task.num_components; tile += gridDim.x) {
        const int64_t sample = tile / task.num_components, first = tile % task.num_components * size;
        const int64_t of_x = sample * task.num_x * dim + first, of_y = sample * task.num_y * dim + first;
        __syncthreads();
        if (threadIdx.x < 2) found[threadIdx.x] = 0;
        __syncthreads();
        for (int64_t i = threadIdx.x; i < task.num_x; i += blockDim.x)
            if (has_nan(task.x + of_x + i * dim)) found[0] = 1;
        for (int64_t j = threadIdx.x; j < task.num_y; j += blockDim.x)
            if (has_nan(task.y + of_y + j * dim)) found[1] = 1;
        __syncthreads();
        if (!found[0] && !found[1]) continue;
        const auto write = [&](const T* from, T* grad, int rows, bool all) {
            for (int64_t i = threadIdx.x; i < rows; i += blockDim.x)
                if (all || has_nan(from + i * dim))
                    for (int k = 0; k < size; ++k) grad[i * dim + k] = T(__builtin_nan(""));
        };
        write(task.x + of_x, task.grad_x + of_x, task.num_x, found[1]);
        write(task.y + of_y, task.grad_y + of_y, task.num_y, found[0]);
    }
}

template <class T, int K>
void launch_pairwise_backward(const PairwiseBackward<T>& task, Context context) {
    const auto kernel = task.reduction == Reduction::none ? iqe_pairwise_backward_kernel<T, K, Given::length_gradients>
                        : task.partial_spread ? iqe_pairwise_backward_kernel<T, K, Given::pair_gradients_and_weight>
                                              : iqe_pairwise_backward_kernel<T, K, Given::pair_gradients>;
    const PairChunk& chunk = task.sides.chunk;
    const int64_t packs = 2 * 32 * chunk.lines + warps_per_block * std::max(K, 32) / Pack<Begin<T>>::size;
    launch("iqe_pairwise_backward", kernel, task.tiles, pair_block_threads, 16 * packs, context, task);
}

template <class T>
void launch_pairwise_backward_large(const PairwiseBackward<T>& task, Context context) {
    const auto kernel = task.reduction == Reduction::none
                            ? iqe_pairwise_backward_large_kernel<T, Given::length_gradients>
                        : task.partial_spread ? iqe_pairwise_backward_large_kernel<T, Given::pair_gradients_and_weight>
                                              : iqe_pairwise_backward_large_kernel<T, Given::pair_gradients>;
    launch("iqe_pairwise_backward", kernel, task.tiles, pair_block_threads, 0, context, task);
}

template <class T>
void launch_gradient(PairwiseBackward<T> task, Context context) {
    const int64_t size = task.sides.padded_size;
    task.tiles_x = int(divide_up(task.sides.num_x, warps_per_block));
    task.groups = int(divide_up(task.sides.num_components, task.sides.chunk.components));
    task.tiles = int64_t(task.sides.batch) * task.groups * task.tiles_x;
    if (size <= 8) return launch_pairwise_backward<T, 8>(task, context);
    if (size <= 16) return launch_pairwise_backward<T, 16>(task, context);
    if (size <= 32) return launch_pairwise_backward<T, 32>(task, context);
    if (size <= largest_in_registers) return launch_pairwise_backward<T, largest_in_registers>(task, context);
    launch_pairwise_backward_large<T>(task, context);
}

// Shared by both gradients: the weights of every matrix and, if needed, room for parts of their gradient.
template <class T>
struct BothSides {
    ReductionWeights<T>* weights;
    T* partial_spread;
};

template <class T>
BothSides<T> take_both_sides(Workspace& workspace, const IqePairwiseBackward<T>& call) {
    const auto& shape = call.shape;
    auto* weights = workspace.take(shape.batch * sizeof(ReductionWeights<T>));
    const int64_t parts = call.grad_max_weight ? shape.batch * shape.num_components * shape.num_x : 0;
    auto* partial_spread = static_cast<T*>(workspace.take(parts * sizeof(T)));
    return {static_cast<ReductionWeights<T>*>(weights), parts ? partial_spread : nullptr};
}

}  // namespace

// The two gradients run one after the other in the memory of the larger, after what both share.
template <class T>
int64_t iqe_pairwise_backward_scratch(const IqePairwiseBackward<T>& call) {
    if (has_one_row(call.shape)) return iqe_one_row_backward_scratch(call);
    const auto [batch, num_x, num_y, num_components, size] = call.shape;
    Workspace for_x{nullptr}, for_y{nullptr};
    take_both_sides(for_x, call);
    take_both_sides(for_y, call);
    take_sides<T>(for_x, batch, num_x, num_y, num_components, size);
    take_sides<T>(for_y, batch, num_y, num_x, num_components, size);
    return std::max(for_x.used, for_y.used);
}

template <class T>
void iqe_pairwise_backward(const IqePairwiseBackward<T>& call, Context context) {
    const Reduction reduction = call.reduction;
    const int64_t batch = call.shape.batch, num_x = call.shape.num_x, num_y = call.shape.num_y,
                  num_components = call.shape.num_components, size = call.shape.dim_per_component;
    void* memory = call.scratch;
    T *grad_x = call.grad_x, *grad_y = call.grad_y;
    const int32_t* largest = call.largest;
    const T *grad_out = call.grad_out, *x = call.x, *y = call.y;
    const char* op = "iqe_pairwise_backward";
    check_sizes(op, batch, num_x, num_y, num_components, size);
    if (batch * num_x * num_y * num_components == 0) return;
    const DeviceGuard guard(context.device, op);
    if (has_one_row(call.shape)) return iqe_one_row_backward(call, context);
    Workspace for_x{static_cast<char*>(memory)}, for_y = for_x;
    const BothSides<T> both = take_both_sides(for_x, call);
    take_both_sides(for_y, call);
    launch(op, matrix_weights_kernel<T>, divide_up(batch, 256), 256, 0, context, call.max, reduction,
           int(num_components), int(batch), both.weights);
    const T share = T(1) / T(num_components);
    const int width = size <= largest_in_registers ? line_bytes(1) : 1;
    launch_gradient<T>(
        {prepare(op, for_x, x, y, T(1), batch, num_x, num_y, num_components, size, width, context), grad_out, largest,
         both.weights, grad_x, both.partial_spread, T(-1), share, int(num_y), 1, reduction, 0, 0, 0},
        context);
    // The mirrored problem, in the same memory: launches on a stream run one after another.
    launch_gradient<T>(
        {prepare(op, for_y, y, x, T(-1), batch, num_y, num_x, num_components, size, width, context), grad_out, largest,
         both.weights, grad_y, nullptr, T(1), share, 1, int(num_y), reduction, 0, 0, 0},
        context);
    const NanInputs<T> inputs{x, y, grad_x, grad_y, int(batch), int(num_x), int(num_y), int(num_components), int(size)};
    launch(op, iqe_pairwise_nan_kernel<T>, batch * num_components, pair_block_threads, 0, context, inputs);
    launch_weight_gradient<T>(
        op, {call.max, nullptr, both.partial_spread, nullptr, call.grad_max_weight, batch * num_components * num_x},
        context);
}

QMK_INSTANTIATE(iqe_pairwise_backward, IqePairwiseBackward, Context)
QMK_INSTANTIATE_SCRATCH(iqe_pairwise_backward, IqePairwiseBackward)

}  // namespace qmk::cuda
