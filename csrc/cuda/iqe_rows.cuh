// Shared by the forward kernels that measure rows by IQE: how a block walks over rows and reduces their components, and
// how a thread (intervals in registers) or a warp (in shared memory) measures one component.
#pragma once

#include <type_traits>

#include "../math/iqe.h"
#include "../math/reduction.h"
#include "launch.cuh"
#include "max_weight.cuh"
#include "pack.cuh"
#include "sort.cuh"
#include "warp.cuh"

namespace qmk::cuda {

namespace {

using namespace QMK_TARGET;

constexpr int block_threads = 128;

// A tile holds whole rows: as many as fit into `components_per_tile` components, but at least one.
struct RowTiles {
    int64_t rows, tiles;
    int num_components, rows_per_tile;
};

inline RowTiles row_tiles(int64_t rows, int64_t num_components, int64_t components_per_tile) {
    const int64_t rows_per_tile = std::max<int64_t>(components_per_tile / num_components, 1);
    return {rows, divide_up(rows, rows_per_tile), int(num_components), int(rows_per_tile)};
}

// The tile of kernels with one thread or, for large components, one warp per component. Warps take longer, so their
// blocks get fewer components, so that few rows still fill the device.
inline RowTiles forward_tiles(int64_t rows, int64_t num_components, bool in_registers) {
    return row_tiles(rows, num_components, in_registers ? block_threads : 16);
}

// Up to 128 neighbouring components of a tile; `first` counts from the tile's first.
struct Chunk {
    int64_t first_row;
    int num_rows, first, count;
};

// Reduces the lengths of a chunk to its rows' summaries and calls `finish(row, summary)` for finished rows, in one
// thread per row. A tile of one row may have many chunks: `row` carries its summary from chunk to chunk.
template <class T, class Finish>
__device__ __forceinline__ void reduce_chunk(const RowTiles& tiles, const Chunk& chunk, const T* lengths,
                                             RowSummary<T>& row, Finish&& finish) {
    const int num_components = tiles.num_components;
    const bool whole_rows = num_components <= block_threads;
    const int columns = whole_rows ? num_components : chunk.count;
    int width = 1;
    while (width < columns && width < 32) width *= 2;
    const int group = threadIdx.x / width, member = threadIdx.x % width;
    for (int first = 0; first < chunk.num_rows; first += int(blockDim.x) / width) {
        const int r = first + group;
        RowSummary<T> part;
        if (r < chunk.num_rows)
            for (int c = member; c < columns; c += width) part.add(lengths[r * columns + c], chunk.first + c);
        part.merge_threads(width);
        if (whole_rows)
            row = part;
        else
            row.merge(part.sum, part.maximum, part.largest);
        if (member == 0 && r < chunk.num_rows && (whole_rows || chunk.first + chunk.count == num_components))
            finish(chunk.first_row + r, row);
    }
}

// Calls `measure(component, count)` for every chunk of the tiles, with the index of its first component among all, and
// then `reduce(chunk, rows)`; Rows is what `reduce` carries from chunk to chunk of a tile.
template <class Rows, class Measure, class Reduce>
__device__ __forceinline__ void for_each_chunk(const RowTiles& tiles, Measure&& measure, Reduce&& reduce) {
    for (int64_t tile = blockIdx.x; tile < tiles.tiles; tile += gridDim.x) {
        const int64_t first_row = tile * tiles.rows_per_tile, rows_left = tiles.rows - first_row;
        const int num_rows = rows_left < tiles.rows_per_tile ? int(rows_left) : tiles.rows_per_tile;
        const int in_tile = num_rows * tiles.num_components;
        Rows rows;
        for (int first = 0; first < in_tile; first += block_threads) {
            const int count = in_tile - first < block_threads ? in_tile - first : block_threads;
            measure(first_row * tiles.num_components + first, count);
            __syncthreads();
            reduce(Chunk{first_row, num_rows, first, count}, rows);
            __syncthreads();
        }
    }
}

// Calls `measure(component, count)` for every chunk of the tiles; it fills `lengths`, which is then reduced. Task has
// the arguments of a forward launch: tiles, reduction, max and the results.
template <class T, class Task, class Measure>
__device__ __forceinline__ void reduce_all(const Task& task, const T* lengths, Measure&& measure) {
    const int num_components = task.tiles.num_components;
    for_each_chunk<RowSummary<T>>(task.tiles, measure, [&](const Chunk& chunk, RowSummary<T>& row) {
        if (task.reduction == Reduction::none) {
            const int64_t component = chunk.first_row * num_components + chunk.first;
            for (int c = threadIdx.x; c < chunk.count; c += blockDim.x) task.out[component + c] = lengths[c];
            return;
        }
        reduce_chunk(task.tiles, chunk, lengths, row, [&](int64_t at, const RowSummary<T>& whole) {
            const T weight = weight_of_row(task.max, at, task.tiles.rows);
            task.out[at] = reduced(task.reduction, whole.sum, whole.maximum, num_components, weight);
            if (task.largest) task.largest[at] = whole.largest;
            if (task.spread)
                task.spread[at] = reduced(Reduction::spread, whole.sum, whole.maximum, num_components, weight);
        });
    });
}

// K numbers of type S in packs, of 16 bytes or, where a component is not longer, of 8.
template <class S, int K>
struct ComponentPacks {
    static constexpr int size = K < Pack<S>::size ? K : Pack<S>::size, count = K / size;
    using Bits = typename Pack<S, size>::Bits;
    // Components are an odd number of packs apart in shared memory, so that 8 threads reading one each touch all banks.
    static constexpr int stride = count | 1, staged = block_threads * stride;

    // Enough for the packs and, after them, for `columns` numbers of each thread.
    template <class T>
    static constexpr int staged_or(int columns) {
        return std::max(staged, int(columns * block_threads * sizeof(T) / sizeof(Bits)));
    }
};

// Loads K numbers per thread, of `count` neighbouring components, through shared memory: `source(i)` is the address of
// their i-th pack of numbers of type S. A thread has up to `at_once` packs under way, in registers.
template <class S, int at_once = 16, class T, int K, class Source>
__device__ __forceinline__ void load_packs(Source&& source, int count, typename ComponentPacks<S, K>::Bits* staged,
                                           T (&to)[K]) {
    using Packs = ComponentPacks<S, K>;
#pragma unroll at_once
    for (int step = 0; step < Packs::count; ++step) {
        const int pack = step * block_threads + threadIdx.x;
        if (pack < count * Packs::count)
            staged[pack / Packs::count * Packs::stride + pack % Packs::count] = *source(pack);
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < Packs::count; ++i) {
        const auto pack = load_pack<S, Packs::size>(staged + threadIdx.x * Packs::stride + i);
#pragma unroll
        for (int v = 0; v < Packs::size; ++v)
            to[i * Packs::size + v] = finite_or_nan(T(pack.values[v]), Limits<T>::highest);
    }
    __syncthreads();
}

// The same for components that are adjacent in memory.
template <int at_once = 16, class S, class T, int K>
__device__ __forceinline__ void load_components(const S* from, int count, typename ComponentPacks<S, K>::Bits* staged,
                                                T (&to)[K]) {
    const auto* packs_from = reinterpret_cast<const typename ComponentPacks<S, K>::Bits*>(from);
    load_packs<S, at_once>([&](int pack) { return packs_from + pack; }, count, staged, to);
}

// The minimum number of blocks per multiprocessor for kernels with `bytes` of x in a thread's registers, and what it is
// sorted with: two leave 255 registers per thread, three leave 168, four leave 128.
constexpr int register_blocks(int bytes) {
    return bytes > 128 ? 2 : bytes > 64 ? 3 : 4;
}

// The kernel of a component of `size` values in a thread's registers: `of(K)`, where K is that size as a type. Null if
// there is none: 64 doubles exceed a thread's registers.
template <class T, class Task, class Of>
auto register_kernel(int64_t size, Of&& of) -> void (*)(Task) {
    switch (size) {
        case 4:
            return of(std::integral_constant<int, 4>());
        case 8:
            return of(std::integral_constant<int, 8>());
        case 16:
            return of(std::integral_constant<int, 16>());
        case 32:
            return of(std::integral_constant<int, 32>());
        default:
            if constexpr (sizeof(T) == 4)
                if (size == 64) return of(std::integral_constant<int, 64>());
            return nullptr;
    }
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

template <class Mark, int K>
__device__ __forceinline__ void mark_intervals(Mark (&marks)[K]) {
#pragma unroll
    for (int k = 0; k < K; ++k) marks[k] = Mark(1) << k;
}

// Stores the ends found by a finished scan.
template <int K, class T, class Mark>
__device__ __forceinline__ void store_scan(IqeEnds<T, Mark> scan, uint8_t* ends, int64_t component) {
    scan.finish(Mark(~uint64_t(0) >> (64 - K)));
    if constexpr (K == 64) {
        reinterpret_cast<ulonglong2*>(ends)[component] = {scan.left, scan.right};
    } else {
        using Word = typename EndsWord<K>::type;
        const uint64_t word = uint64_t(scan.right) << K | scan.left;
        reinterpret_cast<Word*>(ends)[component] = Word(word);
    }
}

// The length of the union of intervals sorted by x; stores its ends.
template <class T, int K>
__device__ __forceinline__ T scan_in_registers(const T (&x)[K], const T (&y)[K], const uint32_t (&marks)[K],
                                               uint8_t* ends, int64_t component) {
    IqeEnds<T, uint32_t> scan{-Limits<T>::highest, T(0), 0, 0, 0};
#pragma unroll
    for (int k = 0; k < K; ++k) scan.add(x[k], y[k], marks[k]);
    store_scan<K>(scan, ends, component);
    return scan.length;
}

// Of components of 16 and more only x is sorted, along with places in shared memory, where the other numbers wait, in a
// column of each thread: a comparator takes five instructions, and with y and marks seven.
template <int K>
constexpr bool sorts_places = K >= 16;

template <int K>
__device__ __forceinline__ void find_places(uint32_t (&places)[K]) {
#pragma unroll
    for (int k = 0; k < K; ++k) places[k] = k * block_threads + threadIdx.x;
}

template <class T, int K>
__device__ __forceinline__ void store_column(const T (&numbers)[K], T* columns) {
#pragma unroll
    for (int k = 0; k < K; ++k) columns[k * block_threads + threadIdx.x] = numbers[k];
}

template <int K>
__device__ __forceinline__ auto mark_of(uint32_t place) {
    return std::conditional_t<K <= 32, uint32_t, uint64_t>(1) << (place / block_threads);
}

// As scan_in_registers, with y in columns.
template <class T, int K>
__device__ __forceinline__ T scan_by_places(const T (&x)[K], const T* columns, const uint32_t (&places)[K],
                                            uint8_t* ends, int64_t component) {
    IqeEnds<T, decltype(mark_of<K>(0))> scan{-Limits<T>::highest, T(0), 0, 0, 0};
#pragma unroll
    for (int k = 0; k < K; ++k) scan.add(x[k], columns[places[k]], mark_of<K>(places[k]));
    store_scan<K>(scan, ends, component);
    return scan.length;
}

// How many numbers of a thread `measure_in_registers` keeps in columns.
template <int K, bool keep>
constexpr int numbers_in_columns = keep && sorts_places<K> ? K : 0;

// Sorts a component in registers and returns the length of its union; with `keep` it stores the ends.
template <bool keep, class T, int K>
__device__ __forceinline__ T measure_in_registers(T (&x)[K], T (&y)[K], T* columns, uint8_t* ends, int64_t component) {
    if constexpr (numbers_in_columns<K, keep> > 0) {
        store_column(y, columns);
        uint32_t places[K];
        find_places(places);
        sort_in_registers<K>(x, places);
        return scan_by_places(x, columns, places, ends, component);
    } else if constexpr (keep) {
        uint32_t marks[K];
        mark_intervals(marks);
        sort_in_registers<K>(x, y, marks);
        return scan_in_registers(x, y, marks, ends, component);
    } else {
        sort_in_registers<K>(x, y);
        IqeLength<T> scan{-Limits<T>::highest, T(0)};
#pragma unroll
        for (int k = 0; k < K; ++k) scan.add(x[k], y[k]);
        return scan.length;
    }
}

// A warp's intervals in shared memory, and for each coordinate whether it is a left end (1) or a right end (2).
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
    int pending = -1;  // the last interval that extends the union so far: a right end if the next one starts a piece
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
        length += y <= begin ? T(0) : y - begin;  // unordered, so NaN stays
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

// The length of one component's union, and with `keep` its ends, for all threads of a warp.
template <class T, bool keep, class S>
__device__ __forceinline__ T measure_by_warp(const WarpIntervals<T>& intervals, const S* x, const S* y, int size,
                                             int lane, uint8_t* ends) {
    for (int k = lane; k < size; k += 32) {
        intervals.x[k] = finite_or_nan(T(x[k]), Limits<T>::highest);
        intervals.y[k] = finite_or_nan(T(y[k]), Limits<T>::highest);
        intervals.position[k] = k;
    }
    __syncwarp();
    if constexpr (keep)
        sort_by_warp(size, lane, intervals.x, intervals.y, intervals.position);
    else
        sort_by_warp(size, lane, intervals.x, intervals.y);
    const T length = scan_by_warp<T, keep>(intervals, size, lane);
    if constexpr (keep)
        for (int byte = lane; byte < (2 * size + 7) / 8; byte += 32) {
            int bits = 0;
            for (int b = 0; b < 8; ++b) {
                const int place = 8 * byte + b;
                if (place < size)  // with NaN, as in IqeEnds::finish
                    bits |= (length != length ? 1 : intervals.flags[place] & 1) << b;
                else if (place < 2 * size && length == length)
                    bits |= (intervals.flags[place - size] >> 1) << b;
            }
            ends[byte] = uint8_t(bits);
        }
    __syncwarp();
    return length;
}

// Which of some neighbouring coordinates are left and right ends, and the gradient of an end.
template <class T>
struct EndBits {
    int left, right;
    T worth;
};

// The `width` coordinates of a component from the k-th on; width divides 8 and the size, so that each side's bits lie
// in one byte. In a component with NaN all are both ends, with gradient NaN.
template <int width, class T>
__device__ __forceinline__ EndBits<T> end_bits(const uint8_t* ends, unsigned size, unsigned k, T worth) {
    constexpr int all = (1 << width) - 1;
    const int left = ends[k / 8] >> (k % 8) & all, right = ends[(size + k) / 8] >> ((size + k) % 8) & all;
    if (left == all && right == 0 && marks_nan(ends, size)) return {all, all, T(__builtin_nan(""))};
    return {left, right, worth};
}

// A block of as many warps, up to four, as fit into the shared memory that needs no request.
template <class T, class Task>
void launch_by_warp(const char* op, void (*kernel)(Task), int64_t tiles, int64_t dim_per_component, Context context,
                    const Task& task) {
    const int64_t bytes = WarpIntervals<T>::bytes(dim_per_component);
    int64_t warps = block_threads / 32;
    while (warps > 1 && warps * bytes > shared_bytes_without_asking) warps /= 2;
    launch(op, kernel, tiles, int(warps) * 32, warps * bytes, context, task);
}

}  // namespace

}  // namespace qmk::cuda
