// Poisson comparisons, lane by lane, in double for either dtype. Lanes on the series branch (math/poisson.h) run
// together, with as many terms as the neediest; the others, and rates that are not finite, run one by one.
#include "../ops/poisson.h"

#include "lanes.h"
#include "parallel.h"

namespace qmk::QMK_TARGET {

namespace {

using DoubleLanes = Lanes<double>;
using DoubleMask = IndexLanes<double>;
constexpr int n = num_lanes<double>;

#ifdef QMK_HAS_SHUFFLE
template <int distance>
QMK_INLINE DoubleLanes fold_maximum(DoubleLanes v) {
    if constexpr (distance == 0)
        return v;
    else
        return fold_maximum<distance / 2>(maximum(v, rotated<distance>(v, typename MakeSequence<n>::type{})));
}

QMK_INLINE double maximum_of_lanes(DoubleLanes v) {
    return fold_maximum<n / 2>(v)[0];
}
#else
QMK_INLINE double maximum_of_lanes(DoubleLanes v) {
    double largest = v[0];
    for (int lane = 1; lane < n; ++lane) largest = maximum(largest, v[lane]);
    return largest;
}
#endif

// Vectors whose series run at once: as many as the registers hold.
constexpr int vectors = QMK_LANE_BYTES == 64 ? 3 : 2;
constexpr int block = vectors * n;

// A block of rates: the lanes of the series, and their results.
struct SeriesLanes {
    DoubleMask together[vectors], of_gt[vectors];
    bool all;
    PoissonParts<DoubleLanes> parts[vectors];

    QMK_INLINE SeriesLanes(const DoubleLanes* a, const DoubleLanes* b) {
        const DoubleLanes zero{}, one = broadcast(1.0);
        DoubleLanes series_a[vectors], series_b[vectors], half_z[vectors], size = zero, apart = zero;
        for (int v = 0; v < vectors; ++v) {
            together[v] = (a[v] >= zero) & (b[v] >= zero) & (a[v] * b[v] <= largest_product_in_lanes);
            series_a[v] = together[v] ? a[v] : zero;
            series_b[v] = together[v] ? b[v] : zero;
            of_gt[v] = tail_is_gt(series_a[v], series_b[v]);
            half_z[v] = square_root(series_a[v] * series_b[v]);
            size = maximum(size, poisson_size(series_a[v], series_b[v], half_z[v]));
            apart = together[v] ? apart : one;
        }
        all = maximum_of_lanes(apart) == 0.0;
        poisson_series<vectors>(series_a, series_b, half_z, poisson_terms(maximum_of_lanes(size)), parts);
    }
};

struct DerivativeLanes {
    DoubleLanes by_a[vectors], by_b[vectors];
};

QMK_INLINE void probabilities(const DoubleLanes* a, const DoubleLanes* b, PoissonComparison comparison,
                              DoubleLanes* out) {
    const SeriesLanes series(a, b);
    for (int v = 0; v < vectors; ++v) {
        out[v] = poisson_probability(series.parts[v], series.of_gt[v], comparison);
        if (!series.all)
            for (int lane = 0; lane < n; ++lane)
                if (!series.together[v][lane]) out[v][lane] = poisson_probability(a[v][lane], b[v][lane], comparison);
    }
}

QMK_INLINE void derivatives(const DoubleLanes* a, const DoubleLanes* b, PoissonComparison comparison,
                            DerivativeLanes& out) {
    const SeriesLanes series(a, b);
    for (int v = 0; v < vectors; ++v) {
        const DoubleLanes factor = poisson_derivative_factor(series.parts[v], series.of_gt[v], comparison);
        out.by_a[v] = -factor * series.parts[v].equal;
        out.by_b[v] = factor * series.parts[v].one_more;
        if (!series.all)
            for (int lane = 0; lane < n; ++lane)
                if (!series.together[v][lane]) {
                    const auto single = poisson_derivatives(a[v][lane], b[v][lane], comparison);
                    out.by_a[v][lane] = single.by_a;
                    out.by_b[v][lane] = single.by_b;
                }
    }
}

template <class T>
struct SameLanes {
    typedef T Value __attribute__((vector_size(n * sizeof(T))));
};

// A block in double; zeros beyond `count`.
template <class T>
QMK_INLINE void load_block(const T* from, int count, DoubleLanes* lanes) {
    T padded[block];
    if (count < block) {
        __builtin_memset(padded, 0, sizeof(padded));
        __builtin_memcpy(padded, from, count * sizeof(T));
        from = padded;
    }
    for (int v = 0; v < vectors; ++v)
        lanes[v] = __builtin_convertvector(load<typename SameLanes<T>::Value>(from + v * n), DoubleLanes);
}

template <class T>
QMK_INLINE void store_block(T* to, const DoubleLanes* lanes, int count) {
    T padded[block];
    T* target = count < block ? padded : to;
    for (int v = 0; v < vectors; ++v)
        store(target + v * n, __builtin_convertvector(lanes[v], typename SameLanes<T>::Value));
    if (count < block) __builtin_memcpy(to, padded, count * sizeof(T));
}

// Calls run(first, number of pairs) for blocks of pairs; the last may be shorter.
template <class Run>
QMK_INLINE void for_each_block(int64_t count, int threads, Run&& run) {
    constexpr int64_t pairs_per_task = 32 * block;
    parallel_for((count + pairs_per_task - 1) / pairs_per_task, threads_for(count, pairs_per_task, threads),
                 [&](int64_t task) {
                     const int64_t end = (task + 1) * pairs_per_task < count ? (task + 1) * pairs_per_task : count;
                     for (int64_t i = task * pairs_per_task; i < end; i += block)
                         run(i, end - i < block ? int(end - i) : block);
                 });
}

}  // namespace

template <class T>
void poisson_forward(const PoissonForward<T>& call, int threads) {
    const PoissonComparison comparison = call.comparison;
    const int64_t count = call.count;
    T* out = call.out;
    const T *a = call.a, *b = call.b;
    for_each_block(count, threads, [=](int64_t i, int pairs) {
        DoubleLanes block_a[vectors], block_b[vectors], block_out[vectors];
        load_block(a + i, pairs, block_a);
        load_block(b + i, pairs, block_b);
        probabilities(block_a, block_b, comparison, block_out);
        store_block(out + i, block_out, pairs);
    });
}

template <class T>
void poisson_backward(const PoissonBackward<T>& call, int threads) {
    const PoissonComparison comparison = call.comparison;
    const int64_t count = call.count;
    T *grad_a = call.grad_a, *grad_b = call.grad_b;
    const T *grad_out = call.grad_out, *a = call.a, *b = call.b;
    for_each_block(count, threads, [=](int64_t i, int pairs) {
        DoubleLanes block_a[vectors], block_b[vectors], grad[vectors];
        load_block(a + i, pairs, block_a);
        load_block(b + i, pairs, block_b);
        load_block(grad_out + i, pairs, grad);
        DerivativeLanes by;
        derivatives(block_a, block_b, comparison, by);
        for (int v = 0; v < vectors; ++v) {
            by.by_a[v] *= grad[v];
            by.by_b[v] *= grad[v];
        }
        store_block(grad_a + i, by.by_a, pairs);
        store_block(grad_b + i, by.by_b, pairs);
    });
}

QMK_INSTANTIATE(poisson_forward, PoissonForward, int)
QMK_INSTANTIATE(poisson_backward, PoissonBackward, int)

}  // namespace qmk::QMK_TARGET
