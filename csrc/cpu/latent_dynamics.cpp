// QRL's latent dynamics loss with an IQE head: one pass from embeddings to the loss, one back.
//
// Forward: a coordinate is an interval in one of the two directions, so a block of components is sorted once, by where
// the intervals begin, and scanned twice. It keeps two bits per element and direction, and one slope per row and
// direction. Backward writes both gradients once. Sums over rows are in double.
#include "../ops/latent_dynamics.h"

#include "parallel.h"
#include "two_distances.h"

namespace qmk::QMK_TARGET {

namespace {

// The lengths of a block of components in both directions.
template <class T, int K>
QMK_INLINE TwoLengths<T> block_lengths_both_ways(const T* x, const T* y, int last_lane, uint8_t* there, uint8_t* back) {
    Lanes<T> begins[K], ends[K];
    IndexLanes<T> marks[K], forward{};
    load_intervals(x, y, K, last_lane, begins, ends);
    mark_lanes<T, K>(marks);
    for (int k = 0; k < K; ++k) order_ends(begins[k], ends[k], marks[k], forward);
    if constexpr (K > 1) sort_fixed<K>(begins, ends, marks);
    EndsBothWays<Lanes<T>, IndexLanes<T>> scan(broadcast(-Limits<T>::highest));
    for (int k = 0; k < K; ++k) scan.add(begins[k], ends[k], marks[k], forward);
    store_scan<T, K>(scan.there, last_lane, there);
    store_scan<T, K>(scan.back, last_lane, back);
    return {{scan.there.length, scan.back.length}};
}

template <class T, int K>
void forward(const LatentDynamicsForward<T>& call, int threads) {
    int32_t* largest = call.largest;
    uint8_t* ends = call.ends;
    T *loss = call.loss, *stats = call.stats, *slopes = call.slopes, *spread = call.spread,
      *scratch = static_cast<T*>(call.scratch);
    const T *predicted = call.predicted, *target = call.target;
    const LatentDynamicsShape& shape = call.shape;
    const LatentDynamicsSettings& settings = call.settings;
    const int64_t size = settings.dim_per_component, count = shape.num_components, dim = count * size,
                  rows = shape.rows;
    const int64_t bytes = ends_bytes(size), rows_per_task = components_per_task / 2 / count + 1;
    const int64_t num_tasks = (rows + rows_per_task - 1) / rows_per_task;
    const T share = T(1) / T(rows);
    const T weight = WeightAt<T>({call.max_weight, 1, settings.weight_link}, 0).value;
    parallel_for(num_tasks, threads_for(2 * rows * dim, 1 << 14, threads), [&](int64_t task) {
        const int64_t first_row = task * rows_per_task, first = first_row * count;
        const int64_t num_rows = rows_per_task < rows - first_row ? rows_per_task : rows - first_row;
        const auto measure = [&](int64_t c, int last_lane, Lanes<T>* memory) -> TwoLengths<T> {
            const T *x = predicted + (first + c) * size, *y = target + (first + c) * size;
            uint8_t *there = ends + (first + c) * bytes, *back = there + rows * count * bytes;
            if constexpr (K != 0) {
                return block_lengths_both_ways<T, K>(x, y, last_lane, there, back);
            } else {
                return {{block_lengths_any<T, true>(x, y, last_lane, there, size, memory),
                         block_lengths_any<T, true>(y, x, last_lane, back, size, memory)}};
            }
        };
        measure_rows<T, K>(num_rows, count, size, measure, [&](int64_t r, const T* const* lengths) {
            for (int pair = 0; pair < 2; ++pair) {
                const int64_t at = pair * rows + first_row + r;
                scratch[at] = distance_of_row(lengths[pair], count, settings.reduction, weight,
                                              largest ? largest + at : nullptr, spread ? spread + at : nullptr);
                slopes[at] = LatentDynamicsTerm<T>(scratch[at], settings).slope * share;
            }
        });
    });

    double sum = 0, distances[2] = {};
    for (int pair = 0; pair < 2; ++pair)
        for (int64_t i = 0; i < rows; ++i) {
            const T distance = scratch[pair * rows + i];
            distances[pair] += distance;
            sum += LatentDynamicsTerm<T>(distance, settings).value;
        }
    *loss = T(sum / double(rows));
    for (int pair = 0; pair < 2; ++pair) stats[pair] = T(distances[pair] / double(rows));
}

}  // namespace

template <class T>
int64_t latent_dynamics_forward_scratch(const LatentDynamicsForward<T>& call) {
    return 2 * call.shape.rows * int64_t(sizeof(T));
}

template <class T>
void latent_dynamics_forward(const LatentDynamicsForward<T>& call, int threads) {
    with_constant_size(call.settings.dim_per_component, [&](auto size) { forward<T, size.value>(call, threads); });
}

template <class T>
void latent_dynamics_backward(const LatentDynamicsBackward<T>& call, int threads) {
    const Reduction reduction = call.reduction;
    const int64_t size = call.dim_per_component;
    T *grad_predicted = call.grad_predicted, *grad_target = call.grad_target, *grad_max_weight = call.grad_max_weight;
    const int32_t* largest = call.largest;
    const uint8_t* ends = call.ends;
    const T *grad_loss = call.grad_loss, *slopes = call.slopes, *spread = call.spread;
    const LatentDynamicsShape& shape = call.shape;
    const int64_t rows = shape.rows, count = shape.num_components, dim = count * size;
    const MaxWeight<T> max{call.max_weight, 1, call.weight_link};
    const KeptEnds<T> kept{*grad_loss, slopes, ends, needs_largest(reduction) ? largest : nullptr,
                           rows,       count,  size, reduction_weights(reduction, count, WeightAt<T>(max, 0).value)};
    const BitPlaces<T> places = bit_places<T>(size);
    const int64_t rows_per_task = components_per_task / count + 1;
    const int64_t num_tasks = (rows + rows_per_task - 1) / rows_per_task;
    parallel_for(num_tasks, threads_for(2 * rows * dim, 1 << 15, threads), [&](int64_t task) {
        const int64_t end = (task + 1) * rows_per_task < rows ? (task + 1) * rows_per_task : rows;
        const bool has_nan = kept.has_nan(task * rows_per_task, end);
        for (int64_t i = task * rows_per_task; i < end; ++i) {
            // A left end belongs to the start of its direction, a right end to its target.
            write_sum_of_ends<T, false, true>(kept.of(0, i, T(-1)), kept.of(1, i, T(1)), count, size, places,
                                              grad_predicted + i * dim);
            write_sum_of_ends<T, true, false>(kept.of(0, i, T(1)), kept.of(1, i, T(-1)), count, size, places,
                                              grad_target + i * dim);
            for (int pair = 0; has_nan && pair < 2; ++pair)
                kept.write_nan(pair, i, grad_predicted + i * dim, grad_target + i * dim);
        }
    });
    max_weight_gradient(max, *grad_loss, slopes, spread, 2 * rows, grad_max_weight);
}

QMK_INSTANTIATE(latent_dynamics_forward, LatentDynamicsForward, int)
QMK_INSTANTIATE_SCRATCH(latent_dynamics_forward, LatentDynamicsForward)
QMK_INSTANTIATE(latent_dynamics_backward, LatentDynamicsBackward, int)

}  // namespace qmk::QMK_TARGET
