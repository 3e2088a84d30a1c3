// MRN on CPUs, for one instruction set. For matching rows lanes run along a component, or are components where a part
// of one does not fill a register; for all pairs they are rows (mrn_pairwise.h).
//
// Bound by memory: forward reads x and y once, backward reads them and writes both gradients once, in little more time
// than a copy of as many bytes. Stores that bypass the caches would save less than the reader of the gradients then
// waits.
#include "../ops/mrn.h"

#include "mrn_pairwise.h"
#include "mrn_pairwise_backward.h"

namespace qmk::QMK_TARGET {

namespace {

// A block of components adjacent in memory, as many as there are lanes: lanes run along each of them, and the partial
// results of all are combined at once.
template <class T>
struct Block {
    const T *x, *y;
    int64_t size;
    int count;

    QMK_INLINE Lanes<T> difference(int component, int64_t d) const {
        return load<Lanes<T>>(x + component * size + d) - load<Lanes<T>>(y + component * size + d);
    }
    QMK_INLINE T difference_alone(int component, int64_t d) const {
        return x[component * size + d] - y[component * size + d];
    }
};

// Whether a part is visited by `for_columns`.
template <class T>
QMK_INLINE bool is_short(MrnPart part) {
    return part.end - part.begin < num_lanes<T>;
}

// Calls visit(differences) for every place of a short part; lanes are components.
template <class T, class Visit>
QMK_INLINE void for_columns(const Block<T>& block, MrnPart part, Visit&& visit) {
    Lanes<T> x[num_lanes<T>], y[num_lanes<T>];
    const int columns = int(part.end - part.begin);
    load_columns(block.x + part.begin, block.size, block.count - 1, columns, x);
    load_columns(block.y + part.begin, block.size, block.count - 1, columns, y);
    for (int column = 0; column < columns; ++column) visit(x[column] - y[column]);
}

// The largest of each component's asymmetric differences, at least 0; NaN if one is NaN.
template <class T>
QMK_INLINE Lanes<T> largest_differences(const Block<T>& block, MrnPart part) {
    constexpr int n = num_lanes<T>;
    Lanes<T> result{};
    if (is_short<T>(part)) {
        Lanes<T> nans{};
        for_columns(block, part, [&](Lanes<T> difference) {
            result = difference > result ? difference : result;
            nans = difference != difference ? difference : nans;
        });
        return nans != nans ? nans : result;
    }
    for (int c = 0; c < block.count; ++c) {
        Lanes<T> largest{}, nans{};
        int64_t d = part.begin;
        for (; d + n <= part.end; d += n) {
            const auto difference = block.difference(c, d);
            largest = difference > largest ? difference : largest;
            nans = difference != difference ? difference : nans;
        }
        T most = max_of_lanes<T>(largest), nan = sum_of_lanes<T>(nans);
        for (; d < part.end; ++d) {
            const T difference = block.difference_alone(c, d);
            most = difference > most ? difference : most;
            nan = difference != difference ? difference : nan;
        }
        result[c] = nan != nan ? nan : most;
    }
    return result;
}

// The index of the first largest difference of a component, which is one of them or NaN.
template <class T>
QMK_INLINE int64_t place_of(T largest, const Block<T>& block, int component, MrnPart part) {
    for (int64_t d = part.begin; d < part.end; ++d)
        if (!(block.difference_alone(component, d) < largest)) return d;
    return part.begin;
}

template <class T>
QMK_INLINE Lanes<T> sums_of_squares(const Block<T>& block, MrnPart part, T shift) {
    constexpr int n = num_lanes<T>;
    Lanes<T> sums[n], tails{};
    if (is_short<T>(part)) {
        for_columns(block, part, [&](Lanes<T> difference) {
            const auto shifted = difference + shift;
            tails += shifted * shifted;
        });
        return tails;
    }
    for (int c = 0; c < n; ++c) sums[c] = Lanes<T>{};
    for (int c = 0; c < block.count; ++c) {
        int64_t d = part.begin;
        for (; d + n <= part.end; d += n) {
            const auto difference = block.difference(c, d) + shift;
            sums[c] += difference * difference;
        }
        for (; d < part.end; ++d) {
            const T difference = block.difference_alone(c, d) + shift;
            tails[c] += difference * difference;
        }
    }
    return sums_of_vectors<T>(sums) + tails;
}

constexpr int64_t values_per_task = 1 << 14;

}  // namespace

template <class T>
void mrn_forward(const MrnForward<T>& call, int threads) {
    const int64_t rows = call.rows, dim = call.dim;
    T* out = call.out;
    const T *x = call.x, *y = call.y;
    const MrnSettings& settings = call.settings;
    constexpr int n = num_lanes<T>;
    const int64_t count = settings.num_components, size = dim / count, rows_per_task = values_per_task / dim + 1;
    const MrnRoot<T> root(settings, size);
    const MrnPart asymmetric = mrn_asymmetric_part(settings, size), symmetric = mrn_symmetric_part(settings, size);
    const T shift = mrn_shift<T>(settings), weight = mrn_component_weight<T>(settings);
    const int64_t tasks = (rows + rows_per_task - 1) / rows_per_task;
    parallel_for(tasks, threads_for(rows * dim, 1 << 15, threads), [&](int64_t task) {
        const int64_t end = (task + 1) * rows_per_task < rows ? (task + 1) * rows_per_task : rows;
        int64_t row = task * rows_per_task, component = 0;
        T total = T(0);
        for (int64_t item = row * count; item < end * count; item += n) {
            const Block<T> block{x + item * size, y + item * size, size,
                                 int(end * count - item < n ? end * count - item : n)};
            const Lanes<T> values =
                largest_differences(block, asymmetric) + root.value(sums_of_squares(block, symmetric, shift));
            if (settings.reduction == MrnReduction::none) {
                store_lanes(out + item, 1, block.count, values * weight);
                continue;
            }
            for (int lane = 0; lane < block.count; ++lane) {
                total += values[lane];
                if (++component == count) {
                    out[row++] = total * weight;
                    total = T(0);
                    component = 0;
                }
            }
        }
    });
}

template <class T>
void mrn_backward(const MrnBackward<T>& call, int threads) {
    const int64_t rows = call.rows, dim = call.dim;
    T *grad_x = call.grad_x, *grad_y = call.grad_y;
    const T *grad_out = call.grad_out, *x = call.x, *y = call.y;
    const MrnSettings& settings = call.settings;
    constexpr int n = num_lanes<T>;
    const int64_t count = settings.num_components, size = dim / count, rows_per_task = values_per_task / dim + 1;
    const MrnRoot<T> root(settings, size);
    const MrnPart asymmetric = mrn_asymmetric_part(settings, size), symmetric = mrn_symmetric_part(settings, size);
    const T shift = mrn_shift<T>(settings), weight = mrn_component_weight<T>(settings);
    const int64_t tasks = (rows + rows_per_task - 1) / rows_per_task;
    parallel_for(tasks, threads_for(rows * dim, 1 << 15, threads), [&](int64_t task) {
        const int64_t end = (task + 1) * rows_per_task < rows ? (task + 1) * rows_per_task : rows;
        for (int64_t item = task * rows_per_task * count; item < end * count; item += n) {
            const Block<T> block{x + item * size, y + item * size, size,
                                 int(end * count - item < n ? end * count - item : n)};
            const Lanes<T> largest = largest_differences(block, asymmetric);
            const Lanes<T> slopes = root.slope(sums_of_squares(block, symmetric, shift));
            for (int c = 0; c < block.count; ++c) {
                T *to_x = grad_x + (item + c) * size, *to_y = grad_y + (item + c) * size;
                const int64_t from = settings.reduction == MrnReduction::none ? item + c : (item + c) / count;
                const T upstream = grad_out[from] * weight, slope = upstream * slopes[c];
                int64_t d = symmetric.begin;
                for (; d + n <= symmetric.end; d += n) {
                    const Lanes<T> grad = slope * (block.difference(c, d) + shift);
                    store(to_x + d, grad);
                    store(to_y + d, -grad);
                }
                for (; d < symmetric.end; ++d) {
                    to_x[d] = slope * (block.difference_alone(c, d) + shift);
                    to_y[d] = -to_x[d];
                }
                for (d = asymmetric.begin; d < asymmetric.end; ++d) to_x[d] = to_y[d] = T(0);
                if (largest[c] <= T(0)) continue;
                const int64_t place = place_of<T>(largest[c], block, c, asymmetric);
                to_x[place] = largest[c] != largest[c] ? largest[c] : upstream;
                to_y[place] = -to_x[place];
            }
        }
    });
}

QMK_INSTANTIATE(mrn_forward, MrnForward, int)
QMK_INSTANTIATE(mrn_backward, MrnBackward, int)
QMK_INSTANTIATE(mrn_pairwise_forward, MrnPairwiseForward, int)
QMK_INSTANTIATE_SCRATCH(mrn_pairwise_forward, MrnPairwiseForward)
QMK_INSTANTIATE(mrn_pairwise_backward, MrnPairwiseBackward, int)
QMK_INSTANTIATE_SCRATCH(mrn_pairwise_backward, MrnPairwiseBackward)

}  // namespace qmk::QMK_TARGET
