// IQE of rows against rows: kernels and launchers.
//
// Forward, K = 4, 8, 16, 32: one thread a component, its K intervals in registers, sorted by a network and scanned.
// Rows pass through shared memory, so that global memory is read 16 bytes a thread, neighbours side by side. Any other
// K: one warp a component, its intervals in shared memory. Both sum up (and take the maximum of) a row's lengths in the
// block. Backward: one thread for 16 bytes of each gradient. Reads x and y once, or D / 4 bytes of ends; writes once.
//
// Precision: all arithmetic in T. The order of every sum is fixed, so the same input gives the same bits.
#include "../math/iqe.h"
#include "iqe.h"
#include "launch.cuh"
#include "pack.cuh"
#include "sort.cuh"
#include "warp.cuh"

namespace qmk::cuda {

namespace {

using namespace QMK_TARGET;

constexpr int block_threads = 128;

// What a forward launch works on. A tile is whole rows: as many as have up to 128 components, but at least one.
template <class T>
struct Forward {
    const T *x, *y, *max_weight;
    T* out;
    uint8_t* ends;
    int32_t* largest;
    T* spread;
    int64_t rows, tiles;
    int num_components, dim_per_component, rows_per_tile;
    Reduction reduction;
};

// Adds the lengths of one chunk of a tile up to its rows' summaries, and stores what is finished. A tile of one row may
// have many chunks: `row` carries its summary from chunk to chunk.
template <class T>
__device__ __forceinline__ void reduce_chunk(const Forward<T>& task, const T* lengths, int64_t first_row, int num_rows,
                                             int first_component, int count, RowSummary<T>& row) {
    const int num_components = task.num_components;
    const bool whole_rows = num_components <= block_threads;
    const int columns = whole_rows ? num_components : count;
    int width = 1;
    while (width < columns && width < 32) width *= 2;
    const int group = threadIdx.x / width, member = threadIdx.x % width;
    for (int first = 0; first < num_rows; first += int(blockDim.x) / width) {
        const int r = first + group;
        RowSummary<T> part;
        if (r < num_rows)
            for (int c = member; c < columns; c += width) part.add(lengths[r * columns + c], first_component + c);
        part.merge_threads(width);
        if (whole_rows)
            row = part;
        else
            row.merge(part.sum, part.maximum, part.largest);
        if (member == 0 && r < num_rows && (whole_rows || first_component + count == num_components)) {
            const int64_t at = first_row + r;
            task.out[at] = reduced(task.reduction, row.sum, row.maximum, num_components, task.max_weight);
            if (task.largest) task.largest[at] = row.largest;
            if (task.spread)
                task.spread[at] = reduced(Reduction::spread, row.sum, row.maximum, num_components, task.max_weight);
        }
    }
}

// Calls `chunk(component, count)` for every up to 128 neighbouring components of the tiles, counted from the first of
// all; it is to fill `lengths`, which is then reduced.
template <class T, class Chunk>
__device__ __forceinline__ void for_each_chunk(const Forward<T>& task, T* lengths, Chunk&& chunk) {
    for (int64_t tile = blockIdx.x; tile < task.tiles; tile += gridDim.x) {
        const int64_t first_row = tile * task.rows_per_tile, rows_left = task.rows - first_row;
        const int num_rows = rows_left < task.rows_per_tile ? int(rows_left) : task.rows_per_tile;
        const int in_tile = num_rows * task.num_components;
        RowSummary<T> row;
        for (int first = 0; first < in_tile; first += block_threads) {
            const int count = in_tile - first < block_threads ? in_tile - first : block_threads;
            const int64_t component = first_row * task.num_components + first;
            chunk(component, count);
            __syncthreads();
            if (task.reduction == Reduction::none) {
                for (int c = threadIdx.x; c < count; c += blockDim.x) task.out[component + c] = lengths[c];
            } else {
                reduce_chunk(task, lengths, first_row, num_rows, first, count, row);
            }
            __syncthreads();
        }
    }
}

// K numbers a thread, of `count` neighbouring components, by way of shared memory. A component's 16-byte packs lie an
// odd number of packs apart, so that 8 threads reading one each touch all banks.
template <class T, int K>
__device__ __forceinline__ void load_components(const T* from, int count, int4* staged, T (&to)[K]) {
    constexpr int packs = K * sizeof(T) / 16, stride = packs | 1;
    const int4* packs_from = reinterpret_cast<const int4*>(from);
#pragma unroll
    for (int step = 0; step < packs; ++step) {
        const int pack = step * block_threads + threadIdx.x;
        if (pack < count * packs) staged[pack / packs * stride + pack % packs] = packs_from[pack];
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < packs; ++i) {
        const Pack<T> pack = load_pack<T>(staged + threadIdx.x * stride + i);
#pragma unroll
        for (int v = 0; v < Pack<T>::size; ++v)
            to[i * Pack<T>::size + v] = finite_or_nan(pack.values[v], Limits<T>::highest);
    }
    __syncthreads();
}

template <int K>
struct EndsWord;
template <>
struct EndsWord<4> {
    using type = uint8_t;
};
template <>
struct EndsWord<8> {
    using type = uint16_t;
};
template <>
struct EndsWord<16> {
    using type = uint32_t;
};
template <>
struct EndsWord<32> {
    using type = uint64_t;
};

// Two blocks a multiprocessor leave 255 registers a thread, four leave 128.
template <class T, int K, bool keep>
__global__ void __launch_bounds__(block_threads, K * sizeof(T) > 64 ? 2 : 4) iqe_forward_kernel(Forward<T> task) {
    constexpr int packs = K * sizeof(T) / 16, stride = packs | 1;
    __shared__ int4 staged[block_threads * stride];
    __shared__ T lengths[block_threads];
    for_each_chunk(task, lengths, [&](int64_t component, int count) {
        T x[K], y[K];
        load_components(task.x + component * K, count, staged, x);
        load_components(task.y + component * K, count, staged, y);
        if (threadIdx.x >= count) return;
        if constexpr (keep) {
            uint32_t marks[K];
#pragma unroll
            for (int k = 0; k < K; ++k) marks[k] = 1u << k;
            sort_in_registers<K>(x, y, marks);
            IqeEnds<T, uint32_t> scan{-Limits<T>::highest, T(0), 0, 0, 0};
#pragma unroll
            for (int k = 0; k < K; ++k) scan.add(x[k], y[k], marks[k]);
            scan.right |= scan.last;
            using Word = typename EndsWord<K>::type;
            const uint64_t word = uint64_t(scan.right) << K | scan.left;
            reinterpret_cast<Word*>(task.ends)[component + threadIdx.x] = Word(word);
            lengths[threadIdx.x] = scan.length;
        } else {
            sort_in_registers<K>(x, y);
            IqeLength<T> scan{-Limits<T>::highest, T(0)};
#pragma unroll
            for (int k = 0; k < K; ++k) scan.add(x[k], y[k]);
            lengths[threadIdx.x] = scan.length;
        }
    });
}

// A warp's intervals in shared memory, and for each coordinate whether it is a left end (1) and a right end (2).
template <class T>
struct WarpIntervals {
    T *x, *y;
    int32_t* position;
    uint8_t* flags;

    static __host__ __device__ int64_t bytes(int64_t size) {
        return (size * int64_t(2 * sizeof(T) + sizeof(int32_t) + 1) + 15) / 16 * 16;
    }
    __device__ WarpIntervals(unsigned char* memory, int size)
        : x(reinterpret_cast<T*>(memory)),
          y(x + size),
          position(reinterpret_cast<int32_t*>(y + size)),
          flags(reinterpret_cast<uint8_t*>(position + size)) {}
};

// The length of the union of the sorted intervals, and with `keep` their flags: 32 intervals at a time, the furthest y
// before each by a prefix maximum.
template <class T, bool keep>
__device__ __forceinline__ T scan_by_warp(const WarpIntervals<T>& intervals, int size, int lane) {
    T furthest_before = -Limits<T>::highest, length = T(0);
    int pending = -1;  // the last interval so far that extends the union: a right end if the next one starts a piece
    for (int start = 0; start < size; start += 32) {
        const int k = start + lane;
        const T x = k < size ? intervals.x[k] : Limits<T>::highest;
        const T y = k < size ? intervals.y[k] : -Limits<T>::highest;
        T greatest = y;
#pragma unroll
        for (int distance = 1; distance < 32; distance *= 2) {
            const T before = __shfl_up_sync(whole_warp, greatest, distance);
            greatest = lane >= distance && before > greatest ? before : greatest;
        }
        T furthest = __shfl_up_sync(whole_warp, greatest, 1);
        furthest = lane == 0 || furthest_before > furthest ? furthest_before : furthest;
        const T last = __shfl_sync(whole_warp, greatest, 31);
        furthest_before = last > furthest_before ? last : furthest_before;
        const T begin = furthest > x ? furthest : x;
        length += y <= begin ? T(0) : y - begin;  // unordered: the NaN stays
        if constexpr (keep) {
            const bool extends = y > begin, starts = extends && x >= furthest;
            const unsigned extending = __ballot_sync(whole_warp, extends);
            const unsigned starting = __ballot_sync(whole_warp, starts);
            const unsigned later = extending & ~((2u << lane) - 1);
            const bool finishes = extends && later && (starting >> (__ffs(later) - 1) & 1);
            const int position = k < size ? intervals.position[k] : 0;
            if (k < size) intervals.flags[position] = uint8_t(starts | finishes << 1);
            __syncwarp();
            if (extending) {
                if (lane == 0 && pending >= 0 && (starting >> (__ffs(extending) - 1) & 1))
                    intervals.flags[pending] |= 2;
                pending = __shfl_sync(whole_warp, position, 31 - __clz(extending));
            }
        }
    }
    if constexpr (keep) {
        if (lane == 0 && pending >= 0) intervals.flags[pending] |= 2;
        __syncwarp();
    }
    return sum_of_threads(length);
}

template <class T, bool keep>
__global__ void __launch_bounds__(block_threads) iqe_forward_any_kernel(Forward<T> task) {
    extern __shared__ int4 dynamic_shared[];
    __shared__ T lengths[block_threads];
    const int size = task.dim_per_component, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int num_bytes = (2 * size + 7) / 8;
    const WarpIntervals<T> intervals(
        reinterpret_cast<unsigned char*>(dynamic_shared) + warp * WarpIntervals<T>::bytes(size), size);
    for_each_chunk(task, lengths, [&](int64_t first_component, int count) {
        for (int c = warp; c < count; c += blockDim.x / 32) {
            const int64_t component = first_component + c;
            for (int k = lane; k < size; k += 32) {
                intervals.x[k] = finite_or_nan(task.x[component * size + k], Limits<T>::highest);
                intervals.y[k] = finite_or_nan(task.y[component * size + k], Limits<T>::highest);
                intervals.position[k] = k;
            }
            __syncwarp();
            if constexpr (keep)
                sort_by_warp(size, lane, intervals.x, intervals.y, intervals.position);
            else
                sort_by_warp(size, lane, intervals.x, intervals.y);
            const T length = scan_by_warp<T, keep>(intervals, size, lane);
            if (lane == 0) lengths[c] = length;
            if constexpr (keep)
                for (int byte = lane; byte < num_bytes; byte += 32) {
                    int bits = 0;
                    for (int b = 0; b < 8; ++b) {
                        const int place = 8 * byte + b;
                        if (place < size)
                            bits |= (intervals.flags[place] & 1) << b;
                        else if (place < 2 * size)
                            bits |= (intervals.flags[place - size] >> 1) << b;
                    }
                    task.ends[component * num_bytes + byte] = uint8_t(bits);
                }
            __syncwarp();
        }
    });
}

template <class T>
struct Backward {
    const T* grad_out;
    const uint8_t* ends;
    const int32_t* largest;
    const T* max_weight;
    T *grad_x, *grad_y;
    int64_t rows, tiles;
    int num_components, dim_per_component, rows_per_tile;
    Reduction reduction;
};

// `width` neighbouring coordinates a thread: 16 bytes, or one where K or a pointer does not allow more.
template <class T, int width>
__global__ void __launch_bounds__(256) iqe_backward_kernel(Backward<T> task) {
    const unsigned size = task.dim_per_component, groups = size / width;  // groups of coordinates a component
    const unsigned groups_in_row = groups * task.num_components, num_bytes = (2 * size + 7) / 8;
    const auto weights = reduction_weights(task.reduction, task.num_components, task.max_weight);
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
                const bool is_largest = task.largest && task.largest[first_row + r] == in_tile % task.num_components;
                grad = task.grad_out[first_row + r] * (is_largest ? weights.every + weights.largest : weights.every);
            }
            // width divides 8 and K, so that each side's bits lie in one byte.
            const uint8_t* ends = task.ends + component * num_bytes;
            const int left = ends[k / 8] >> (k % 8), right = ends[(size + k) / 8] >> ((size + k) % 8);
            const int64_t at = component * size + k;
            if constexpr (width == 1) {
                task.grad_x[at] = left & 1 ? -grad : T(0);
                task.grad_y[at] = right & 1 ? grad : T(0);
            } else {
                Pack<T> grad_x, grad_y;
#pragma unroll
                for (int v = 0; v < width; ++v) {
                    grad_x.values[v] = left >> v & 1 ? -grad : T(0);
                    grad_y.values[v] = right >> v & 1 ? grad : T(0);
                }
                store_pack(task.grad_x + at, grad_x);
                store_pack(task.grad_y + at, grad_y);
            }
        }
    }
}

template <class T, int K>
void launch_forward(const Forward<T>& task, Context context) {
    if (task.ends)
        launch("iqe_forward", iqe_forward_kernel<T, K, true>, task.tiles, block_threads, 0, context, task);
    else
        launch("iqe_forward", iqe_forward_kernel<T, K, false>, task.tiles, block_threads, 0, context, task);
}

template <class T>
void launch_forward_any(const Forward<T>& task, Context context) {
    const int64_t bytes = WarpIntervals<T>::bytes(task.dim_per_component);
    int64_t warps = block_threads / 32;
    while (warps > 1 && warps * bytes > shared_bytes_without_asking) warps /= 2;
    const auto kernel = task.ends ? iqe_forward_any_kernel<T, true> : iqe_forward_any_kernel<T, false>;
    launch("iqe_forward", kernel, task.tiles, int(warps) * 32, warps * bytes, context, task);
}

}  // namespace

template <class T>
void iqe_forward(const T* x, const T* y, const T* max_weight, T* out, uint8_t* ends, int32_t* largest, T* spread,
                 int64_t rows, int64_t num_components, int64_t dim_per_component, Reduction reduction,
                 Context context) {
    check_row_size("iqe_forward", num_components, dim_per_component);
    if (rows == 0 || num_components == 0) return;
    const DeviceGuard guard(context.device, "iqe_forward");
    const bool in_registers =
        (dim_per_component == 4 || dim_per_component == 8 || dim_per_component == 16 || dim_per_component == 32) &&
        is_aligned_to_16(x) && is_aligned_to_16(y) && (!ends || is_aligned_to_16(ends));
    // A warp takes its time for a component: fewer of them a block, so that few rows still fill the device.
    const int64_t components_per_tile = in_registers ? block_threads : 16;
    const int64_t rows_per_tile = std::max<int64_t>(components_per_tile / num_components, 1);
    const Forward<T> task{x,
                          y,
                          max_weight,
                          out,
                          ends,
                          largest,
                          spread,
                          rows,
                          divide_up(rows, rows_per_tile),
                          int(num_components),
                          int(dim_per_component),
                          int(rows_per_tile),
                          reduction};
    if (!in_registers) return launch_forward_any(task, context);
    switch (dim_per_component) {
        case 4:
            return launch_forward<T, 4>(task, context);
        case 8:
            return launch_forward<T, 8>(task, context);
        case 16:
            return launch_forward<T, 16>(task, context);
        default:
            return launch_forward<T, 32>(task, context);
    }
}

template <class T>
void iqe_backward(const T* grad_out, const uint8_t* ends, const int32_t* largest, const T* max_weight, T* grad_x,
                  T* grad_y, int64_t rows, int64_t num_components, int64_t dim_per_component, Reduction reduction,
                  Context context) {
    check_row_size("iqe_backward", num_components, dim_per_component);
    if (rows == 0 || num_components == 0) return;
    const DeviceGuard guard(context.device, "iqe_backward");
    constexpr int pack = Pack<T>::size;
    const bool by_pack = dim_per_component % pack == 0 && is_aligned_to_16(grad_x) && is_aligned_to_16(grad_y);
    const int64_t groups = num_components * dim_per_component / (by_pack ? pack : 1);
    const int64_t rows_per_tile = std::max<int64_t>(1024 / groups, 1);
    const Backward<T> task{grad_out,
                           ends,
                           largest,
                           max_weight,
                           grad_x,
                           grad_y,
                           rows,
                           divide_up(rows, rows_per_tile),
                           int(num_components),
                           int(dim_per_component),
                           int(rows_per_tile),
                           reduction};
    launch("iqe_backward", by_pack ? iqe_backward_kernel<T, pack> : iqe_backward_kernel<T, 1>, task.tiles, 256, 0,
           context, task);
}

#define QMK_INSTANTIATE(T)                                                                                            \
    template void iqe_forward<T>(const T*, const T*, const T*, T*, uint8_t*, int32_t*, T*, int64_t, int64_t, int64_t, \
                                 Reduction, Context);                                                                 \
    template void iqe_backward<T>(const T*, const uint8_t*, const int32_t*, const T*, T*, T*, int64_t, int64_t,       \
                                  int64_t, Reduction, Context);
QMK_INSTANTIATE(float)
QMK_INSTANTIATE(double)
#undef QMK_INSTANTIATE

}  // namespace qmk::cuda
