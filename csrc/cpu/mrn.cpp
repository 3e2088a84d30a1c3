// MRN on CPUs, for one instruction set. Between matching rows lanes run along a component; between all pairs they are
// rows (mrn_pairwise.h).
#include "mrn.h"

#include "mrn_pairwise.h"

namespace qmk::QMK_TARGET {

namespace {

// The largest of a component's asymmetric differences, at least 0, and where it first is. NaN if one is NaN.
template <class T>
struct Largest {
    T value;
    int64_t where;
};

template <class T>
QMK_INLINE Largest<T> largest_difference(const T* x, const T* y, MrnPart part) {
    constexpr int n = num_lanes<T>;
    Largest<T> found{T(0), part.begin};
    T nans = T(0);  // becomes NaN with the first difference that is one
    int64_t d = part.begin;
    if (part.end - part.begin >= n) {
        Lanes<T> largest{}, all{};
        IndexLanes<T> where{}, here{};
        for (int lane = 0; lane < n; ++lane) here[lane] = int32_t(d) + lane;
        for (; d + n <= part.end; d += n, here += n) {
            const auto difference = load<Lanes<T>>(x + d) - load<Lanes<T>>(y + d);
            const auto greater = difference > largest;
            where = greater ? here : where;
            largest = greater ? difference : largest;
            all = difference != difference ? difference : all;
        }
        for (int lane = 0; lane < n; ++lane) {
            const bool first = largest[lane] == found.value && int64_t(where[lane]) < found.where;
            if (largest[lane] > found.value || (first && found.value > T(0))) found = {largest[lane], where[lane]};
        }
        nans = sum_of_lanes<T>(all);
    }
    for (; d < part.end; ++d) {
        const T difference = x[d] - y[d];
        if (difference > found.value) found = {difference, d};
        if (difference != difference) nans = difference;
    }
    if (nans != nans) found.value = nans;
    return found;
}

template <class T>
QMK_INLINE T sum_of_squares(const T* x, const T* y, MrnPart part, T shift) {
    constexpr int n = num_lanes<T>;
    Lanes<T> sums{};
    int64_t d = part.begin;
    for (; d + n <= part.end; d += n) {
        const auto difference = load<Lanes<T>>(x + d) - load<Lanes<T>>(y + d) + shift;
        sums += difference * difference;
    }
    T sum = part.end - part.begin >= n ? sum_of_lanes<T>(sums) : T(0);
    for (; d < part.end; ++d) {
        const T difference = x[d] - y[d] + shift;
        sum += difference * difference;
    }
    return sum;
}

constexpr int64_t values_per_task = 1 << 14;

template <class T>
void forward(const T* x, const T* y, T* out, int64_t rows, int64_t dim, MrnForm form, int threads) {
    const int64_t count = form.num_components, size = dim / count, rows_per_task = values_per_task / dim + 1;
    const MrnRoot<T> root(form, size);
    const MrnPart asymmetric = mrn_asymmetric_part(form, size), symmetric = mrn_symmetric_part(form, size);
    const T shift = mrn_shift<T>(form), weight = mrn_component_weight<T>(form);
    const int64_t tasks = (rows + rows_per_task - 1) / rows_per_task;
    parallel_for(tasks, threads_for(rows * dim, 1 << 15, threads), [&](int64_t task) {
        const int64_t end = (task + 1) * rows_per_task < rows ? (task + 1) * rows_per_task : rows;
        for (int64_t row = task * rows_per_task; row < end; ++row) {
            T total = T(0);
            for (int64_t c = 0; c < count; ++c) {
                const T *of_x = x + row * dim + c * size, *of_y = y + row * dim + c * size;
                const T component = largest_difference(of_x, of_y, asymmetric).value +
                                    root.value(sum_of_squares(of_x, of_y, symmetric, shift));
                total += component;
                if (form.reduction == MrnReduction::none) out[row * count + c] = component * weight;
            }
            if (form.reduction != MrnReduction::none) out[row] = total * weight;
        }
    });
}

template <class T>
void backward(const T* grad_out, const T* x, const T* y, T* grad_x, T* grad_y, int64_t rows, int64_t dim, MrnForm form,
              int threads) {
    constexpr int n = num_lanes<T>;
    const int64_t count = form.num_components, size = dim / count, rows_per_task = values_per_task / dim + 1;
    const MrnRoot<T> root(form, size);
    const MrnPart asymmetric = mrn_asymmetric_part(form, size), symmetric = mrn_symmetric_part(form, size);
    const T shift = mrn_shift<T>(form), weight = mrn_component_weight<T>(form);
    const int64_t tasks = (rows + rows_per_task - 1) / rows_per_task;
    parallel_for(tasks, threads_for(rows * dim, 1 << 15, threads), [&](int64_t task) {
        const int64_t end = (task + 1) * rows_per_task < rows ? (task + 1) * rows_per_task : rows;
        for (int64_t item = task * rows_per_task * count; item < end * count; ++item) {
            const T *of_x = x + item * size, *of_y = y + item * size;
            T *to_x = grad_x + item * size, *to_y = grad_y + item * size;
            const T upstream = grad_out[form.reduction == MrnReduction::none ? item : item / count] * weight;
            const T slope = upstream * root.slope(sum_of_squares(of_x, of_y, symmetric, shift));
            int64_t d = symmetric.begin;
            for (; d + n <= symmetric.end; d += n) {
                const Lanes<T> grad = slope * (load<Lanes<T>>(of_x + d) - load<Lanes<T>>(of_y + d) + shift);
                store(to_x + d, grad);
                store(to_y + d, -grad);
            }
            for (; d < symmetric.end; ++d) {
                to_x[d] = slope * (of_x[d] - of_y[d] + shift);
                to_y[d] = -to_x[d];
            }
            for (d = asymmetric.begin; d < asymmetric.end; ++d) to_x[d] = to_y[d] = T(0);
            const auto largest = largest_difference(of_x, of_y, asymmetric);
            if (!(largest.value <= T(0))) {
                const T grad = largest.value != largest.value ? largest.value : upstream;
                to_x[largest.where] = grad;
                to_y[largest.where] = -grad;
            }
        }
    });
}

}  // namespace

template <class T>
constexpr MrnCpu<T> mrn_functions = {forward<T>, backward<T>, pairwise_workspace<T>, pairwise_forward<T>,
                                     pairwise_backward<T>};

extern const MrnCpu<float> mrn_float = mrn_functions<float>;
extern const MrnCpu<double> mrn_double = mrn_functions<double>;

}  // namespace qmk::QMK_TARGET
