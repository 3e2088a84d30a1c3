// Matching rows for heads of component.cuh, stored as numbers of type S. `width` neighbouring threads share a
// component, so that a warp reads neighbouring packs of 16 bytes and sums by shuffles in a fixed order. Forward reads x
// and y once and writes once; backward reads them once, and again from the cache if a component is longer than one pack
// per thread. With `one_row` one side has a single row for each matrix of the other's rows (one_row.cuh).
#pragma once

#include "component.cuh"
#include "one_row.cuh"

namespace qmk::cuda {

namespace {

constexpr int rows_threads = 128;

template <class T, int V, class S>
__device__ __forceinline__ void load_values(const S* from, T (&to)[V]) {
    if constexpr (V == 1) {
        to[0] = T(*from);
    } else {
        const auto pack = load_pack<S, V>(from);
#pragma unroll
        for (int v = 0; v < V; ++v) to[v] = T(pack.values[v]);
    }
}

template <class T, int V, class S>
__device__ __forceinline__ void store_values(S* to, const T (&from)[V]) {
    if constexpr (V == 1) {
        *to = S(from[0]);
    } else {
        Pack<S, V> pack;
#pragma unroll
        for (int v = 0; v < V; ++v) pack.values[v] = S(from[v]);
        typename Pack<S, V>::Bits bits;
        __builtin_memcpy(&bits, &pack, sizeof bits);
        // By name, because after branches the compiler stores the numbers one by one.
        __stwb(reinterpret_cast<typename Pack<S, V>::Bits*>(to), bits);
    }
}

// Sums over `width` neighbouring threads, all of which get the result.
template <class Sums>
__device__ __forceinline__ void merge_threads(Sums& sums, int width) {
    for (int distance = width / 2; distance > 0; distance /= 2) sums.merge_thread(distance);
}

// The rows of x and y that a distance is between.
struct RowsBetween {
    int64_t x, y;
};
template <bool one_row>
__device__ __forceinline__ RowsBetween rows_between(const OneRow& one, int64_t row) {
    const int64_t of_one = one_row ? one.matrix_of(row) : row;
    return {one.is_x ? of_one : row, one.is_x ? row : of_one};
}

template <class T, class S, class Head>
struct ForwardRows {
    Head head;
    Segments segments;
    const S *x, *y;
    T* out;
    int64_t rows;
    int num_components;
    int width, row_width;  // threads per component and per row, powers of two up to 32
    bool by_component;
    OneRow one;
};

template <class T, class S, int V, class Head, bool one_row>
__global__ void __launch_bounds__(rows_threads, 8) forward_rows_kernel(ForwardRows<T, S, Head> task) {
    const int size = task.segments.total(), member = threadIdx.x % task.width;
    const int slots = task.row_width / task.width, slot = threadIdx.x % task.row_width / task.width;
    const int rows_at_once = rows_threads / task.row_width;
    for (int64_t first = int64_t(blockIdx.x) * rows_at_once; first < task.rows;
         first += int64_t(gridDim.x) * rows_at_once) {
        const int64_t row = first + threadIdx.x / task.row_width;
        const auto& head = task.head.of(row);
        const auto [x_row, y_row] = rows_between<one_row>(task.one, row);
        T total = T(0);
        for (int first_component = 0; first_component < task.num_components; first_component += slots) {
            const int c = first_component + slot;
            const bool exists = row < task.rows && c < task.num_components;
            const int64_t component = row * task.num_components + c;
            typename Head::Sums sums;
            if (exists)
                for (int k = member * V; k < size; k += task.width * V) {
                    T x[V], y[V];
                    load_values<T, V>(task.x + (x_row * task.num_components + c) * size + k, x);
                    load_values<T, V>(task.y + (y_row * task.num_components + c) * size + k, y);
#pragma unroll
                    for (int v = 0; v < V; ++v) task.head.add(sums, task.segments.kind_at(k + v), x[v], y[v], T(k + v));
                }
            merge_threads(sums, task.width);
            if (exists) {
                const T value = head.weighted(sums, head.form(), c);
                if (!task.by_component)
                    total += value;
                else if (member == 0)
                    task.out[component] = value;
            }
        }
        if (task.by_component) continue;
        for (int distance = task.row_width / 2; distance >= task.width; distance /= 2)
            total += __shfl_xor_sync(whole_warp, total, distance);
        if (row < task.rows && threadIdx.x % task.row_width == 0) task.out[row] = total;
    }
}

template <class T, class S, class Head>
struct BackwardRows {
    Head head;
    Segments segments;
    const T* grad_out;
    const S *x, *y;
    S *grad_x, *grad_y;
    T* partial;  // null or (groups, num_components): sums of grad_out times the component over a group of rows
    int64_t rows_per_run, groups_per_run, groups;  // a group's rows belong to one run
    int num_components, rows_per_group, width;
    bool by_component;
    OneRow one;
};

// `width` threads handle one component of a group of rows. With `one_row` runs are matrices, the gradient of the one
// side is written as sums over groups, and `partial` by rows.
template <class T, class S, int V, class Head, bool one_row>
__global__ void __launch_bounds__(rows_threads, sizeof(T) == 4 ? 8 : 6)
    backward_rows_kernel(BackwardRows<T, S, Head> task) {
    const int size = task.segments.total(), member = threadIdx.x % task.width;
    const int at_once = rows_threads / task.width, step = task.width * V;
    const int64_t slots = task.groups * task.num_components;
    for (int64_t first = int64_t(blockIdx.x) * at_once; first < slots; first += int64_t(gridDim.x) * at_once) {
        const int64_t slot = first + threadIdx.x / task.width, group = slot / task.num_components;
        const int c = int(slot - group * task.num_components);
        const int64_t run = task.groups_per_run == task.groups ? 0 : group / task.groups_per_run;
        const int64_t first_row = run * task.rows_per_run + (group - run * task.groups_per_run) * task.rows_per_group;
        const int64_t end_of_run = (run + 1) * task.rows_per_run;
        const auto& head = task.head.of(first_row);
        T weight_sum = T(0);
        for (int r = 0; r < task.rows_per_group; ++r) {
            const int64_t row = first_row + r, component = row * task.num_components + c;
            const bool exists = slot < slots && row < end_of_run;
            const auto [x_row, y_row] = rows_between<one_row>(task.one, row);
            const int64_t at = component * size, x_at = (x_row * task.num_components + c) * size,
                          y_at = (y_row * task.num_components + c) * size;
            T x[V], y[V], grads[V], opposite[V];
            typename Head::PlacedSums sums;
            int k = member * V;
            for (; exists && k < size; k += step) {
                load_values<T, V>(task.x + x_at + k, x);
                load_values<T, V>(task.y + y_at + k, y);
#pragma unroll
                for (int v = 0; v < V; ++v) task.head.add(sums, task.segments.kind_at(k + v), x[v], y[v], T(k + v));
            }
            const int kept = k - step;  // the last values are still in x and y
            merge_threads(sums, task.width);
            if (!exists) continue;
            const T grad = task.grad_out[task.by_component ? component : row];
            const auto slopes = head.slopes(sums, head.form(), grad, c);
            if (task.partial) {
                const T part = grad * task.head.component(sums, head.form());
                weight_sum += part;
                if (one_row && member == 0) task.partial[component] = part;
            }
            for (k = kept; k >= 0; k -= step) {
                if (k != kept) {
                    load_values<T, V>(task.x + x_at + k, x);
                    load_values<T, V>(task.y + y_at + k, y);
                }
#pragma unroll
                for (int v = 0; v < V; ++v) {
                    grads[v] = task.head.gradient(slopes, task.segments.kind_at(k + v), x[v], y[v], T(k + v));
                    opposite[v] = -grads[v];
                }
                if constexpr (one_row) {
                    S* const sum_at = (task.one.is_x ? task.grad_x : task.grad_y) + slot * size + k;
                    T of_many[V], sum[V] = {};
                    if (r > 0) load_values<T, V>(sum_at, sum);
#pragma unroll
                    for (int v = 0; v < V; ++v) {
                        of_many[v] = task.one.is_x ? opposite[v] : grads[v];
                        sum[v] -= of_many[v];
                    }
                    store_values<T, V>((task.one.is_x ? task.grad_y : task.grad_x) + at + k, of_many);
                    store_values<T, V>(sum_at, sum);
                } else {
                    store_values<T, V>(task.grad_x + at + k, grads);
                    store_values<T, V>(task.grad_y + at + k, opposite);
                }
            }
        }
        if (!one_row && task.partial && slot < slots && member == 0) task.partial[slot] = weight_sum;
    }
}

inline int power_of_two_up_to_32(int64_t least) {
    int power = 1;
    while (power < least && power < 32) power *= 2;
    return power;
}

template <bool one_row = false, class T, class S, class Head>
void launch_forward_rows(const char* op, Head head, Segments segments, const S* x, const S* y, T* out, int64_t rows,
                         int64_t num_components, bool by_component, Context context, OneRow one = {}) {
    constexpr int pack = Pack<T>::size, bytes = pack * sizeof(S);
    const int size = segments.total();
    const bool by_pack = size % pack == 0 && is_aligned(x, bytes) && is_aligned(y, bytes);
    const int width = power_of_two_up_to_32(divide_up(size, by_pack ? pack : 1));
    const int row_width = power_of_two_up_to_32(width * num_components);
    const ForwardRows<T, S, Head> task{head,      segments,     x,  y, out, rows, int(num_components), width,
                                       row_width, by_component, one};
    launch(op, by_pack ? forward_rows_kernel<T, S, pack, Head, one_row> : forward_rows_kernel<T, S, 1, Head, one_row>,
           divide_up(rows, rows_threads / row_width), rows_threads, 0, context, task);
}

template <bool one_row = false, class T, class S, class Head>
void launch_backward_rows(const char* op, Head head, Segments segments, const T* grad_out, const S* x, const S* y,
                          S* grad_x, S* grad_y, T* partial, int64_t rows, int64_t runs, int64_t rows_per_group,
                          int64_t num_components, bool by_component, Context context, OneRow one = {}) {
    constexpr int pack = Pack<T>::size, bytes = pack * sizeof(S);
    const int size = segments.total();
    const bool by_pack = size % pack == 0 && is_aligned(x, bytes) && is_aligned(y, bytes) &&
                         is_aligned(grad_x, bytes) && is_aligned(grad_y, bytes);
    const int width = power_of_two_up_to_32(divide_up(size, by_pack ? pack : 1));
    const int64_t rows_per_run = rows / runs, groups_per_run = divide_up(rows_per_run, rows_per_group);
    const int64_t groups = runs * groups_per_run;
    const BackwardRows<T, S, Head> task{head,
                                        segments,
                                        grad_out,
                                        x,
                                        y,
                                        grad_x,
                                        grad_y,
                                        partial,
                                        rows_per_run,
                                        groups_per_run,
                                        groups,
                                        int(num_components),
                                        int(rows_per_group),
                                        width,
                                        by_component,
                                        one};
    launch(op, by_pack ? backward_rows_kernel<T, S, pack, Head, one_row> : backward_rows_kernel<T, S, 1, Head, one_row>,
           divide_up(groups * num_components, rows_threads / width), rows_threads, 0, context, task);
}

// Pairs of many rows with one.
template <class T, class Head>
void launch_forward_one_row(const char* op, Head head, Segments segments, const T* x, const T* y, T* out, int64_t batch,
                            OneRow one, int64_t num_components, bool by_component, Context context) {
    launch_forward_rows<true>(op, head, segments, x, y, out, batch * one.rows_per_matrix, num_components, by_component,
                              context, one);
}

template <class T>
OneRowParts one_row_parts(OneRow one, int64_t batch, int64_t num_components, int64_t size) {
    const int64_t threads_per_row = num_components * power_of_two_up_to_32(divide_up(size, Pack<T>::size));
    return {one, batch, num_components * size, threads_per_row};
}

template <class T, class Head>
void launch_backward_one_row(const char* op, Head head, Segments segments, const T* grad_out, const T* x, const T* y,
                             T* grad_x, T* grad_y, T* partial, void* scratch, int64_t batch, OneRow one,
                             int64_t num_components, bool by_component, Context context) {
    const OneRowParts parts = one_row_parts<T>(one, batch, num_components, segments.total());
    T* const grad_one = one.is_x ? grad_x : grad_y;
    T* const sums = parts.count == 1 ? grad_one : static_cast<T*>(scratch);
    launch_backward_rows<true>(op, head, segments, grad_out, x, y, one.is_x ? sums : grad_x, one.is_x ? grad_y : sums,
                               partial, batch * one.rows_per_matrix, batch, parts.rows_per_part, num_components,
                               by_component, context, one);
    launch_add_parts(op, parts, sums, grad_one, context);
}

}  // namespace

}  // namespace qmk::cuda
