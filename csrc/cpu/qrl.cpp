// QRL's critic with an IQE head: one pass from embeddings to the loss, one back.
//
// Forward: a block of components is sorted by x once, with y and the goal beside it, and scanned twice. What backward
// needs are two bits an element and pair and one slope a row and pair. Goals that are y rolled by a row are read where
// they lie.
#include "qrl.h"

#include <cstdlib>

#include "iqe_components.h"
#include "parallel.h"

namespace qmk::QMK_TARGET {

namespace {

// The lengths of a block of components against two rows.
template <class T>
struct TwoLengths {
    Lanes<T> to_goal, local;
};

template <class T, int K>
QMK_INLINE TwoLengths<T> block_lengths_of_two(const T* x, const T* goal, const T* y, int last_lane, uint8_t* goal_ends,
                                              uint8_t* ends) {
    Lanes<T> x_lanes[K], y_lanes[K], goal_lanes[K];
    IndexLanes<T> marks[K];
    load_intervals(x, y, K, last_lane, x_lanes, y_lanes);
    load_columns(goal, K, last_lane, K, goal_lanes);
    for (int k = 0; k < K; ++k) {
        goal_lanes[k] = finite_or_nan(goal_lanes[k], broadcast(Limits<T>::highest));
        marks[k] = int32_t(1u << k) - IndexLanes<T>{};
    }
    sort_fixed<K>(x_lanes, y_lanes, goal_lanes, marks);
    const Lanes<T> lowest = broadcast(-Limits<T>::highest);
    using Word =
        std::conditional_t<K == 4, uint8_t,
                           std::conditional_t<K == 8, uint16_t, std::conditional_t<K == 16, uint32_t, uint64_t>>>;
    IqeEnds<Lanes<T>, IndexLanes<T>> local{lowest, Lanes<T>{}, {}, {}, {}}, to_goal{lowest, Lanes<T>{}, {}, {}, {}};
    for (int k = 0; k < K; ++k) {
        local.add(x_lanes[k], y_lanes[k], marks[k]);
        to_goal.add(x_lanes[k], goal_lanes[k], marks[k]);
    }
    store_end_words<T, Word>(local.left, local.right | local.last, K, last_lane + 1, ends);
    store_end_words<T, Word>(to_goal.left, to_goal.right | to_goal.last, K, last_lane + 1, goal_ends);
    return {to_goal.length, local.length};
}

// What a row becomes: its distance, and for backward the component of the greatest length and the spread.
template <class T>
QMK_INLINE T distance_of_row(const T* lengths, int64_t num_components, Reduction reduction, const T* max_weight,
                             int32_t* largest, T* spread) {
    const auto row = summarise(lengths, num_components);
    if (largest) *largest = row.largest;
    if (spread) *spread = reduced(Reduction::spread, row.sum, row.maximum, num_components, max_weight);
    return reduced(reduction, row.sum, row.maximum, num_components, max_weight);
}

template <class T, int K>
void forward(const T* x, const T* y, const T* goal, const T* max_weight, const T* raw, const T* cost, int64_t num_costs,
             T* loss, T* stats, T* slopes, uint8_t* ends, int32_t* largest, T* spread, T* scratch, QrlShape shape,
             QrlForm form, int threads) {
    constexpr int n = num_lanes<T>;
    const int64_t size = form.dim_per_component, count = shape.num_components, dim = count * size, rows = shape.rows;
    const int64_t bytes = ends_bytes(size);
    const QrlTerm<T> multiplier = qrl_multiplier(*raw, form);
    const T share = T(1) / T(rows);
    T *pushes = scratch, *violations = scratch + rows, *to_goal = scratch + 2 * rows, *local = scratch + 3 * rows;

    // Rows whose goals follow one another in memory.
    const auto run = [&](int64_t first_row, int64_t num_rows, const T* goals) {
        const int64_t total = num_rows * count;
        const int64_t scratch_lanes = (K ? 0 : 3 * size) + 2 * (total / n + 1);
        Lanes<T> small[2 * (components_per_task / n + n + 1)];
        const bool fits = scratch_lanes <= int64_t(sizeof(small) / sizeof(*small));
        auto* memory = fits ? small : static_cast<Lanes<T>*>(std::aligned_alloc(64, scratch_lanes * sizeof(Lanes<T>)));
        T* goal_lengths = reinterpret_cast<T*>(memory + (K ? 0 : 3 * size));
        T* lengths = goal_lengths + (total / n + 1) * n;
        const T *from_x = x + first_row * dim, *from_y = y + first_row * dim;
        uint8_t *goal_ends = ends + first_row * count * bytes, *own_ends = goal_ends + rows * count * bytes;
        for (int64_t c = 0; c < total; c += n) {
            const int last_lane = total - c < n ? int(total - c) - 1 : n - 1;
            TwoLengths<T> block;
            if constexpr (K != 0) {
                block = block_lengths_of_two<T, K>(from_x + c * size, goals + c * size, from_y + c * size, last_lane,
                                                   goal_ends + c * bytes, own_ends + c * bytes);
            } else {
                block.to_goal = block_lengths_any<T, true>(from_x + c * size, goals + c * size, last_lane,
                                                           goal_ends + c * bytes, size, memory);
                block.local = block_lengths_any<T, true>(from_x + c * size, from_y + c * size, last_lane,
                                                         own_ends + c * bytes, size, memory);
            }
            store(goal_lengths + c, block.to_goal);
            store(lengths + c, block.local);
        }
        for (int64_t r = 0; r < num_rows; ++r) {
            const int64_t i = first_row + r;
            to_goal[i] = distance_of_row(goal_lengths + r * count, count, form.reduction, max_weight,
                                         largest ? largest + i : nullptr, spread ? spread + i : nullptr);
            local[i] = distance_of_row(lengths + r * count, count, form.reduction, max_weight,
                                       largest ? largest + rows + i : nullptr, spread ? spread + rows + i : nullptr);
            const auto push = qrl_push(to_goal[i], form);
            const auto violation = qrl_violation(local[i], cost[num_costs == 1 ? 0 : i]);
            pushes[i] = push.value;
            violations[i] = violation.value;
            slopes[i] = push.slope * share;
            slopes[rows + i] = violation.slope * share * multiplier.value;
        }
        if (!fits) std::free(memory);
    };

    // Rolled goals: row 0 has the last row of y, the others the row before theirs.
    const int64_t alone = goal ? 0 : 1, rows_per_task = components_per_task / 2 / count + 1;
    const int64_t num_tasks = alone + (rows - alone + rows_per_task - 1) / rows_per_task;
    parallel_for(num_tasks, threads_for(2 * rows * dim, 1 << 14, threads), [&](int64_t task) {
        if (task < alone) return run(0, 1, y + (rows - 1) * dim);
        const int64_t first = alone + (task - alone) * rows_per_task;
        const int64_t here = rows_per_task < rows - first ? rows_per_task : rows - first;
        run(first, here, goal ? goal + first * dim : y + (first - 1) * dim);
    });

    T sums[4] = {};
    for (int term = 0; term < 4; ++term)
        for (int64_t i = 0; i < rows; ++i) sums[term] += scratch[term * rows + i];
    const T push = sums[0] * share, violation = sums[1] * share, excess = violation - T(form.threshold);
    *loss = push + multiplier.value * excess;
    stats[0] = push;
    stats[1] = violation;
    stats[2] = multiplier.value;
    stats[3] = sums[2] * share;
    stats[4] = sums[3] * share;
    stats[5] = -multiplier.slope * excess;
}

template <class T>
void forward_any(const T* x, const T* y, const T* goal, const T* max_weight, const T* raw, const T* cost,
                 int64_t num_costs, T* loss, T* stats, T* slopes, uint8_t* ends, int32_t* largest, T* spread,
                 T* scratch, QrlShape shape, QrlForm form, int threads) {
    const auto sized = [&] {
        switch (form.dim_per_component) {
            case 4:
                return forward<T, 4>;
            case 8:
                return forward<T, 8>;
            case 16:
                return forward<T, 16>;
            case 32:
                return forward<T, 32>;
            default:
                return forward<T, 0>;
        }
    }();
    sized(x, y, goal, max_weight, raw, cost, num_costs, loss, stats, slopes, ends, largest, spread, scratch, shape,
          form, threads);
}

// One side's ends of a row of components, with what they are worth: `every`, and `extra` on top in the component of the
// greatest length.
template <class T>
struct RowEnds {
    const uint8_t* bytes;
    T every, extra;
    int64_t largest;
};

// Writes, or adds to what is there, the values at the left (or right) ends of a row.
template <class T, bool right, bool add>
QMK_INLINE void write_ends(RowEnds<T> row, int64_t count, int64_t size, const BitPlaces<T>& places, T* to) {
    constexpr int n = num_lanes<T>;
    const int64_t bytes = ends_bytes(size);
    const Lanes<T> every = broadcast(row.every);
    const auto put = [](T* at, Lanes<T> value) { store(at, add ? load<Lanes<T>>(at) + value : value); };
    int64_t done = 0;
    if (places.whole_components)
        for (; (done + 1) * n <= count * size; ++done) {
            uint32_t word = 0;
            __builtin_memcpy(&word, row.bytes + done * (n / 4), n / 4);
            put(to + done * n, where_set<T>(word, right ? places.right : places.left, every));
        }
    const auto component = [&](int64_t c, T worth, bool adds) {
        for (int64_t k = 0; k < size; k += n) {
            const uint32_t bits = bits_from(row.bytes + c * bytes, bytes, (right ? size : 0) + k);
            T* at = to + c * size + k;
            if (k + n <= size) {
                const Lanes<T> value = where_set<T>(bits, places.single, broadcast(worth));
                store(at, adds ? load<Lanes<T>>(at) + value : value);
            } else {
                for (int lane = 0; lane < n && k + lane < size; ++lane) {
                    const T value = bits >> lane & 1 ? worth : T(0);
                    at[lane] = adds ? at[lane] + value : value;
                }
            }
        }
    };
    for (int64_t c = done * n / size; c < count; ++c) component(c, row.every, add);
    if (row.extra != T(0)) component(row.largest, row.extra, true);
}

template <class T>
void backward(const T* grad_loss, const T* slopes, const uint8_t* ends, const int32_t* largest, const T* spread,
              const T* max_weight, T* grad_x, T* grad_y, T* grad_goal, T* grad_max_weight, QrlShape shape, int64_t size,
              Reduction reduction, int threads) {
    const int64_t rows = shape.rows, count = shape.num_components, dim = count * size, bytes = ends_bytes(size);
    const auto weights = reduction_weights(reduction, count, max_weight);
    const BitPlaces<T> places = bit_places<T>(size);
    const T grad = *grad_loss;
    // Of pair 0, to the goals, or 1, to y.
    const auto row_ends = [&](int pair, int64_t i, T sign) {
        const T upstream = sign * grad * slopes[pair * rows + i];
        const bool has_largest = needs_largest(reduction);
        return RowEnds<T>{ends + (pair * rows + i) * count * bytes, upstream * weights.every,
                          has_largest ? upstream * weights.largest : T(0),
                          has_largest ? int64_t(largest[pair * rows + i]) : 0};
    };
    const int64_t rows_per_task = components_per_task / count + 1;
    const int64_t num_tasks = (rows + rows_per_task - 1) / rows_per_task;
    parallel_for(num_tasks, threads_for(2 * rows * dim, 1 << 15, threads), [&](int64_t task) {
        const int64_t end = (task + 1) * rows_per_task < rows ? (task + 1) * rows_per_task : rows;
        for (int64_t i = task * rows_per_task; i < end; ++i) {
            write_ends<T, false, false>(row_ends(1, i, T(-1)), count, size, places, grad_x + i * dim);
            write_ends<T, false, true>(row_ends(0, i, T(-1)), count, size, places, grad_x + i * dim);
            write_ends<T, true, false>(row_ends(1, i, T(1)), count, size, places, grad_y + i * dim);
            if (grad_goal)
                write_ends<T, true, false>(row_ends(0, i, T(1)), count, size, places, grad_goal + i * dim);
            else  // row i of y is the goal of the next row
                write_ends<T, true, true>(row_ends(0, i + 1 < rows ? i + 1 : 0, T(1)), count, size, places,
                                          grad_y + i * dim);
        }
    });
    if (grad_max_weight == nullptr) return;
    T sum = T(0);
    for (int64_t i = 0; i < 2 * rows; ++i) sum += slopes[i] * spread[i];
    *grad_max_weight = grad * sum;
}

}  // namespace

template <class T>
constexpr QrlCpu<T> qrl_functions = {forward_any<T>, backward<T>};

extern const QrlCpu<float> qrl_float = qrl_functions<float>;
extern const QrlCpu<double> qrl_double = qrl_functions<double>;

}  // namespace qmk::QMK_TARGET
