// IQE of many rows with one, in every matrix of a batch: kernels and launchers.
//
// Forward measures the components as for matching rows (iqe.cu), but only the many pass through shared memory: each
// thread, or warp, reads its component of the one row itself. Backward measures them again and keeps the ends, two bits
// per value, and the distances. Then a thread has 16 bytes of a row's width and goes through a group of the many: it
// writes their gradient, and the sum of that of the one row. One sixteenth of the bytes more than the floor for the
// ends, written and read, besides the parts.
//
// Precision: all arithmetic in T, sums over more than a group in double. The order of every sum is fixed, so the same
// input gives the same bits.
#include "iqe_one_row.cuh"
#include "iqe_pairwise.cuh"
#include "iqe_rows.cuh"
#include "max_weight.cuh"
#include "rows.cuh"

namespace qmk::cuda {

namespace {

// The arguments of a forward launch. Rows are those of the many.
template <class T>
struct OneRowForward {
    const T *x, *y;
    OneRow one;
    MaxWeight<T> max;
    T* out;
    uint8_t* ends;
    int32_t* largest;
    T* spread;
    RowTiles tiles;
    int dim_per_component;
    Reduction reduction;

    // The component of the one row that belongs to a component of the many.
    __device__ __forceinline__ const T* of_one(int64_t component) const {
        const int64_t row = component / tiles.num_components, c = component - row * tiles.num_components;
        return (one.is_x ? x : y) + (one.matrix_of(row) * tiles.num_components + c) * dim_per_component;
    }
};

template <class T, int K, bool keep>
__global__ void __launch_bounds__(block_threads, register_blocks(K * sizeof(T)))
    iqe_one_row_forward_kernel(OneRowForward<T> task) {
    using Packs = ComponentPacks<T, K>;
    __shared__ typename Packs::Bits staged[Packs::template staged_or<T>(numbers_in_columns<K, keep>)];
    __shared__ T lengths[block_threads];
    const T* const many_from = task.one.is_x ? task.y : task.x;
    reduce_all(task, lengths, [&](int64_t component, int count) {
        T many[K], one[K], x[K], y[K];
        load_components(many_from + component * K, count, staged, many);
        if (threadIdx.x >= count) return;
        const T* from = task.of_one(component + threadIdx.x);
#pragma unroll
        for (int i = 0; i < Packs::count; ++i) {
            const auto pack = load_pack<T, Packs::size>(from + i * Packs::size);
#pragma unroll
            for (int v = 0; v < Packs::size; ++v)
                one[i * Packs::size + v] = finite_or_nan(pack.values[v], Limits<T>::highest);
        }
#pragma unroll
        for (int k = 0; k < K; ++k) {
            x[k] = task.one.is_x ? one[k] : many[k];
            y[k] = task.one.is_x ? many[k] : one[k];
        }
        lengths[threadIdx.x] =
            measure_in_registers<keep>(x, y, reinterpret_cast<T*>(staged), task.ends, component + threadIdx.x);
    });
}

template <class T, bool keep>
__global__ void __launch_bounds__(block_threads) iqe_one_row_forward_any_kernel(OneRowForward<T> task) {
    extern __shared__ int4 dynamic_shared[];
    __shared__ T lengths[block_threads];
    const int size = task.dim_per_component, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int num_bytes = (2 * size + 7) / 8;
    const WarpIntervals<T> intervals(
        reinterpret_cast<unsigned char*>(dynamic_shared) + warp * WarpIntervals<T>::bytes(size), size);
    reduce_all(task, lengths, [&](int64_t first_component, int count) {
        for (int c = warp; c < count; c += blockDim.x / 32) {
            const int64_t component = first_component + c;
            const T* one = task.of_one(component);
            const T* many = (task.one.is_x ? task.y : task.x) + component * size;
            const T length = measure_by_warp<T, keep>(intervals, task.one.is_x ? one : many, task.one.is_x ? many : one,
                                                      size, lane, task.ends + component * num_bytes);
            if (lane == 0) lengths[c] = length;
        }
    });
}

template <class T>
struct OneRowBackward {
    const T* grad_out;
    const uint8_t* ends;
    const int32_t* largest;
    MaxWeight<T> max;
    OneRow one;
    T *grad_many, *parts;                                 // parts: (batch, parts of a matrix, D)
    int64_t all_parts, parts_of_matrix, parts_of_weight;  // parts_of_weight: that share a weight of the maximum
    int num_components, dim_per_component, rows_per_part;
    Reduction reduction;
};

// `width` neighbouring coordinates per thread: 16 bytes, or one coordinate if K or a pointer does not allow more.
template <class T, int width>
__global__ void __launch_bounds__(256, 4) iqe_one_row_backward_kernel(OneRowBackward<T> task) {
    const unsigned size = task.dim_per_component, packs = size / width, num_bytes = (2 * size + 7) / 8;
    const int64_t packs_in_row = int64_t(packs) * task.num_components, dim = packs_in_row * width;
    const bool by_component = task.reduction == Reduction::none;
    for (int64_t slot = int64_t(blockIdx.x) * 256 + threadIdx.x; slot < task.all_parts * packs_in_row;
         slot += int64_t(gridDim.x) * 256) {
        const int64_t part = slot / packs_in_row, matrix = part / task.parts_of_matrix;
        const unsigned pack = unsigned(slot - part * packs_in_row), c = pack / packs, k = pack % packs * width;
        const int64_t first = matrix * task.one.rows_per_matrix +
                              (part - matrix * task.parts_of_matrix) * task.rows_per_part,
                      end_of_matrix = (matrix + 1) * task.one.rows_per_matrix;
        const int64_t end = end_of_matrix - first < task.rows_per_part ? end_of_matrix : first + task.rows_per_part;
        const T weight = WeightAt<T>(task.max, part / task.parts_of_weight).value;
        const auto weights = reduction_weights(task.reduction, task.num_components, weight);
        T of_one[width] = {};
        for (int64_t row = first; row < end; ++row) {
            const int64_t component = row * task.num_components + c;
            const bool is_largest = task.largest && task.largest[row] == c;
            const T grad = by_component ? task.grad_out[component]
                                        : weighted(task.grad_out[row],
                                                   is_largest ? weights.every + weights.largest : weights.every);
            const auto [left, right, worth] = end_bits<width>(task.ends + component * num_bytes, size, k, grad);
            T of_many[width];
#pragma unroll
            for (int v = 0; v < width; ++v) {
                const T of_x = left >> v & 1 ? -worth : T(0), of_y = right >> v & 1 ? worth : T(0);
                of_many[v] = task.one.is_x ? of_y : of_x;
                of_one[v] += task.one.is_x ? of_x : of_y;
            }
            store_values<T, width>(task.grad_many + component * size + k, of_many);
        }
        store_values<T, width>(task.parts + part * dim + c * size + k, of_one);
    }
}

// What a forward pass writes; null: ends, largest and spread if they are not needed.
template <class T>
struct Measured {
    T* out;
    uint8_t* ends;
    int32_t* largest;
    T* spread;
};

template <class T>
void measure(const char* op, const T* x, const T* y, const MaxWeight<T>& max, const IqePairwiseShape& shape,
             Reduction reduction, const Measured<T>& results, Context context) {
    const int64_t num_components = shape.num_components, size = shape.dim_per_component;
    const auto kernel = register_kernel<T, OneRowForward<T>>(size, [&](auto K) {
        return results.ends ? iqe_one_row_forward_kernel<T, K.value, true>
                            : iqe_one_row_forward_kernel<T, K.value, false>;
    });
    const bool in_registers = kernel && is_aligned_to_16(x) && is_aligned_to_16(y) && is_aligned_to_16(results.ends);
    const OneRowForward<T> task{x,
                                y,
                                one_row_of(shape),
                                max,
                                results.out,
                                results.ends,
                                results.largest,
                                results.spread,
                                forward_tiles(shape.pairs(), num_components, in_registers),
                                int(size),
                                reduction};
    if (in_registers)
        launch(op, kernel, task.tiles.tiles, block_threads, 0, context, task);
    else
        launch_by_warp<T>(
            op, task.ends ? iqe_one_row_forward_any_kernel<T, true> : iqe_one_row_forward_any_kernel<T, false>,
            task.tiles.tiles, size, context, task);
}

template <class T>
OneRowParts parts_of(const IqePairwiseShape& shape) {
    const int64_t dim = shape.num_components * shape.dim_per_component;
    return {one_row_of(shape), shape.batch, dim, divide_up(dim, Pack<T>::size)};
}

// Memory of a backward call: what it measures, and parts of the one rows' gradients.
template <class T>
struct OneRowMemory {
    Measured<T> measured;
    T* parts;
};

template <class T>
OneRowMemory<T> take_one_row(Workspace& workspace, const IqePairwiseBackward<T>& call) {
    const IqePairwiseShape& shape = call.shape;
    const int64_t pairs = shape.pairs();
    auto* out = static_cast<T*>(workspace.take(shape.distances(call.reduction) * sizeof(T)));
    void* ends = workspace.take(bytes_of_ends(pairs * shape.num_components, shape.dim_per_component));
    auto* spread = call.grad_max_weight ? static_cast<T*>(workspace.take(pairs * sizeof(T))) : nullptr;
    auto* parts = static_cast<T*>(workspace.take(parts_of<T>(shape).values() * sizeof(T)));
    return {{out, static_cast<uint8_t*>(ends), nullptr, spread}, parts};
}

}  // namespace

template <class T>
void iqe_one_row_forward(const IqePairwiseForward<T>& call, Context context) {
    measure("iqe_pairwise_forward", call.x, call.y, call.max, call.shape, call.reduction,
            {call.out, nullptr, call.largest, nullptr}, context);
}

template <class T>
int64_t iqe_one_row_backward_scratch(const IqePairwiseBackward<T>& call) {
    Workspace workspace{nullptr};
    take_one_row(workspace, call);
    return workspace.used;
}

template <class T>
void iqe_one_row_backward(const IqePairwiseBackward<T>& call, Context context) {
    const char* op = "iqe_pairwise_backward";
    const IqePairwiseShape& shape = call.shape;
    Workspace workspace{static_cast<char*>(call.scratch)};
    const auto memory = take_one_row(workspace, call);
    measure(op, call.x, call.y, call.max, shape, call.reduction, memory.measured, context);

    const OneRow one = one_row_of(shape);
    const OneRowParts parts = parts_of<T>(shape);
    T *const grad_one = one.is_x ? call.grad_x : call.grad_y, *const grad_many = one.is_x ? call.grad_y : call.grad_x;
    const int64_t all_parts = shape.batch * parts.count, size = shape.dim_per_component;
    const OneRowBackward<T> task{call.grad_out,
                                 memory.measured.ends,
                                 call.largest,
                                 call.max,
                                 one,
                                 grad_many,
                                 parts.count == 1 ? grad_one : memory.parts,
                                 all_parts,
                                 parts.count,
                                 all_parts / call.max.num_weights,
                                 int(shape.num_components),
                                 int(size),
                                 int(parts.rows_per_part),
                                 call.reduction};
    constexpr int pack = Pack<T>::size;
    const bool by_pack = size % pack == 0 && is_aligned_to_16(grad_many) && is_aligned_to_16(task.parts);
    const int64_t threads = all_parts * parts.dim / (by_pack ? pack : 1);
    launch(op, by_pack ? iqe_one_row_backward_kernel<T, pack> : iqe_one_row_backward_kernel<T, 1>,
           divide_up(threads, 256), 256, 0, context, task);
    launch_add_parts(op, parts, task.parts, grad_one, context);
    launch_weight_gradient<T>(
        op, {call.max, nullptr, call.grad_out, memory.measured.spread, call.grad_max_weight, shape.pairs()}, context);
}

QMK_INSTANTIATE(iqe_one_row_forward, IqePairwiseForward, Context)
QMK_INSTANTIATE_SCRATCH(iqe_one_row_backward, IqePairwiseBackward)
QMK_INSTANTIATE(iqe_one_row_backward, IqePairwiseBackward, Context)

}  // namespace qmk::cuda
