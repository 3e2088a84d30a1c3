// Poisson comparisons, lane by lane in double whatever the dtype. Lanes on the series branch (math/poisson.h) run
// together, with as many terms as the one that needs most; the others, and rates that are no finite numbers, one by one.
#include "poisson.h"

#include "lanes.h"
#include "parallel.h"

namespace qmk::QMK_TARGET {

namespace {

using DoubleLanes = Lanes<double>;
using DoubleMask = IndexLanes<double>;
constexpr int n = num_lanes<double>;

// Pairs of rates that one task handles.
constexpr int64_t pairs_per_task = 512;

template <class T>
QMK_INLINE DoubleLanes load_as_double(const T* from, int count) {
    if constexpr (sizeof(T) == sizeof(double))
        if (count == n) return load<DoubleLanes>(from);
    DoubleLanes lanes{};
    for (int lane = 0; lane < count; ++lane) lanes[lane] = double(from[lane]);
    return lanes;
}

template <class T>
QMK_INLINE void store_from_double(T* to, DoubleLanes lanes, int count) {
    for (int lane = 0; lane < count; ++lane) to[lane] = T(lanes[lane]);
}

// One vector of rates: which lanes run together, and their parts.
struct SeriesLanes {
    DoubleMask together, of_gt;
    bool any, all;
    PoissonParts<DoubleLanes> parts;

    QMK_INLINE SeriesLanes(DoubleLanes a, DoubleLanes b) {
        const DoubleLanes zero{};
        together = is_finite_rate(a) & is_finite_rate(b);
        a = together ? a : zero;
        b = together ? b : zero;
        DoubleLanes root_a = square_root(a), root_b = square_root(b), half_z = root_a * root_b;
        together &= 2.0 * half_z <= largest_series_argument;
        a = together ? a : zero;
        b = together ? b : zero;
        half_z = together ? half_z : zero;
        of_gt = tail_is_gt(a, b);
        const DoubleLanes sizes = poisson_size(a, b, half_z);
        double size = 0.0;
        any = false;
        all = true;
        for (int lane = 0; lane < n; ++lane) {
            size = sizes[lane] > size ? sizes[lane] : size;
            any |= together[lane] != 0;
            all &= together[lane] != 0;
        }
        if (any) parts = poisson_series(a, b, half_z, root_a + root_b, poisson_terms(size));
    }
};

QMK_INLINE DoubleLanes probabilities(DoubleLanes a, DoubleLanes b, int count, PoissonForm form) {
    const SeriesLanes series(a, b);
    DoubleLanes out{};
    if (series.any) {
        const DoubleLanes tail = series.parts.scale * series.parts.tail;
        if (form == PoissonForm::log_le) {
            for (int lane = 0; lane < count; ++lane)
                out[lane] = series.of_gt[lane] ? ::log1p(-tail[lane])
                                               : ::log(series.parts.tail[lane]) - series.parts.exponent[lane];
        } else {
            const DoubleMask wants_gt = DoubleMask{} - int64_t(form == PoissonForm::gt);
            out = series.of_gt == wants_gt ? tail : 1.0 - tail;
        }
    }
    if (!series.all)
        for (int lane = 0; lane < count; ++lane)
            if (!series.together[lane]) out[lane] = poisson_probability(a[lane], b[lane], form);
    return out;
}

struct DerivativeLanes {
    DoubleLanes by_a, by_b;
};

QMK_INLINE DerivativeLanes derivatives(DoubleLanes a, DoubleLanes b, int count, PoissonForm form) {
    const SeriesLanes series(a, b);
    DerivativeLanes out{};
    if (series.any) {
        const DoubleLanes factor = poisson_derivative_factor(series.parts, series.of_gt, form);
        out = {-factor * series.parts.equal, factor * series.parts.one_more};
    }
    if (!series.all)
        for (int lane = 0; lane < count; ++lane)
            if (!series.together[lane]) {
                const auto single = poisson_derivatives(a[lane], b[lane], form);
                out.by_a[lane] = single.by_a;
                out.by_b[lane] = single.by_b;
            }
    return out;
}

// Calls run(first, number of pairs) for vectors of pairs; the last may be shorter.
template <class Run>
QMK_INLINE void for_each_vector(int64_t count, int threads, Run&& run) {
    parallel_for((count + pairs_per_task - 1) / pairs_per_task, threads_for(count, pairs_per_task, threads),
                 [&](int64_t task) {
                     const int64_t end =
                         (task + 1) * pairs_per_task < count ? (task + 1) * pairs_per_task : count;
                     for (int64_t i = task * pairs_per_task; i < end; i += n) run(i, end - i < n ? int(end - i) : n);
                 });
}

template <class T>
void forward(const T* a, const T* b, T* out, int64_t count, PoissonForm form, int threads) {
    for_each_vector(count, threads, [=](int64_t i, int lanes) {
        store_from_double(out + i, probabilities(load_as_double(a + i, lanes), load_as_double(b + i, lanes), lanes, form),
                          lanes);
    });
}

template <class T>
void backward(const T* grad_out, const T* a, const T* b, T* grad_a, T* grad_b, int64_t count, PoissonForm form,
              int threads) {
    for_each_vector(count, threads, [=](int64_t i, int lanes) {
        const auto by = derivatives(load_as_double(a + i, lanes), load_as_double(b + i, lanes), lanes, form);
        const DoubleLanes grad = load_as_double(grad_out + i, lanes);
        store_from_double(grad_a + i, grad * by.by_a, lanes);
        store_from_double(grad_b + i, grad * by.by_b, lanes);
    });
}

}  // namespace

template <class T>
constexpr PoissonCpu<T> functions = {forward<T>, backward<T>};

extern const PoissonCpu<float> poisson_float = functions<float>;
extern const PoissonCpu<double> poisson_double = functions<double>;

}  // namespace qmk::QMK_TARGET
