// PQE-LH of matching rows. Float32 or float64 throughout.
//
// One pass over x and y, forward and backward; bound by memory. Differences are taken in memory order. For K a power of
// two a tree of shuffles then sums each component, so that lanes are components for the exponential, and backward
// spreads the slopes by one shuffle per vector. Other K go through columns.
#include "../ops/pqe.h"

#include "../math/pqe.h"
#include "lanes.h"
#include "parallel.h"
#include "pqe_pairwise.h"
#include "workspace.h"

namespace qmk::QMK_TARGET {

namespace {

// Components that a task works on at a time; their values stay in the first two levels of cache.
constexpr int64_t components_at_once = 1024;

#ifdef QMK_HAS_SHUFFLE
template <int... lanes, class V>
QMK_INLINE V shuffled_sums(V a, V b, Sequence<lanes...>) {
    return __builtin_shufflevector(a, b, (2 * lanes)...) + __builtin_shufflevector(a, b, (2 * lanes + 1)...);
}

template <int K, int v, int... lanes, class V>
QMK_INLINE V shuffled_repeats(V from, Sequence<lanes...>) {
    constexpr int n = sizeof...(lanes);
    return __builtin_shufflevector(from, from, ((v * n + lanes) / K)...);
}

// The sums of neighbouring lanes of a, then of b: first and second, third and fourth, ...
template <class T>
QMK_INLINE Lanes<T> sums_of_neighbours(Lanes<T> a, Lanes<T> b) {
    return shuffled_sums(a, b, typename MakeSequence<num_lanes<T>>::type{});
}

// Vector v of the vectors that repeat every lane K times.
template <class T, int K, int v>
QMK_INLINE Lanes<T> repeated(Lanes<T> from) {
    return shuffled_repeats<K, v>(from, typename MakeSequence<num_lanes<T>>::type{});
}
#else
template <class T>
QMK_INLINE Lanes<T> sums_of_neighbours(Lanes<T> a, Lanes<T> b) {
    constexpr int half = num_lanes<T> / 2;
    Lanes<T> sums;
    for (int lane = 0; lane < half; ++lane) {
        sums[lane] = a[2 * lane] + a[2 * lane + 1];
        sums[half + lane] = b[2 * lane] + b[2 * lane + 1];
    }
    return sums;
}
template <class T, int K, int v>
QMK_INLINE Lanes<T> repeated(Lanes<T> from) {
    Lanes<T> lanes;
    for (int lane = 0; lane < num_lanes<T>; ++lane) lanes[lane] = from[(v * num_lanes<T> + lane) / K];
    return lanes;
}
#endif

// The sums of K exceeding differences each of num_lanes neighbouring components.
template <class T, int K>
QMK_INLINE Lanes<T> component_sums(const T* x, const T* y) {
    if constexpr (K == 1) {
        return exceeds(load<Lanes<T>>(x), load<Lanes<T>>(y));
    } else {
        constexpr int half = K / 2 * num_lanes<T>;
        return sums_of_neighbours<T>(component_sums<T, K / 2>(x, y), component_sums<T, K / 2>(x + half, y + half));
    }
}

// The same for any K; lanes past last_lane are copies of it.
template <class T>
QMK_INLINE Lanes<T> component_sums_any(const T* x, const T* y, int64_t size, int last_lane) {
    constexpr int strip = 16;
    Lanes<T> x_columns[strip], y_columns[strip], sum{};
    for (int64_t k = 0; k < size; k += strip) {
        const int count = size - k < strip ? int(size - k) : strip;
        load_columns(x + k, size, last_lane, count, x_columns);
        load_columns(y + k, size, last_lane, count, y_columns);
        for (int i = 0; i < count; ++i) sum += exceeds(x_columns[i], y_columns[i]);
    }
    return sum;
}

// Calls use(c, the exponentials of components c .. c + num_lanes). K = 0: any size.
template <class T, int K, class Use>
QMK_INLINE void for_each_exponential(const T* x, const T* y, int64_t count, int64_t size, Use&& use) {
    constexpr int n = num_lanes<T>;
    const T share = T(1) / T(size);
    for (int64_t c = 0; c < count; c += n) {
        const T *block_x = x + c * size, *block_y = y + c * size;
        const int last_lane = count - c < n ? int(count - c) - 1 : n - 1;
        Lanes<T> sum;
        if constexpr (K == 0) {
            sum = component_sums_any<T>(block_x, block_y, size, last_lane);
        } else if (last_lane == n - 1) {
            sum = component_sums<T, K>(block_x, block_y);
        } else {
            T padded_x[n * K]{}, padded_y[n * K]{};
            __builtin_memcpy(padded_x, block_x, (last_lane + 1) * K * sizeof(T));
            __builtin_memcpy(padded_y, block_y, (last_lane + 1) * K * sizeof(T));
            sum = component_sums<T, K>(padded_x, padded_y);
        }
        use(c, last_lane, pqe_exponential<T>(sum, share));
    }
}

template <class T>
QMK_INLINE void store_some(T* to, Lanes<T> values, int last_lane) {
    if (last_lane == num_lanes<T> - 1)
        store(to, values);
    else
        for (int lane = 0; lane <= last_lane; ++lane) to[lane] = values[lane];
}

template <class T>
QMK_INLINE T weighted_sum(const T* values, const T* weights, int64_t count) {
    constexpr int n = num_lanes<T>;
    Lanes<T> sums{};
    int64_t c = 0;
    for (; c + n <= count; c += n) sums += load<Lanes<T>>(values + c) * load<Lanes<T>>(weights + c);
    T sum = sum_of_lanes<T>(sums);
    for (; c < count; ++c) sum += values[c] * weights[c];
    return sum;
}

template <class T, int K>
void forward(const PqeForward<T>& call, int threads) {
    T* out = call.out;
    const T *x = call.x, *y = call.y, *weights = call.weights;
    const PqeShape& shape = call.shape;
    const int64_t num_components = shape.num_components, size = shape.dim_per_component;
    const int wanted_threads = threads_for(shape.rows * num_components * size, 1 << 15, threads);
    if (!weights) {
        const int64_t all = shape.rows * num_components;
        parallel_for((all + components_at_once - 1) / components_at_once, wanted_threads, [=](int64_t task) {
            const int64_t first = task * components_at_once, count = smaller(components_at_once, all - first);
            for_each_exponential<T, K>(x + first * size, y + first * size, count, size,
                                       [&](int64_t c, int last_lane, Exponential<T, Lanes<T>> e) {
                                           store_some<T>(out + first + c, e.one_minus(), last_lane);
                                       });
        });
        return;
    }
    const int64_t rows_at_once = components_at_once / (num_components + 1) + 1;
    const int64_t rows_per_run = shape.rows / shape.num_weights;
    parallel_for((shape.rows + rows_at_once - 1) / rows_at_once, wanted_threads, [=](int64_t task) {
        const int64_t first_row = task * rows_at_once, num_rows = smaller(rows_at_once, shape.rows - first_row);
        const int64_t first = first_row * num_components;
        const auto memory = scratch<2 * components_at_once * sizeof(T)>(
            [=](Workspace& workspace) { return workspace.take<T>(num_rows * num_components); });
        T* components = memory.pieces;
        for_each_exponential<T, K>(x + first * size, y + first * size, num_rows * num_components, size,
                                   [&](int64_t c, int last_lane, Exponential<T, Lanes<T>> e) {
                                       store_some<T>(components + c, e.one_minus(), last_lane);
                                   });
        for (int64_t row = 0; row < num_rows;) {
            const int64_t run = (first_row + row) / rows_per_run;
            const int64_t end = smaller((run + 1) * rows_per_run - first_row, num_rows);
            const T* own_weights = weights + run * num_components;
            for (; row < end; ++row)
                out[first_row + row] = weighted_sum(components + row * num_components, own_weights, num_components);
        }
    });
}

// grad_x = slope where a gradient flows, grad_y = -grad_x; lane l of vector v belongs to component (v n + l) / K.
template <class T, int K, int v = 0>
QMK_INLINE void spread_slopes(Lanes<T> slopes, const T* x, const T* y, T* grad_x, T* grad_y) {
    if constexpr (v < K) {
        constexpr int n = num_lanes<T>;
        const Lanes<T> own = repeated<T, K, v>(slopes);
        const auto flat = is_flat(load<Lanes<T>>(x + v * n), load<Lanes<T>>(y + v * n));
        const Lanes<T> grad = flat ? Lanes<T>{} : own;
        store(grad_x + v * n, grad);
        store(grad_y + v * n, -grad);
        spread_slopes<T, K, v + 1>(slopes, x, y, grad_x, grad_y);
    }
}

template <class T>
QMK_INLINE void spread_slope(T slope, const T* x, const T* y, int64_t size, T* grad_x, T* grad_y) {
    for (int64_t k = 0; k < size; ++k) {
        const T grad = is_flat(x[k], y[k]) ? T(0) : slope;
        grad_x[k] = grad;
        grad_y[k] = -grad;
    }
}

// `slopes` holds, per component, the derivative of the loss by each value that is not flat.
template <class T, int K>
QMK_INLINE void spread_all_slopes(const T* slopes, const T* x, const T* y, int64_t count, int64_t size, T* grad_x,
                                  T* grad_y) {
    constexpr int n = num_lanes<T>;
    int64_t c = 0;
    if constexpr (K != 0)
        for (; c + n <= count; c += n)
            spread_slopes<T, K>(load<Lanes<T>>(slopes + c), x + c * K, y + c * K, grad_x + c * K, grad_y + c * K);
    for (; c < count; ++c)
        spread_slope(slopes[c], x + c * size, y + c * size, size, grad_x + c * size, grad_y + c * size);
}

// Memory of a backward task: its rows' slopes and components.
template <class T>
struct SlopesMemory {
    T *slopes, *components;
};

template <class T, int K>
void backward(const PqeBackward<T>& call, int threads) {
    T *grad_x = call.grad_x, *grad_y = call.grad_y, *partial = call.partial_weights;
    const T *grad_out = call.grad_out, *x = call.x, *y = call.y, *weights = call.weights;
    const PqeShape& shape = call.shape;
    const int64_t num_components = shape.num_components, size = shape.dim_per_component;
    const int64_t group_rows = call.rows_per_group, rows_per_run = shape.rows / shape.num_weights;
    const int64_t groups_per_run = (rows_per_run + group_rows - 1) / group_rows;
    const int64_t rows_at_once = smaller(group_rows, components_at_once / (num_components + 1) + 1);
    const int wanted_threads = threads_for(shape.rows * num_components * size, 1 << 14, threads);
    const T share = T(1) / T(size);
    parallel_for(shape.num_weights * groups_per_run, wanted_threads, [=](int64_t group) {
        const int64_t run = group / groups_per_run, end_of_run = (run + 1) * rows_per_run;
        const int64_t begin_row = run * rows_per_run + group % groups_per_run * group_rows;
        const int64_t end_row = smaller(begin_row + group_rows, end_of_run);
        const T* own_weights = weights ? weights + run * num_components : nullptr;
        T* own_partial = partial ? partial + group * num_components : nullptr;
        if (partial) __builtin_memset(own_partial, 0, num_components * sizeof(T));
        const int64_t most = rows_at_once * num_components;
        const auto memory = scratch<4 * components_at_once * sizeof(T)>(
            [=](Workspace& workspace) { return SlopesMemory<T>{workspace.take<T>(most), workspace.take<T>(most)}; });
        T *slopes = memory.pieces.slopes, *components = memory.pieces.components;
        for (int64_t first_row = begin_row; first_row < end_row; first_row += rows_at_once) {
            const int64_t num_rows = smaller(rows_at_once, end_row - first_row);
            const int64_t first = first_row * num_components, count = num_rows * num_components;
            for_each_exponential<T, K>(x + first * size, y + first * size, count, size,
                                       [&](int64_t c, int last_lane, Exponential<T, Lanes<T>> e) {
                                           store_some<T>(slopes + c, e.value(), last_lane);
                                           if (partial) store_some<T>(components + c, e.one_minus(), last_lane);
                                       });
            for (int64_t row = 0; row < num_rows; ++row) {
                T* own = slopes + row * num_components;
                const T* own_components = components + row * num_components;
                if (!own_weights) {
                    const T* grad = grad_out + (first_row + row) * num_components;
                    for (int64_t c = 0; c < num_components; ++c) own[c] *= grad[c] * share;
                    continue;
                }
                const T grad = grad_out[first_row + row];
                for (int64_t c = 0; c < num_components; ++c) own[c] *= grad * share * own_weights[c];
                if (partial)
                    for (int64_t c = 0; c < num_components; ++c) own_partial[c] += grad * own_components[c];
            }
            spread_all_slopes<T, K>(slopes, x + first * size, y + first * size, count, size, grad_x + first * size,
                                    grad_y + first * size);
        }
    });
}

}  // namespace

template <class T>
void pqe_forward(const PqeForward<T>& call, int threads) {
    with_constant_size(call.shape.dim_per_component, [&](auto size) { forward<T, size.value>(call, threads); });
}

template <class T>
void pqe_backward(const PqeBackward<T>& call, int threads) {
    with_constant_size(call.shape.dim_per_component, [&](auto size) { backward<T, size.value>(call, threads); });
}

QMK_INSTANTIATE(pqe_forward, PqeForward, int)
QMK_INSTANTIATE(pqe_backward, PqeBackward, int)
QMK_INSTANTIATE(pqe_pairwise_forward, PqePairwiseForward, int)
QMK_INSTANTIATE_SCRATCH(pqe_pairwise_forward, PqePairwiseForward)
QMK_INSTANTIATE(pqe_pairwise_backward, PqePairwiseBackward, int)
QMK_INSTANTIATE_SCRATCH(pqe_pairwise_backward, PqePairwiseBackward)

}  // namespace qmk::QMK_TARGET
