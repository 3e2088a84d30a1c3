// QRL's critic loss with an IQE head: one pass from embeddings to the loss, one back.
//
// Forward: a block of components is sorted by x once, along with y and the goal, and scanned twice. It keeps two bits
// per element and pair, and one slope per row and pair, for backward. Goals that are y rolled by a row are read in
// place. Sums over rows are in double.
#include "../ops/qrl_critic.h"

#include "parallel.h"
#include "two_distances.h"

namespace qmk::QMK_TARGET {

namespace {

// The lengths of a block of components against two rows.
template <class T, int K>
QMK_INLINE TwoLengths<T> block_lengths_of_two(const T* x, const T* goal, const T* y, int last_lane, uint8_t* goal_ends,
                                              uint8_t* ends) {
    Lanes<T> x_lanes[K], y_lanes[K], goal_lanes[K];
    IndexLanes<T> marks[K];
    load_intervals(x, y, K, last_lane, x_lanes, y_lanes);
    load_columns(goal, K, last_lane, K, goal_lanes);
    for (int k = 0; k < K; ++k) goal_lanes[k] = finite_or_nan(goal_lanes[k], broadcast(Limits<T>::highest));
    mark_lanes<T, K>(marks);
    if constexpr (K > 1) sort_fixed<K>(x_lanes, y_lanes, goal_lanes, marks);
    const Lanes<T> lowest = broadcast(-Limits<T>::highest);
    IqeEnds<Lanes<T>, IndexLanes<T>> local{lowest, Lanes<T>{}, {}, {}, {}}, to_goal{lowest, Lanes<T>{}, {}, {}, {}};
    for (int k = 0; k < K; ++k) {
        local.add(x_lanes[k], y_lanes[k], marks[k]);
        to_goal.add(x_lanes[k], goal_lanes[k], marks[k]);
    }
    store_scan<T, K>(local, last_lane, ends);
    store_scan<T, K>(to_goal, last_lane, goal_ends);
    return {{to_goal.length, local.length}};
}

template <class T, int K>
void forward(const QrlCriticForward<T>& call, int threads) {
    int32_t* largest = call.largest;
    uint8_t* ends = call.ends;
    T *loss = call.loss, *stats = call.stats, *slopes = call.slopes, *spread = call.spread,
      *scratch = static_cast<T*>(call.scratch);
    const int64_t num_costs = call.num_costs;
    const T *x = call.x, *y = call.y, *goal = call.goal, *raw = call.raw, *cost = call.cost;
    const QrlCriticShape& shape = call.shape;
    const QrlCriticSettings& settings = call.settings;
    const int64_t size = settings.dim_per_component, count = shape.num_components, dim = count * size,
                  rows = shape.rows;
    const int64_t bytes = ends_bytes(size);
    const QrlCriticTerm<T> multiplier = qrl_critic_multiplier(*raw, settings);
    const T share = T(1) / T(rows);
    const T weight = WeightAt<T>({call.max_weight, 1, settings.weight_link}, 0).value;
    T *pushes = scratch, *violations = scratch + rows, *to_goal = scratch + 2 * rows, *local = scratch + 3 * rows;

    // Handles rows whose goals are adjacent in memory.
    const auto run = [&](int64_t first_row, int64_t num_rows, const T* goals) {
        const T *from_x = x + first_row * dim, *from_y = y + first_row * dim;
        uint8_t *goal_ends = ends + first_row * count * bytes, *own_ends = goal_ends + rows * count * bytes;
        const auto measure = [&](int64_t c, int last_lane, Lanes<T>* memory) -> TwoLengths<T> {
            const T *block_x = from_x + c * size, *block_y = from_y + c * size, *block_goal = goals + c * size;
            uint8_t *to_goal_ends = goal_ends + c * bytes, *to_y_ends = own_ends + c * bytes;
            if constexpr (K != 0) {
                return block_lengths_of_two<T, K>(block_x, block_goal, block_y, last_lane, to_goal_ends, to_y_ends);
            } else {
                return {{block_lengths_any<T, true>(block_x, block_goal, last_lane, to_goal_ends, size, memory),
                         block_lengths_any<T, true>(block_x, block_y, last_lane, to_y_ends, size, memory)}};
            }
        };
        measure_rows<T, K>(num_rows, count, size, measure, [&](int64_t r, const T* const* lengths) {
            const int64_t i = first_row + r;
            to_goal[i] = distance_of_row(lengths[0], count, settings.reduction, weight, largest ? largest + i : nullptr,
                                         spread ? spread + i : nullptr);
            local[i] = distance_of_row(lengths[1], count, settings.reduction, weight,
                                       largest ? largest + rows + i : nullptr, spread ? spread + rows + i : nullptr);
            const auto push = qrl_critic_push(to_goal[i], settings);
            const auto violation = qrl_critic_violation(local[i], cost[num_costs == 1 ? 0 : i]);
            pushes[i] = push.value;
            violations[i] = violation.value;
            slopes[i] = push.slope * share;
            slopes[rows + i] = violation.slope * share * multiplier.value;
        });
    };

    // With rolled goals, row 0 has the last row of y, and the others the row before theirs.
    const int64_t alone = goal ? 0 : 1, rows_per_task = components_per_task / 2 / count + 1;
    const int64_t num_tasks = alone + (rows - alone + rows_per_task - 1) / rows_per_task;
    parallel_for(num_tasks, threads_for(2 * rows * dim, 1 << 14, threads), [&](int64_t task) {
        if (task < alone) return run(0, 1, y + (rows - 1) * dim);
        const int64_t first = alone + (task - alone) * rows_per_task;
        const int64_t here = rows_per_task < rows - first ? rows_per_task : rows - first;
        run(first, here, goal ? goal + first * dim : y + (first - 1) * dim);
    });

    double means[4] = {};
    for (int64_t i = 0; i < rows; ++i)
        for (int term = 0; term < 4; ++term) means[term] += double(scratch[term * rows + i]);
    for (double& mean : means) mean /= double(rows);
    finish_qrl_critic(means, multiplier, settings, loss, stats);
}

}  // namespace

template <class T>
int64_t qrl_critic_forward_scratch(const QrlCriticForward<T>& call) {
    return 4 * call.shape.rows * int64_t(sizeof(T));
}

template <class T>
void qrl_critic_forward(const QrlCriticForward<T>& call, int threads) {
    with_constant_size(call.settings.dim_per_component, [&](auto size) { forward<T, size.value>(call, threads); });
}

template <class T>
void qrl_critic_backward(const QrlCriticBackward<T>& call, int threads) {
    const Reduction reduction = call.reduction;
    const int64_t size = call.dim_per_component;
    T *grad_x = call.grad_x, *grad_y = call.grad_y, *grad_goal = call.grad_goal,
      *grad_max_weight = call.grad_max_weight;
    const int32_t* largest = call.largest;
    const uint8_t* ends = call.ends;
    const T *grad_loss = call.grad_loss, *slopes = call.slopes, *spread = call.spread;
    const QrlCriticShape& shape = call.shape;
    const int64_t rows = shape.rows, count = shape.num_components, dim = count * size;
    const MaxWeight<T> max{call.max_weight, 1, call.weight_link};
    const KeptEnds<T> kept{*grad_loss, slopes, ends, needs_largest(reduction) ? largest : nullptr,
                           rows,       count,  size, reduction_weights(reduction, count, WeightAt<T>(max, 0).value)};
    const BitPlaces<T> places = bit_places<T>(size);
    const int64_t rows_per_task = components_per_task / count + 1;
    const int64_t num_tasks = (rows + rows_per_task - 1) / rows_per_task;
    parallel_for(num_tasks, threads_for(2 * rows * dim, 1 << 15, threads), [&](int64_t task) {
        const int64_t end = (task + 1) * rows_per_task < rows ? (task + 1) * rows_per_task : rows;
        const int64_t after = end < rows ? end : 0;  // the row whose goal is the last row of y
        const bool has_nan = kept.has_nan(task * rows_per_task, end) || kept.has_nan(after, after + 1);
        for (int64_t i = task * rows_per_task; i < end; ++i) {
            const RowEnds<T> right = kept.of(1, i, T(1));
            const int64_t next = i + 1 < rows ? i + 1 : 0;
            T *to_x = grad_x + i * dim, *to_y = grad_y + i * dim, *to_goal = grad_goal ? grad_goal + i * dim : nullptr;
            write_sum_of_ends<T, false, false>(kept.of(1, i, T(-1)), kept.of(0, i, T(-1)), count, size, places, to_x);
            if (to_goal) {
                write_ends<T, true>(right, count, size, places, to_y);
                write_ends<T, true>(kept.of(0, i, T(1)), count, size, places, to_goal);
            } else {  // row i of y is the goal of the next row
                write_sum_of_ends<T, true, true>(right, kept.of(0, next, T(1)), count, size, places, to_y);
                if (has_nan) kept.write_nan(0, next, to_y, to_y);
            }
            if (!has_nan) continue;
            kept.write_nan(0, i, to_x, to_goal ? to_goal : to_x);
            kept.write_nan(1, i, to_x, to_y);
        }
    });
    max_weight_gradient(max, *grad_loss, slopes, spread, 2 * rows, grad_max_weight);
    *call.grad_raw = *grad_loss * call.stats[qrl_critic_slope_of_raw];
}

QMK_INSTANTIATE(qrl_critic_forward, QrlCriticForward, int)
QMK_INSTANTIATE_SCRATCH(qrl_critic_forward, QrlCriticForward)
QMK_INSTANTIATE(qrl_critic_backward, QrlCriticBackward, int)

}  // namespace qmk::QMK_TARGET
