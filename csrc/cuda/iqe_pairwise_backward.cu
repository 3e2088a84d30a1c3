// IQE of all pairs of rows of x and y, backward: kernels and launchers.
//
// Finds left ends, and so the gradient of x, by the same kind of scan as forward; the gradient of y is that of x for
// the mirrored points x' = -y, y' = -x. Twice 4 operations per element of N * M * D; with the gradient of max_weight,
// which also needs the lengths, 6 and 4. One warp sums each gradient.
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
    T sign;
    int stride_x, stride_y;  // pairs from one row to the next in grad_out and largest
    Reduction reduction;
};

// What the upstream gradient is of: every length (reduction none), or the distance of a pair; and whether the gradient
// by max_weight is needed too.
enum class Given { length_gradients, pair_gradients, pair_gradients_and_weight };

template <Given given>
constexpr bool with_weight = given == Given::pair_gradients_and_weight;

// The pairs of one row of x and a thread's columns: the gradient and the longest component of each.
template <class T, Given given>
struct PairGradients {
    static constexpr int V = Pack<T>::size;
    int64_t pair;
    T grad[V];
    int32_t largest[V];

    __device__ __forceinline__ void load(const PairwiseBackward<T>& task, int sample, int i, int j) {
        const auto& sides = task.sides;
        pair = int64_t(sample) * sides.num_x * sides.num_y + int64_t(i) * task.stride_x + int64_t(j) * task.stride_y;
        if constexpr (given != Given::length_gradients) {
#pragma unroll
            for (int v = 0; v < V; ++v) {
                const bool exists = i < sides.num_x && j + v < sides.num_y;
                grad[v] = exists ? task.grad_out[pair + int64_t(v) * task.stride_y] : T(0);
                largest[v] = exists && task.largest ? task.largest[pair + int64_t(v) * task.stride_y] : -1;
            }
        }
    }

    // The gradient by the length of one component.
    __device__ __forceinline__ void weigh(const PairwiseBackward<T>& task, ReductionWeights<T> weights, int i, int j,
                                          int component, T (&by_length)[V]) const {
        const auto& sides = task.sides;
        if constexpr (given == Given::length_gradients) {
#pragma unroll
            for (int v = 0; v < V; ++v)
                by_length[v] =
                    i < sides.num_x && j + v < sides.num_y
                        ? task.grad_out[(pair + int64_t(v) * task.stride_y) * sides.num_components + component]
                        : T(0);
        } else {
#pragma unroll
            for (int v = 0; v < V; ++v)
                by_length[v] =
                    weighted(grad[v], largest[v] == component ? weights.every + weights.largest : weights.every);
        }
    }

    // This thread's share of sum_j grad_j * d spread_j / d length_j * length_j.
    __device__ __forceinline__ T spread(const IqeLength<T> (&scans)[V], int num_components, int component,
                                        int columns) const {
        const T share = T(1) / T(num_components);
        T sum = T(0);
#pragma unroll
        for (int v = 0; v < V; ++v)
            if (v < columns) sum += grad[v] * ((largest[v] == component ? T(1) : T(0)) - share) * scans[v].length;
        return sum;
    }
};

// One interval of V pairs: the sum of the gradients where x starts a piece. With `lengths`, also adds to the scan.
template <class T, bool lengths>
__device__ __forceinline__ T add_starts(T x, const Pack<T>& ends, const T (&by_length)[Pack<T>::size], T sum,
                                        IqeLength<T> (&scans)[Pack<T>::size]) {
#pragma unroll
    for (int v = 0; v < Pack<T>::size; ++v) {
        IqeLeftEnds<T> left{scans[v].furthest};
        sum += left.add(x, ends.values[v]) ? by_length[v] : T(0);
        if constexpr (lengths)
            scans[v].add(x, ends.values[v]);
        else
            scans[v].furthest = left.furthest;
    }
    return sum;
}

constexpr int values_at_once = 32;  // coordinates whose gradients a warp sums at once: one per thread at the end

// K = 8, 16, 32. A warp handles one row of x and 32 / K components, and walks over all of y: the sums of 32 coordinates
// stay in registers until the end.
template <class T, int K, Given given>
__global__ void __launch_bounds__(pair_block_threads, sizeof(T) == 4 ? 2 : 1)
    iqe_pairwise_backward_kernel(PairwiseBackward<T> task) {
    constexpr int V = Pack<T>::size, G = values_at_once / K;
    __shared__ int4 staged_ends[32 * values_at_once];
    __shared__ Begin<T> staged_begins[warps_per_block * values_at_once];
    const auto& sides = task.sides;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int tiles_x = (sides.num_x + warps_per_block - 1) / warps_per_block;
    const int groups = (sides.num_components + G - 1) / G;
    const Intervals<T, true> intervals{staged_begins + warp * values_at_once, staged_ends + lane};
    for (int64_t tile = blockIdx.x; tile < int64_t(sides.batch) * groups * tiles_x; tile += gridDim.x) {
        const int first_row = int(tile % tiles_x) * warps_per_block, i = first_row + warp;
        const int first = int(tile / tiles_x % groups) * G, sample = int(tile / tiles_x / groups);
        const int count = sides.num_components - first < G ? sides.num_components - first : G;
        __syncthreads();
        const auto weights = task.weights[sample];
        stage_begins(sides, sample, first_row, warps_per_block, first, G, staged_begins);
        T sums[values_at_once], spreads[G];
#pragma unroll
        for (int n = 0; n < values_at_once; ++n) sums[n] = T(0);
#pragma unroll
        for (int g = 0; g < G; ++g) spreads[g] = T(0);
        for (int first_column = 0; first_column < sides.num_y; first_column += tile_columns<T>) {
            __syncthreads();
            stage_lines(sides.component_lines(sample, first), sides.padded_y, first_column, count * K, staged_ends);
            __syncthreads();
            const int j = first_column + lane * V;
            const int columns = sides.num_y - j;  // that exist; none where below 1
            PairGradients<T, given> gradients;
            gradients.load(task, sample, i, j);
#pragma unroll
            for (int g = 0; g < G; ++g) {
                if (g >= count) continue;
                T by_length[V];
                gradients.weigh(task, weights, i, j, first + g, by_length);
                IqeLength<T> scans[V];
#pragma unroll
                for (int v = 0; v < V; ++v) scans[v] = {-Limits<T>::highest, T(0)};
#pragma unroll
                for (int k = 0; k < K; ++k) {
                    const Begin<T> begin = intervals.begin(g * K + k);
                    sums[g * K + k] = add_starts<T, with_weight<given>>(begin.x, intervals.end(begin.line), by_length,
                                                                        sums[g * K + k], scans);
                }
                if constexpr (with_weight<given>)
                    spreads[g] += gradients.spread(scans, sides.num_components, first + g, columns);
            }
        }
        T mine = T(0);  // thread n keeps the sum of coordinate n
#pragma unroll
        for (int n = 0; n < values_at_once; ++n) {
            const T sum = sum_of_threads(sums[n]);
            mine = lane == n ? sum : mine;
        }
        if (i < sides.num_x && lane < count * K)
            task.grad[sides.first_in_row(sample, i, first) + intervals.begin(lane).line] = task.sign * mine;
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

// Any K: a warp handles one row of x and one component, and sums 32 coordinates at a time, tile by tile of y, in the
// gradient itself. The same thread always writes the same coordinate.
template <class T, bool staged, Given given>
__global__ void __launch_bounds__(pair_block_threads, 2) iqe_pairwise_backward_any_kernel(PairwiseBackward<T> task) {
    constexpr int V = Pack<T>::size;
    extern __shared__ int4 dynamic_shared[];
    const auto& sides = task.sides;
    const int size = sides.dim_per_component, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    auto* staged_begins = reinterpret_cast<Begin<T>*>(dynamic_shared + 32 * size);
    const int tiles_x = (sides.num_x + warps_per_block - 1) / warps_per_block;
    for (int64_t tile = blockIdx.x; tile < int64_t(sides.batch) * sides.num_components * tiles_x; tile += gridDim.x) {
        const int first_row = int(tile % tiles_x) * warps_per_block, i = first_row + warp;
        const int component = int(tile / tiles_x % sides.num_components);
        const int sample = int(tile / tiles_x / sides.num_components);
        const auto weights = task.weights[sample];
        const T* lines = sides.component_lines(sample, component);
        const int64_t row = sides.first_in_row(sample, i, component);
        if constexpr (staged) {
            __syncthreads();
            stage_begins(sides, sample, first_row, warps_per_block, component, 1, staged_begins);
        }
        T spread = T(0);
        for (int first_column = 0; first_column < sides.num_y; first_column += tile_columns<T>) {
            const int j = first_column + lane * V;
            Intervals<T, staged> intervals;
            if constexpr (staged) {
                __syncthreads();
                stage_lines(lines, sides.padded_y, first_column, size, dynamic_shared);
                __syncthreads();
                intervals = {staged_begins + warp * size, dynamic_shared + lane};
            } else {
                intervals = {sides.sorted_x + row, sides.position + row, lines + j, sides.padded_y};
            }
            const int columns = sides.num_y - j;  // that exist; none where below 1
            PairGradients<T, given> gradients;
            gradients.load(task, sample, i, j);
            T by_length[V];
            gradients.weigh(task, weights, i, j, component, by_length);
            IqeLength<T> scans[V];
#pragma unroll
            for (int v = 0; v < V; ++v) scans[v] = {-Limits<T>::highest, T(0)};
            for (int start = 0; start < size; start += 32) {
                const int some = size - start < 32 ? size - start : 32;
                T mine = T(0);
                for (int k = 0; k < some; ++k) {
                    const Begin<T> begin = intervals.begin(start + k);
                    const T sum = sum_of_threads(
                        add_starts<T, with_weight<given>>(begin.x, intervals.end(begin.line), by_length, T(0), scans));
                    mine = lane == k ? sum : mine;
                }
                if (i < sides.num_x && lane < some) {
                    T& grad = task.grad[row + sides.position[row + start + lane]];
                    grad = (first_column == 0 ? T(0) : grad) + task.sign * mine;
                }
            }
            if constexpr (with_weight<given>)
                spread += gradients.spread(scans, sides.num_components, component, columns);
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
    const auto& sides = task.sides;
    const auto kernel = task.reduction == Reduction::none ? iqe_pairwise_backward_kernel<T, K, Given::length_gradients>
                        : task.partial_spread ? iqe_pairwise_backward_kernel<T, K, Given::pair_gradients_and_weight>
                                              : iqe_pairwise_backward_kernel<T, K, Given::pair_gradients>;
    const int64_t groups = divide_up(sides.num_components, values_at_once / K);
    launch("iqe_pairwise_backward", kernel, int64_t(sides.batch) * groups * divide_up(sides.num_x, warps_per_block),
           pair_block_threads, 0, context, task);
}

template <class T, bool staged>
void launch_pairwise_backward_any(const PairwiseBackward<T>& task, Context context) {
    const auto& sides = task.sides;
    const auto kernel =
        task.reduction == Reduction::none ? iqe_pairwise_backward_any_kernel<T, staged, Given::length_gradients>
        : task.partial_spread ? iqe_pairwise_backward_any_kernel<T, staged, Given::pair_gradients_and_weight>
                              : iqe_pairwise_backward_any_kernel<T, staged, Given::pair_gradients>;
    launch("iqe_pairwise_backward", kernel,
           int64_t(sides.batch) * sides.num_components * divide_up(sides.num_x, warps_per_block), pair_block_threads,
           staged ? staged_bytes<T>(sides.dim_per_component, warps_per_block) : 0, context, task);
}

template <class T>
void launch_gradient(const PairwiseBackward<T>& task, Context context) {
    const int64_t size = task.sides.dim_per_component;
    if (size == 8) return launch_pairwise_backward<T, 8>(task, context);
    if (size == 16) return launch_pairwise_backward<T, 16>(task, context);
    if (size == 32) return launch_pairwise_backward<T, 32>(task, context);
    if (staged_bytes<T>(size, warps_per_block) <= shared_bytes_without_asking)
        return launch_pairwise_backward_any<T, true>(task, context);
    launch_pairwise_backward_any<T, false>(task, context);
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
    const auto [batch, num_x, num_y, num_components, size] = call.shape;
    Workspace for_x{nullptr}, for_y{nullptr};
    take_both_sides(for_x, call);
    take_both_sides(for_y, call);
    take_sides<T>(for_x, batch, num_x, num_y, num_components * size);
    take_sides<T>(for_y, batch, num_y, num_x, num_components * size);
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
    Workspace for_x{static_cast<char*>(memory)}, for_y = for_x;
    const BothSides<T> both = take_both_sides(for_x, call);
    take_both_sides(for_y, call);
    launch(op, matrix_weights_kernel<T>, divide_up(batch, 256), 256, 0, context, call.max, reduction,
           int(num_components), int(batch), both.weights);
    launch_gradient<T>({prepare(op, for_x, x, y, T(1), batch, num_x, num_y, num_components, size, context), grad_out,
                        largest, both.weights, grad_x, both.partial_spread, T(-1), int(num_y), 1, reduction},
                       context);
    // The mirrored problem, in the same memory: launches on a stream run one after another.
    launch_gradient<T>({prepare(op, for_y, y, x, T(-1), batch, num_y, num_x, num_components, size, context), grad_out,
                        largest, both.weights, grad_y, nullptr, T(1), 1, int(num_y), reduction},
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
