// Merges the k smallest of rows of distances into those so far.
//
// k <= 32: one warp per row, or eight if rows are few. A thread holds one of the k places; distances are read 128 at a
// time, and only those that come before the last place are inserted, one after another: about k log(columns / k) per
// row. k = 1: every thread keeps the smallest it has seen. Larger k: one block per row. Distances that come before the
// last place are gathered in shared memory, sorted there, and merged into the row in place, from its end.
#include "../math/nearest.h"
#include "../ops/nearest.h"
#include "launch.cuh"
#include "warp.cuh"

namespace qmk::cuda {

namespace {

using QMK_TARGET::Neighbour;

constexpr int block_threads = 256, warps_per_block = block_threads / 32;

template <class T>
struct Merge {
    const T* distances;
    T* values;
    int64_t* indices;
    int64_t rows, columns, k, first;
};

// The order of nearest neighbours: NaN after every number, equal ones by index, index -1 (empty) last.
template <class T>
__device__ __forceinline__ bool precedes(const Neighbour<T>& a, const Neighbour<T>& b) {
    if (a.index < 0 || b.index < 0) return b.index < 0 && a.index >= 0;
    if (a.distance < b.distance) return true;
    const bool a_is_nan = a.distance != a.distance, b_is_nan = b.distance != b.distance;
    if (a_is_nan != b_is_nan) return b_is_nan;
    return !(b.distance < a.distance) && a.index < b.index;
}

template <class T>
__device__ __forceinline__ Neighbour<T> empty() {
    return {T(0), -1};
}

template <class T>
__device__ __forceinline__ Neighbour<T> of_thread(const Neighbour<T>& value, int lane) {
    return {__shfl_sync(whole_warp, value.distance, lane), __shfl_sync(whole_warp, value.index, lane)};
}

// Inserts one distance, the same in the whole warp, into the threads' places, which are sorted.
template <class T>
__device__ __forceinline__ void insert(Neighbour<T>& place, const Neighbour<T>& one, int lane) {
    const Neighbour<T> before{__shfl_up_sync(whole_warp, place.distance, 1),
                              __shfl_up_sync(whole_warp, place.index, 1)};
    if (!precedes(one, place)) return;
    place = lane > 0 && precedes(one, before) ? before : one;
}

// Merges every thread's distance that comes before the last of the k places.
template <class T>
__device__ __forceinline__ void insert_all(Neighbour<T>& place, Neighbour<T>& last, const Neighbour<T>& own, int k,
                                           int lane) {
    unsigned waiting = __ballot_sync(whole_warp, precedes(own, last));
    if (!waiting) return;
    for (; waiting; waiting &= waiting - 1) insert(place, of_thread(own, __ffs(waiting) - 1), lane);
    last = of_thread(place, k - 1);
}

constexpr int loads_at_once = 4;

// k <= 32, `warps` (a power of two up to eight) per row.
template <class T, bool one>
__global__ void __launch_bounds__(block_threads) nearest_merge_kernel(Merge<T> task, int warps) {
    __shared__ T shown_distances[block_threads];
    __shared__ int64_t shown_indices[block_threads];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, part = warp % warps, k = one ? 1 : int(task.k);
    const int rows_at_once = warps_per_block / warps;
    for (int64_t first = int64_t(blockIdx.x) * rows_at_once; first < task.rows;
         first += int64_t(gridDim.x) * rows_at_once) {
        const int64_t row = first + warp / warps;
        const T* distances = task.distances + row * task.columns;
        const bool has_place = row < task.rows && part == 0 && lane < k;
        Neighbour<T> place = empty<T>();
        if (has_place) place = {task.values[row * k + lane], task.indices[row * k + lane]};
        Neighbour<T> last = of_thread(place, k - 1);
        const int64_t step = warps * 32 * loads_at_once;
        for (int64_t start = part * 32 * loads_at_once; row < task.rows && start < task.columns; start += step) {
            Neighbour<T> own[loads_at_once];
#pragma unroll
            for (int n = 0; n < loads_at_once; ++n) {
                const int64_t column = start + n * 32 + lane;
                own[n] = empty<T>();
                if (column < task.columns) own[n] = {distances[column], task.first + column};
            }
#pragma unroll
            for (int n = 0; n < loads_at_once; ++n) {
                if constexpr (one) {
                    if (precedes(own[n], place)) place = own[n];
                } else {
                    insert_all(place, last, own[n], k, lane);
                }
            }
        }
        if constexpr (one)
            for (int distance = 16; distance > 0; distance /= 2) {
                const Neighbour<T> other = of_thread(place, lane ^ distance);
                if (precedes(other, place)) place = other;
            }
        if (warps > 1) {
            shown_distances[threadIdx.x] = place.distance;
            shown_indices[threadIdx.x] = lane < k ? place.index : -1;
            __syncthreads();
            if (part == 0)
                for (int other = 1; other < warps; ++other) {
                    const int at = threadIdx.x + other * 32;
                    const Neighbour<T> own{shown_distances[at], shown_indices[at]};
                    last = of_thread(place, k - 1);
                    insert_all(place, last, own, k, lane);
                }
            __syncthreads();
        }
        if (has_place) {
            task.values[row * k + lane] = place.distance;
            task.indices[row * k + lane] = place.index;
        }
    }
}

constexpr int gathered_most = 1024;  // a power of two, a multiple of the block's threads

// The distances gathered for one row, and their columns.
template <class T>
struct Gathered {
    T distances[gathered_most];
    int columns[gathered_most];

    __device__ __forceinline__ Neighbour<T> at(int n) const { return {distances[n], columns[n]}; }
};

// Sorts the first `count` by a bitonic network; the rest up to a power of two counts as empty.
template <class T>
__device__ __forceinline__ void sort_gathered(Gathered<T>& gathered, int count) {
    int size = 1;
    while (size < count) size *= 2;
    for (int n = count + threadIdx.x; n < size; n += block_threads) gathered.columns[n] = -1;
    __syncthreads();
    for (int run = 2; run <= size; run *= 2)
        for (int distance = run / 2; distance > 0; distance /= 2) {
            for (int n = threadIdx.x; n < size / 2; n += block_threads) {
                const int low = 2 * (n & ~(distance - 1)) + (n & (distance - 1)), high = low + distance;
                const Neighbour<T> a = gathered.at(low), b = gathered.at(high);
                if ((low & run) ? precedes(a, b) : precedes(b, a)) {
                    gathered.distances[low] = b.distance;
                    gathered.columns[low] = int(b.index);
                    gathered.distances[high] = a.distance;
                    gathered.columns[high] = int(a.index);
                }
            }
            __syncthreads();
        }
}

// How many of the first `count` in the merged order are earlier places, which come before equal new ones.
template <class T>
__device__ __forceinline__ int64_t places_among(const T* values, const int64_t* indices, const Gathered<T>& gathered,
                                                int num_gathered, int64_t count) {
    int64_t low = count > num_gathered ? count - num_gathered : 0, high = count;
    while (low < high) {
        const int64_t middle = (low + high) / 2;
        const Neighbour<T> place{values[middle], indices[middle]};
        if (QMK_TARGET::goes_before(gathered.distances[count - 1 - middle], place))
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

// Merges the gathered distances into the places of a row. A place moves towards the end or stays, so that merging from
// the end overwrites nothing that is still to be read.
template <class T>
__device__ __forceinline__ void merge_gathered(T* values, int64_t* indices, int64_t k, int64_t first,
                                               Gathered<T>& gathered, int count) {
    sort_gathered(gathered, count);
    int64_t unchanged = 0;  // places before everything gathered
    for (int64_t past = k; unchanged < past;) {
        const int64_t middle = (unchanged + past) / 2;
        if (QMK_TARGET::goes_before(gathered.distances[0], Neighbour<T>{values[middle], indices[middle]}))
            past = middle;
        else
            unchanged = middle + 1;
    }
    for (int64_t end = k; end > unchanged; end -= block_threads) {
        const int64_t at = end - 1 - threadIdx.x;
        Neighbour<T> merged = empty<T>();
        if (at >= unchanged) {
            const int64_t places = places_among(values, indices, gathered, count, at);
            const int64_t taken = at - places;  // gathered ones before this
            const Neighbour<T> place{values[places], indices[places]};
            merged = place;
            if (taken < count && QMK_TARGET::goes_before(gathered.distances[taken], place))
                merged = {gathered.distances[taken], first + gathered.columns[taken]};
        }
        __syncthreads();
        if (at >= unchanged) {
            values[at] = merged.distance;
            indices[at] = merged.index;
        }
        __syncthreads();
    }
}

// Any k, one block per row.
template <class T>
__global__ void __launch_bounds__(block_threads) nearest_merge_any_kernel(Merge<T> task) {
    __shared__ Gathered<T> gathered;
    __shared__ int counts[warps_per_block];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int64_t row = blockIdx.x; row < task.rows; row += gridDim.x) {
        const T* distances = task.distances + row * task.columns;
        T* values = task.values + row * task.k;
        int64_t* indices = task.indices + row * task.k;
        int count = 0;
        for (int64_t start = 0; start < task.columns; start += block_threads) {
            const int64_t column = start + threadIdx.x;
            const T distance = column < task.columns ? distances[column] : T(0);
            const bool goes = column < task.columns &&
                              QMK_TARGET::goes_before(distance, Neighbour<T>{values[task.k - 1], indices[task.k - 1]});
            const unsigned going = __ballot_sync(whole_warp, goes);
            if (lane == 0) counts[warp] = __popc(going);
            __syncthreads();
            int before = count;
            for (int other = 0; other < warps_per_block; ++other) {
                before += other < warp ? counts[other] : 0;
                count += counts[other];
            }
            if (goes) {
                const int at = before + __popc(going & ((1u << lane) - 1));
                gathered.distances[at] = distance;
                gathered.columns[at] = int(column);
            }
            __syncthreads();
            if (count > gathered_most - block_threads || (count > 0 && start + block_threads >= task.columns)) {
                merge_gathered(values, indices, task.k, task.first, gathered, count);
                count = 0;
            }
        }
    }
}

}  // namespace

template <class T>
void nearest_merge(const NearestMerge<T>& call, Context context) {
    const int64_t rows = call.rows, columns = call.columns, k = call.k, first = call.first;
    int64_t* indices = call.indices;
    T* values = call.values;
    const T* distances = call.distances;
    const char* op = "nearest_merge";
    if (rows == 0 || columns == 0 || k == 0) return;
    if (columns >= int64_t(1) << 31)
        throw std::runtime_error(std::string(op) + ": a tile may have up to 2^31 - 1 columns, got " +
                                 std::to_string(columns));
    const DeviceGuard guard(context.device, op);
    const Merge<T> task{distances, values, indices, rows, columns, k, first};
    if (k > 32) return launch(op, nearest_merge_any_kernel<T>, rows, block_threads, 0, context, task);
    // Eight warps per row if one each would leave most of a device idle.
    const int warps = rows < 2048 && columns >= 1024 ? warps_per_block : 1;
    launch(op, k == 1 ? nearest_merge_kernel<T, true> : nearest_merge_kernel<T, false>,
           divide_up(rows, warps_per_block / warps), block_threads, 0, context, task, warps);
}

QMK_INSTANTIATE(nearest_merge, NearestMerge, Context)

}  // namespace qmk::cuda
