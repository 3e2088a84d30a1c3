// IQE of matching rows: kernels and launchers.
//
// Forward, K = 4, 8, 16, 32 and, in float, 64: one thread per component, its K intervals in registers, sorted by a
// network and scanned. Rows pass through shared memory, so that neighbouring threads read 16 adjacent bytes each of
// global memory. Any other K: one warp per component, its intervals in shared memory. Both sum (and take the maximum
// of) a row's lengths within the block. Backward: one thread for 16 bytes of each gradient. Reads x and y once, or D /
// 4 bytes of ends; writes once.
//
// Precision: all arithmetic in T; x, y and their gradients may be stored in half precision. The order of every sum is
// fixed, so the same input gives the same bits.
#include "../ops/iqe.h"
#include "half.cuh"
#include "iqe_rows.cuh"

namespace qmk::cuda {

namespace {

// The arguments of a forward launch; x and y are stored as numbers of type S.
template <class T, class S>
struct Forward {
    const S *x, *y;
    MaxWeight<T> max;
    T* out;
    uint8_t* ends;
    int32_t* largest;
    T* spread;
    RowTiles tiles;
    int dim_per_component;
    Reduction reduction;
};

// Four blocks have the registers of a component of 16 doubles or 32 floats, three of 64 floats, two of 32 doubles.
template <class T, class S, int K, bool keep>
__global__ void __launch_bounds__(block_threads, K * sizeof(T) <= 128 ? 4
                                                 : K == 64            ? 3
                                                                      : 2) iqe_forward_kernel(Forward<T, S> task) {
    using Packs = ComponentPacks<S, K>;
    __shared__ typename Packs::Bits staged[Packs::template staged_or<T>(numbers_in_columns<K, keep>)];
    __shared__ T lengths[block_threads];
    reduce_all(task, lengths, [&](int64_t component, int count) {
        T x[K], y[K];
        load_components(task.x + component * K, count, staged, x);
        load_components(task.y + component * K, count, staged, y);
        if (threadIdx.x >= count) return;
        lengths[threadIdx.x] =
            measure_in_registers<keep>(x, y, reinterpret_cast<T*>(staged), task.ends, component + threadIdx.x);
    });
}

template <class T, class S, bool keep>
__global__ void __launch_bounds__(block_threads) iqe_forward_any_kernel(Forward<T, S> task) {
    extern __shared__ int4 dynamic_shared[];
    __shared__ T lengths[block_threads];
    const int size = task.dim_per_component, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int num_bytes = (2 * size + 7) / 8;
    const WarpIntervals<T> intervals(
        reinterpret_cast<unsigned char*>(dynamic_shared) + warp * WarpIntervals<T>::bytes(size), size);
    reduce_all(task, lengths, [&](int64_t first_component, int count) {
        for (int c = warp; c < count; c += blockDim.x / 32) {
            const int64_t component = first_component + c;
            const T length = measure_by_warp<T, keep>(intervals, task.x + component * size, task.y + component * size,
                                                      size, lane, task.ends + component * num_bytes);
            if (lane == 0) lengths[c] = length;
        }
    });
}

template <class T, class S>
struct Backward {
    const T* grad_out;
    const uint8_t* ends;
    const int32_t* largest;
    MaxWeight<T> max;
    S *grad_x, *grad_y;
    int64_t rows, tiles;
    int num_components, dim_per_component, rows_per_tile;
    Reduction reduction;
};

// `width` neighbouring coordinates per thread: 16 bytes, or one coordinate if K or a pointer does not allow more.
template <class T, class S, int width>
__global__ void __launch_bounds__(256) iqe_backward_kernel(Backward<T, S> task) {
    const unsigned size = task.dim_per_component, groups = size / width;  // groups of coordinates per component
    const unsigned groups_in_row = groups * task.num_components, num_bytes = (2 * size + 7) / 8;
    const bool by_component = task.reduction == Reduction::none;
    for (int64_t tile = blockIdx.x; tile < task.tiles; tile += gridDim.x) {
        const int64_t first_row = tile * task.rows_per_tile, rows_left = task.rows - first_row;
        const unsigned num_rows = rows_left < task.rows_per_tile ? unsigned(rows_left) : task.rows_per_tile;
        const int64_t first_component = first_row * task.num_components;
        for (unsigned group = threadIdx.x; group < num_rows * groups_in_row; group += blockDim.x) {
            const unsigned in_tile = group / groups, k = group % groups * width, r = in_tile / task.num_components;
            const int64_t component = first_component + in_tile;
            T grad;
            if (by_component) {
                grad = task.grad_out[component];
            } else {
                const T weight = weight_of_row(task.max, first_row + r, task.rows);
                const auto weights = reduction_weights(task.reduction, task.num_components, weight);
                const bool is_largest = task.largest && task.largest[first_row + r] == in_tile % task.num_components;
                grad = weighted(task.grad_out[first_row + r],
                                is_largest ? weights.every + weights.largest : weights.every);
            }
            const auto [left, right, worth] = end_bits<width>(task.ends + component * num_bytes, size, k, grad);
            const int64_t at = component * size + k;
            if constexpr (width == 1) {
                task.grad_x[at] = S(left & 1 ? -worth : T(0));
                task.grad_y[at] = S(right & 1 ? worth : T(0));
            } else {
                Pack<S> grad_x, grad_y;
#pragma unroll
                for (int v = 0; v < width; ++v) {
                    grad_x.values[v] = S(left >> v & 1 ? -worth : T(0));
                    grad_y.values[v] = S(right >> v & 1 ? worth : T(0));
                }
                store_pack(task.grad_x + at, grad_x);
                store_pack(task.grad_y + at, grad_y);
            }
        }
    }
}

template <class S, class T>
void forward(const IqeForward<T>& call, Context context) {
    const int64_t num_components = call.shape.num_components, dim_per_component = call.shape.dim_per_component;
    const S *x = numbers_of<S>(call.x), *y = numbers_of<S>(call.y);
    const auto kernel = register_kernel<T, Forward<T, S>>(dim_per_component, [&](auto K) {
        return call.ends ? iqe_forward_kernel<T, S, K.value, true> : iqe_forward_kernel<T, S, K.value, false>;
    });
    const bool in_registers =
        kernel && is_aligned_to_16(x) && is_aligned_to_16(y) && (!call.ends || is_aligned_to_16(call.ends));
    const Forward<T, S> task{x,
                             y,
                             call.max,
                             call.out,
                             call.ends,
                             call.largest,
                             call.spread,
                             forward_tiles(call.shape.rows, num_components, in_registers),
                             int(dim_per_component),
                             call.reduction};
    if (in_registers) return launch("iqe_forward", kernel, task.tiles.tiles, block_threads, 0, context, task);
    launch_by_warp<T>("iqe_forward",
                      call.ends ? iqe_forward_any_kernel<T, S, true> : iqe_forward_any_kernel<T, S, false>,
                      task.tiles.tiles, dim_per_component, context, task);
}

template <class S, class T>
void backward(const IqeBackward<T>& call, Context context) {
    const int64_t rows = call.shape.rows, num_components = call.shape.num_components,
                  dim_per_component = call.shape.dim_per_component;
    S *grad_x = numbers_of<S>(call.grad_x), *grad_y = numbers_of<S>(call.grad_y);
    constexpr int pack = Pack<S>::size;
    const bool by_pack = dim_per_component % pack == 0 && is_aligned_to_16(grad_x) && is_aligned_to_16(grad_y);
    const int64_t groups = num_components * dim_per_component / (by_pack ? pack : 1);
    const int64_t rows_per_tile = std::max<int64_t>(1024 / groups, 1);
    const Backward<T, S> task{call.grad_out,
                              call.ends,
                              call.largest,
                              call.max,
                              grad_x,
                              grad_y,
                              rows,
                              divide_up(rows, rows_per_tile),
                              int(num_components),
                              int(dim_per_component),
                              int(rows_per_tile),
                              call.reduction};
    launch("iqe_backward", by_pack ? iqe_backward_kernel<T, S, pack> : iqe_backward_kernel<T, S, 1>, task.tiles, 256, 0,
           context, task);
}

}  // namespace

template <class T>
void iqe_forward(const IqeForward<T>& call, Context context) {
    check_row_size("iqe_forward", call.shape.num_components, call.shape.dim_per_component);
    if (call.shape.rows == 0 || call.shape.num_components == 0) return;
    const DeviceGuard guard(context.device, "iqe_forward");
    with_storage<T>(call.x.storage, [&](auto number) { forward<decltype(number)>(call, context); });
}

template <class T>
void iqe_backward(const IqeBackward<T>& call, Context context) {
    check_row_size("iqe_backward", call.shape.num_components, call.shape.dim_per_component);
    if (call.shape.rows == 0 || call.shape.num_components == 0) return;
    const DeviceGuard guard(context.device, "iqe_backward");
    with_storage<T>(call.grad_x.storage, [&](auto number) { backward<decltype(number)>(call, context); });
    launch_weight_gradient<T>("iqe_backward",
                              {call.max, nullptr, call.grad_out, call.spread, call.grad_max_weight, call.shape.rows},
                              context);
}

QMK_INSTANTIATE(iqe_forward, IqeForward, Context)
QMK_INSTANTIATE(iqe_backward, IqeBackward, Context)

}  // namespace qmk::cuda
