// METRA's loss on CPUs, for one instruction set: one pass from embeddings to the loss, one back. Along a row lanes are
// coordinates; the rest of a row, or all of a short one, is taken one by one. After that, lanes are rows.
//
// Forward reads three tensors and writes two numbers per row; backward reads three and writes two, or three if the
// skills need a gradient. Sums over rows are in double; a task's rows, and so the order of every sum, depend only on
// the sizes.
#include "../ops/metra.h"

#include "lanes.h"
#include "parallel.h"

namespace qmk::QMK_TARGET {

namespace {

constexpr int64_t values_per_task = 1 << 13, values_per_thread = 1 << 14;

// Rows per task, a multiple of the lanes.
template <class T>
QMK_INLINE int64_t rows_per_task(int64_t dim) {
    const int64_t blocks = values_per_task / (num_lanes<T> * dim);
    return num_lanes<T> * (blocks < 1 ? 1 : blocks);
}

// Calls run(task, first row, end).
template <class T, class Run>
QMK_INLINE void for_each_task(MetraShape shape, int threads, Run&& run) {
    const int64_t step = rows_per_task<T>(shape.dim), rows = shape.rows;
    parallel_for((rows + step - 1) / step, threads_for(rows * shape.dim, values_per_thread, threads),
                 [&](int64_t task) { run(task, task * step, (task + 1) * step < rows ? (task + 1) * step : rows); });
}

// Per row, one per lane: the sum of squares of the step, and the reward.
template <class T>
struct StepSums {
    Lanes<T> squares, reward;
};

// The sums of `count` rows; other lanes are 0.
template <class T>
QMK_INLINE StepSums<T> sum_steps(const T* phi, const T* phi_next, const T* skill, int64_t dim, int count) {
    constexpr int n = num_lanes<T>;
    const int64_t whole = dim / n * n;
    StepSums<T> rest{};
    for (int row = 0; row < count; ++row) {
        T squares = T(0), reward = T(0);
        for (int64_t at = row * dim + whole; at < (row + 1) * dim; ++at) {
            const T step = phi_next[at] - phi[at];
            squares += step * step;
            reward += step * skill[at];
        }
        rest.squares[row] = squares;
        rest.reward[row] = reward;
    }
    if (whole == 0) return rest;
    Lanes<T> squares[n] = {}, reward[n] = {};
    for (int row = 0; row < count; ++row)
        for (int64_t at = row * dim; at < row * dim + whole; at += n) {
            const Lanes<T> step = load<Lanes<T>>(phi_next + at) - load<Lanes<T>>(phi + at);
            squares[row] += step * step;
            reward[row] += step * load<Lanes<T>>(skill + at);
        }
    return {rest.squares + sums_of_vectors<T>(squares), rest.reward + sums_of_vectors<T>(reward)};
}

template <class T>
QMK_INLINE void store_some(T* to, Lanes<T> vector, int count) {
    if (count == num_lanes<T>)
        store(to, vector);
    else
        __builtin_memcpy(to, &vector, count * sizeof(T));
}

}  // namespace

template <class T>
int64_t metra_forward_scratch(const MetraForward<T>& call) {
    return 3 * call.shape.rows * int64_t(sizeof(double));
}

template <class T>
void metra_forward(const MetraForward<T>& call, int threads) {
    double* scratch = static_cast<double*>(call.scratch);
    T *loss = call.loss, *reward = call.reward, *stats = call.stats, *slopes = call.slopes;
    const T *phi = call.phi, *phi_next = call.phi_next, *skill = call.skill, *log_multiplier = call.log_multiplier;
    const MetraShape& shape = call.shape;
    const MetraSettings& settings = call.settings;
    constexpr int n = num_lanes<T>;
    const int64_t rows = shape.rows, dim = shape.dim;
    const MetraConstraint<T> constraint(*log_multiplier, shape, settings);
    for_each_task<T>(shape, threads, [&](int64_t task, int64_t first, int64_t end) {
        SumOfVectors<T> rewards, constraints, distances;
        for (int64_t i = first; i < end; i += n) {
            const int count = end - i < n ? int(end - i) : n;
            const StepSums<T> sums = sum_steps(phi + i * dim, phi_next + i * dim, skill + i * dim, dim, count);
            auto term = constraint(sums.squares);
            for (int lane = count; lane < n; ++lane) term.constraint[lane] = T(0);
            store_some(reward + i, sums.reward, count);
            store_some(slopes + i, term.slope, count);
            rewards.add(sums.reward);
            constraints.add(term.constraint);
            distances.add(term.squared);
        }
        scratch[3 * task] = rewards.total();
        scratch[3 * task + 1] = constraints.total();
        scratch[3 * task + 2] = distances.total();
    });
    double means[3] = {};
    const int64_t step = rows_per_task<T>(dim);
    for (int64_t i = 0; i < (rows + step - 1) / step; ++i)
        for (int term = 0; term < 3; ++term) means[term] += scratch[3 * i + term];
    for (double& mean : means) mean /= double(rows);
    *loss = constraint.loss(means[0], means[1], *log_multiplier);
    stats[0] = T(means[1]);
    stats[1] = constraint.multiplier;
    stats[2] = T(means[2]);
}

template <class T>
void metra_backward(const MetraBackward<T>& call, int threads) {
    T *grad_phi = call.grad_phi, *grad_next = call.grad_phi_next, *grad_skill = call.grad_skill,
      *grad_log_multiplier = call.grad_log_multiplier;
    const T *grad_loss = call.grad_loss, *phi = call.phi, *phi_next = call.phi_next, *skill = call.skill,
            *stats = call.stats, *slopes = call.slopes;
    const MetraShape& shape = call.shape;
    constexpr int n = num_lanes<T>;
    const int64_t dim = shape.dim;
    const T grad = *grad_loss, share = grad / T(shape.rows);
    *grad_log_multiplier = grad * stats[0];
    for_each_task<T>(shape, threads, [&](int64_t, int64_t first, int64_t end) {
        for (int64_t i = first; i < end; ++i) {
            const T slope = grad * slopes[i];
            const auto put = [&](auto vector, int64_t at) {
                using V = decltype(vector);
                const auto of =
                    metra_gradient(load<V>(phi + at), load<V>(phi_next + at), load<V>(skill + at), slope, share);
                store(grad_phi + at, -of.next);
                store(grad_next + at, of.next);
                if (grad_skill) store(grad_skill + at, of.skill);
            };
            int64_t at = i * dim;
            const int64_t end_of_row = at + dim;
            for (; at + n <= end_of_row; at += n) put(Lanes<T>{}, at);
            for (; at < end_of_row; ++at) put(T(0), at);
        }
    });
}

QMK_INSTANTIATE(metra_forward, MetraForward, int)
QMK_INSTANTIATE_SCRATCH(metra_forward, MetraForward)
QMK_INSTANTIATE(metra_backward, MetraBackward, int)

}  // namespace qmk::QMK_TARGET
