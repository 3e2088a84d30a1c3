// iQRL's temporal consistency on CPUs, for one instruction set. Bound by memory: forward reads predicted and target
// once and keeps two numbers per row; backward reads both again and writes the gradient.
//
// Precision: sums over a row in T, by lanes and four accumulators; sums over rows in double, in the order of the rows.
#include "../ops/temporal_consistency.h"

#include <cmath>

#include "../math/temporal_consistency.h"
#include "lanes.h"
#include "parallel.h"

namespace qmk::QMK_TARGET {

namespace {

constexpr int64_t values_per_task = 1 << 14;

// Calls run(row) for all rows.
template <class Run>
QMK_INLINE void for_each_row(int64_t rows, int64_t size, int threads, Run&& run) {
    const int64_t per_task = values_per_task / (size + 1) + 1;
    parallel_for((rows + per_task - 1) / per_task, threads_for(rows * size, values_per_task, threads),
                 [&](int64_t task) {
                     const int64_t end = (task + 1) * per_task < rows ? (task + 1) * per_task : rows;
                     for (int64_t i = task * per_task; i < end; ++i) run(i);
                 });
}

// The last values of a row, followed by zeros.
template <class T>
QMK_INLINE Lanes<T> load_last(const T* from, int64_t count) {
    Lanes<T> padded{};
    __builtin_memcpy(&padded, from, count * sizeof(T));
    return padded;
}

template <class T>
QMK_INLINE CosineSums<T> sums_of_row(const T* predicted, const T* target, int64_t size) {
    constexpr int n = num_lanes<T>, chains = 4;
    CosineSums<Lanes<T>> sums[chains];
    int64_t k = 0;
    for (; k + chains * n <= size; k += chains * n)
        for (int c = 0; c < chains; ++c)
            sums[c].add(load<Lanes<T>>(predicted + k + c * n), load<Lanes<T>>(target + k + c * n));
    for (; k + n <= size; k += n) sums[0].add(load<Lanes<T>>(predicted + k), load<Lanes<T>>(target + k));
    if (k < size) sums[1].add(load_last(predicted + k, size - k), load_last(target + k, size - k));
    const auto total = [&](auto of) {
        return sum_of_lanes<T>((sums[0].*of + sums[1].*of) + (sums[2].*of + sums[3].*of));
    };
    using Sums = CosineSums<Lanes<T>>;
    return {total(&Sums::dot), total(&Sums::predicted), total(&Sums::target)};
}

}  // namespace

template <class T>
int64_t temporal_consistency_forward_scratch(const TemporalConsistencyForward<T>& call) {
    return call.steps * (call.batch + 1) * int64_t(sizeof(T));
}

template <class T>
void temporal_consistency_forward(const TemporalConsistencyForward<T>& call, int threads) {
    const double discount = call.discount;
    T *loss = call.loss, *similarity = call.similarity, *slopes = call.slopes, *scratch = static_cast<T*>(call.scratch);
    const T *predicted = call.predicted, *target = call.target, *mask = call.mask;
    const int64_t steps = call.steps, batch = call.batch, size = call.dim, rows = steps * batch;
    T *cosines = scratch, *weights = scratch + rows;  // a weight is that of one row of its step
    for (int64_t h = 0; h < steps; ++h) weights[h] = T(std::pow(discount, double(h)) / double(batch));
    for_each_row(rows, size, threads, [&](int64_t i) {
        const T weight = mask ? weights[i / batch] * mask[i] : weights[i / batch];
        const auto row = cosine_slopes(sums_of_row(predicted + i * size, target + i * size, size), weight);
        cosines[i] = row.cosine;
        slopes[i] = row.by_target;
        slopes[rows + i] = row.by_predicted;
    });
    double total = 0;
    for (int64_t h = 0, i = 0; h < steps; ++h) {
        double cosine_sum = 0, loss_sum = 0;
        for (int64_t b = 0; b < batch; ++b, ++i) {
            const double cosine = double(cosines[i]);
            cosine_sum += cosine;
            loss_sum += mask ? (1 - cosine) * double(mask[i]) : 1 - cosine;
        }
        similarity[h] = T(cosine_sum / double(batch));
        total += std::pow(discount, double(h)) * (loss_sum / double(batch));
    }
    *loss = T(total);
}

template <class T>
void temporal_consistency_backward(const TemporalConsistencyBackward<T>& call, int threads) {
    const int64_t rows = call.rows, size = call.dim;
    T* grad_predicted = call.grad_predicted;
    const T *grad_loss = call.grad_loss, *slopes = call.slopes, *predicted = call.predicted, *target = call.target;
    constexpr int n = num_lanes<T>;
    for_each_row(rows, size, threads, [&](int64_t i) {
        const T by_target = *grad_loss * slopes[i], by_predicted = *grad_loss * slopes[rows + i];
        const T *p = predicted + i * size, *t = target + i * size;
        T* to = grad_predicted + i * size;
        int64_t k = 0;
        for (; k + n <= size; k += n)
            store(to + k, by_target * load<Lanes<T>>(t + k) + by_predicted * load<Lanes<T>>(p + k));
        for (; k < size; ++k) to[k] = by_target * t[k] + by_predicted * p[k];
    });
}

QMK_INSTANTIATE(temporal_consistency_forward, TemporalConsistencyForward, int)
QMK_INSTANTIATE_SCRATCH(temporal_consistency_forward, TemporalConsistencyForward)
QMK_INSTANTIATE(temporal_consistency_backward, TemporalConsistencyBackward, int)

}  // namespace qmk::QMK_TARGET
