// QRL's latent dynamics with an IQE head: one pass from embeddings to the loss, one back.
//
// Forward: a coordinate is an interval in one of the two directions, so a block of components is sorted once, by where
// the intervals begin, and scanned twice. What backward needs are two bits an element and direction and one slope a row
// and direction. Backward writes both gradients once. Sums over rows are in double.
#include "latent_dynamics.h"

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
    sort_fixed<K>(begins, ends, marks);
    EndsBothWays<Lanes<T>, IndexLanes<T>> scan(broadcast(-Limits<T>::highest));
    for (int k = 0; k < K; ++k) scan.add(begins[k], ends[k], marks[k], forward);
    store_scan<T, K>(scan.there, last_lane, there);
    store_scan<T, K>(scan.back, last_lane, back);
    return {{scan.there.length, scan.back.length}};
}

template <class T, int K>
void forward(const T* predicted, const T* target, const T* max_weight, T* loss, T* stats, T* slopes, uint8_t* ends,
             int32_t* largest, T* spread, T* scratch, LatentDynamicsShape shape, LatentDynamicsForm form, int threads) {
    const int64_t size = form.dim_per_component, count = shape.num_components, dim = count * size, rows = shape.rows;
    const int64_t bytes = ends_bytes(size), rows_per_task = components_per_task / 2 / count + 1;
    const int64_t num_tasks = (rows + rows_per_task - 1) / rows_per_task;
    const T share = T(1) / T(rows);
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
                scratch[at] = distance_of_row(lengths[pair], count, form.reduction, max_weight,
                                              largest ? largest + at : nullptr, spread ? spread + at : nullptr);
                slopes[at] = LatentDynamicsTerm<T>(scratch[at], form).slope * share;
            }
        });
    });

    double sum = 0, distances[2] = {};
    for (int pair = 0; pair < 2; ++pair)
        for (int64_t i = 0; i < rows; ++i) {
            const T distance = scratch[pair * rows + i];
            distances[pair] += distance;
            sum += LatentDynamicsTerm<T>(distance, form).value;
        }
    *loss = T(sum / double(rows));
    for (int pair = 0; pair < 2; ++pair) stats[pair] = T(distances[pair] / double(rows));
}

template <class T>
void forward_any(const T* predicted, const T* target, const T* max_weight, T* loss, T* stats, T* slopes, uint8_t* ends,
                 int32_t* largest, T* spread, T* scratch, LatentDynamicsShape shape, LatentDynamicsForm form,
                 int threads) {
    with_constant_size(form.dim_per_component, [&](auto size) {
        forward<T, size.value>(predicted, target, max_weight, loss, stats, slopes, ends, largest, spread, scratch,
                               shape, form, threads);
    });
}

template <class T>
void backward(const T* grad_loss, const T* slopes, const uint8_t* ends, const int32_t* largest, const T* spread,
              const T* max_weight, T* grad_predicted, T* grad_target, T* grad_max_weight, LatentDynamicsShape shape,
              int64_t size, Reduction reduction, int threads) {
    const int64_t rows = shape.rows, count = shape.num_components, dim = count * size;
    const KeptEnds<T> kept{*grad_loss, slopes, ends, needs_largest(reduction) ? largest : nullptr,
                           rows,       count,  size, reduction_weights(reduction, count, max_weight)};
    const BitPlaces<T> places = bit_places<T>(size);
    const int64_t rows_per_task = components_per_task / count + 1;
    const int64_t num_tasks = (rows + rows_per_task - 1) / rows_per_task;
    parallel_for(num_tasks, threads_for(2 * rows * dim, 1 << 15, threads), [&](int64_t task) {
        const int64_t end = (task + 1) * rows_per_task < rows ? (task + 1) * rows_per_task : rows;
        const bool has_nan = kept.has_nan(task * rows_per_task, end);
        for (int64_t i = task * rows_per_task; i < end; ++i) {
            // A left end is of where the direction comes from, a right end of where it goes.
            write_sum_of_ends<T, false, true>(kept.of(0, i, T(-1)), kept.of(1, i, T(1)), count, size, places,
                                              grad_predicted + i * dim);
            write_sum_of_ends<T, true, false>(kept.of(0, i, T(1)), kept.of(1, i, T(-1)), count, size, places,
                                              grad_target + i * dim);
            for (int pair = 0; has_nan && pair < 2; ++pair)
                kept.write_nan(pair, i, grad_predicted + i * dim, grad_target + i * dim);
        }
    });
    weight_gradient(*grad_loss, slopes, spread, rows, grad_max_weight);
}

}  // namespace

template <class T>
constexpr LatentDynamicsCpu<T> latent_dynamics_functions = {forward_any<T>, backward<T>};

extern const LatentDynamicsCpu<float> latent_dynamics_float = latent_dynamics_functions<float>;
extern const LatentDynamicsCpu<double> latent_dynamics_double = latent_dynamics_functions<double>;

}  // namespace qmk::QMK_TARGET
