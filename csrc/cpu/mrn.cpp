// MRN on CPUs, for one instruction set. For matching rows lanes run along a component, and what is known about each of
// a block of components is combined at once, one per lane; for all pairs lanes are rows (mrn_pairwise.h).
//
// Floor: forward reads x and y once, backward reads them and writes both gradients once. A block is read again from the
// first-level cache: for the place of the largest difference, and for the gradients. While it is computed the next one
// is fetched, or the memory would idle meanwhile. Stores that bypass the caches would save less than the reader of the
// gradients then waits.
#include "../ops/mrn.h"

#include "mrn_pairwise.h"
#include "mrn_pairwise_backward.h"

namespace qmk::QMK_TARGET {

namespace {

// A part of a component as registers, of which the last may reach past the part's end. If the component is `short`, it
// fits one register, which both parts share.
template <class T, bool is_short>
struct Registers {
    int64_t begin, last, end;
    bool has_last;
    IndexLanes<T> last_lanes;  // those of the last register that belong to the part

    explicit Registers(MrnPart part) : begin(part.begin), end(part.end) {
        last = is_short ? 0 : end - (end - begin) % num_lanes<T>;
        has_last = is_short || last < end;
        const IndexLanes<T> places = lane_indices<T>() + int32_t(last);
        last_lanes = (places >= int32_t(begin)) & (places < int32_t(end));
    }
    // Calls visit(index of its first value, whether it is the last) for every register.
    template <class Visit>
    QMK_INLINE void visit(Visit&& visit) const {
        for (int64_t d = begin; !is_short && d < last; d += num_lanes<T>) visit(d, std::false_type{});
        if (has_last) visit(last, std::true_type{});
    }
    QMK_INLINE IndexLanes<T> others(std::true_type) const { return ~last_lanes; }
    QMK_INLINE IndexLanes<T> others(std::false_type) const { return IndexLanes<T>{}; }
    // Zeros in the lanes of other parts.
    QMK_INLINE Lanes<T> own(Lanes<T> values, std::true_type) const { return last_lanes ? values : Lanes<T>{}; }
    QMK_INLINE Lanes<T> own(Lanes<T> values, std::false_type) const { return values; }
};

// What is the same for all components of a call.
template <class T, bool is_short>
struct Form {
    int64_t count, size;
    Registers<T, is_short> asymmetric, symmetric;
    MrnRoot<T> root;
    T shift, weight;
    bool of_rows;  // whether the components of a row are added up

    Form(const MrnSettings& settings, int64_t dim)
        : count(settings.num_components),
          size(dim / count),
          asymmetric(mrn_asymmetric_part(settings, size)),
          symmetric(mrn_symmetric_part(settings, size)),
          root(settings, size),
          shift(mrn_shift<T>(settings)),
          weight(mrn_component_weight<T>(settings)),
          of_rows(settings.reduction != MrnReduction::none) {}

    // How many values registers reach past the end of a component.
    int64_t reach() const {
        const int64_t last = asymmetric.last > symmetric.last ? asymmetric.last : symmetric.last;
        return last + num_lanes<T> > size ? last + num_lanes<T> - size : 0;
    }
};

// A block of neighbouring components, one per lane of what is known about each. If it is `full`, they are as many as
// lanes, and all their registers are loaded and stored whole; else only `left` values.
template <class T, bool full>
struct Block {
    const T *x, *y;
    int64_t size, left;

    QMK_INLINE int count() const { return full ? num_lanes<T> : int(left / size); }
    QMK_INLINE Lanes<T> load_from(const T* values, int64_t at) const {
        return full ? load<Lanes<T>>(values + at) : load_lanes(values + at, 1, left - at);
    }
    QMK_INLINE void store_to(T* values, int64_t at, Lanes<T> vector) const {
        full ? store(values + at, vector) : store_lanes(values + at, 1, left - at, vector);
    }
    QMK_INLINE Lanes<T> difference(int component, int64_t d) const {
        return load_from(x, component * size + d) - load_from(y, component * size + d);
    }
    // Fetches the same place of the next block.
    QMK_INLINE void prefetch_inputs(int component, int64_t d) const {
        __builtin_prefetch(x + (num_lanes<T> + component) * size + d);
        __builtin_prefetch(y + (num_lanes<T> + component) * size + d);
    }
};

// Calls visit(first component, block) for the blocks of `rows` rows.
template <class T, bool is_short, class Visit>
QMK_INLINE void for_blocks(const Form<T, is_short>& form, const T* x, const T* y, int64_t rows, Visit&& visit) {
    constexpr int n = num_lanes<T>;
    const int64_t size = form.size, count = rows * form.count, reach = form.reach();
    int64_t first = 0;
    for (; first + n <= count && (count - first - n) * size >= reach; first += n)
        visit(first, Block<T, true>{x + first * size, y + first * size, size, n * size});
    for (; first < count; first += n) {
        const int64_t left = count - first < n ? count - first : n;
        visit(first, Block<T, false>{x + first * size, y + first * size, size, left * size});
    }
}

// The largest differences where one may not be a number.
template <class T>
__attribute__((noinline)) Lanes<T> largest_or_nan(const T* x, const T* y, int64_t size, int count, MrnPart part) {
    Lanes<T> result{};
    for (int c = 0; c < count; ++c) {
        T largest = T(0);
        for (int64_t d = c * size + part.begin; d < c * size + part.end; ++d)
            largest = QMK_TARGET::largest_or_nan(largest, x[d] - y[d]);
        result[c] = largest;
    }
    return result;
}

// The largest asymmetric difference of each component, at least 0, and the sum of its symmetric squares.
template <class T>
struct Reduced {
    Lanes<T> largest, squares;
};

template <class T, bool is_short, class Block>
QMK_INLINE Reduced<T> reduced(const Form<T, is_short>& form, const Block& block) {
    constexpr int n = num_lanes<T>;
    const auto &asymmetric = form.asymmetric, &symmetric = form.symmetric;
    Lanes<T> maxima[n], sums[n], not_finite{};  // zeros, or NaN
    for (int c = 0; c < block.count(); ++c) {
        Lanes<T> largest{}, sum{};
        asymmetric.visit([&](int64_t d, auto is_last) {
            const Lanes<T> difference = asymmetric.own(block.difference(c, d), is_last);
            block.prefetch_inputs(c, d);
            largest = maximum(difference, largest);
            not_finite += difference * T(0);
        });
        symmetric.visit([&](int64_t d, auto is_last) {
            const Lanes<T> difference = symmetric.own(block.difference(c, d) + form.shift, is_last);
            if (!is_short) block.prefetch_inputs(c, d);
            sum += difference * difference;
        });
        maxima[c] = largest;
        sums[c] = sum;
    }
    for (int c = block.count(); c < n; ++c) maxima[c] = sums[c] = Lanes<T>{};
    Lanes<T> largest = maxima_of_vectors<T>(maxima);
    if (sum_of_lanes<T>(not_finite) != T(0))
        largest = largest_or_nan(block.x, block.y, block.size, block.count(), {asymmetric.begin, asymmetric.end});
    return {largest, sums_of_vectors<T>(sums)};
}

// The index of each component's first largest difference, if it is one of them or NaN.
template <class T, bool is_short, class Block>
QMK_INLINE IndexLanes<T> places_of(Lanes<T> largest, const Registers<T, is_short>& part, const Block& block) {
    constexpr int n = num_lanes<T>;
    const IndexLanes<T> none = int32_t(part.end) - IndexLanes<T>{};
    IndexLanes<T> places[n];
    for (int c = 0; c < n; ++c) places[c] = none;
    T most[n];
    store(most, largest);
    for (int c = 0; c < block.count(); ++c) {
        IndexLanes<T> first = none;
        part.visit([&](int64_t d, auto is_last) {
            const IndexLanes<T> smaller = block.difference(c, d) < broadcast(most[c]);
            const IndexLanes<T> place = part.others(is_last) | smaller ? none : lane_indices<T>() + int32_t(d);
            first = place < first ? place : first;
        });
        places[c] = first;
    }
    return minima_of_vectors<T>(places);
}

// How a block's components depend on their differences: the gradient is `worth` at `place` of the asymmetric part, and
// `slope` times the shifted difference in the symmetric part.
template <class T>
struct Slopes {
    static constexpr int n = num_lanes<T>;
    T worths[n], slopes[n];
    IndexLanes<T> places;
};

template <class T, bool is_short, class Block>
QMK_INLINE Slopes<T> slopes_of(const Form<T, is_short>& form, const Block& block, Lanes<T> upstream) {
    const Reduced<T> sums = reduced(form, block);
    Slopes<T> result;
    store(result.worths, sums.largest > T(0) ? upstream : sums.largest);  // else 0, or NaN
    store(result.slopes, upstream * form.root.slope(sums.squares));
    result.places = places_of(sums.largest, form.asymmetric, block);
    return result;
}

// Writes the gradients of a block, and fetches the memory of the next one's; either may be null.
template <class T, bool is_short, class Block>
QMK_INLINE void write_grads(const Form<T, is_short>& form, const Block& block, const Slopes<T>& slopes, T* grad_x,
                            T* grad_y) {
    const auto &asymmetric = form.asymmetric, &symmetric = form.symmetric;
    for (int c = 0; c < block.count(); ++c) {
        const Lanes<T> worth = broadcast(slopes.worths[c]), slope = broadcast(slopes.slopes[c]);
        const IndexLanes<T> place = slopes.places[c] - IndexLanes<T>{};
        const auto asymmetric_grad = [&](int64_t d) {
            return lane_indices<T>() + int32_t(d) == place ? worth : Lanes<T>{};
        };
        const auto symmetric_grad = [&](int64_t d) { return slope * (block.difference(c, d) + form.shift); };
        const auto write_to = [&](T* grads, int64_t d, Lanes<T> values) {
            if (!grads) return;
            block.store_to(grads, c * form.size + d, values);
            __builtin_prefetch(grads + (num_lanes<T> + c) * form.size + d, 1);
        };
        const auto write = [&](int64_t d, Lanes<T> grad) {
            write_to(grad_x, d, grad);
            write_to(grad_y, d, -grad);
        };
        const auto write_asymmetric = [&] { asymmetric.visit([&](int64_t d, auto) { write(d, asymmetric_grad(d)); }); };
        if (is_short) {
            write(0, symmetric.last_lanes ? symmetric_grad(0) : asymmetric_grad(0));
            continue;
        }
        // In ascending order: what a register writes past the end of a part is written again.
        if (asymmetric.begin == 0) write_asymmetric();
        symmetric.visit([&](int64_t d, auto) { write(d, symmetric_grad(d)); });
        if (asymmetric.begin > 0) write_asymmetric();
    }
}

constexpr int64_t values_per_task = 1 << 14;

// Calls run(form, first row, number of rows) for tasks of rows.
template <class T, class Run>
void for_rows(const MrnSettings& settings, int64_t rows, int64_t dim, int threads, Run&& run) {
    const int64_t rows_per_task = values_per_task / dim + 1, tasks = (rows + rows_per_task - 1) / rows_per_task;
    const auto run_tasks = [&](const auto& form) {
        parallel_for(tasks, threads_for(rows * dim, 1 << 15, threads), [&](int64_t task) {
            const int64_t row = task * rows_per_task;
            run(form, row, rows - row < rows_per_task ? rows - row : rows_per_task);
        });
    };
    if (dim / settings.num_components <= num_lanes<T>)
        run_tasks(Form<T, true>(settings, dim));
    else
        run_tasks(Form<T, false>(settings, dim));
}

}  // namespace

template <class T>
void mrn_forward(const MrnForward<T>& call, int threads) {
    const int64_t dim = call.dim;
    for_rows<T>(call.settings, call.rows, dim, threads, [&](const auto& of_call, int64_t row, int64_t rows) {
        const auto form = of_call;  // local, so that no store is taken to change it
        T *out = call.out + (form.of_rows ? row : row * form.count), total = T(0);
        int64_t component = 0;
        const auto run = [&](int64_t, const auto& block) __attribute__((always_inline)) {
            const Reduced<T> sums = reduced(form, block);
            const Lanes<T> values = sums.largest + form.root.value(sums.squares);
            if (!form.of_rows) {
                store_lanes(out, 1, block.count(), values * form.weight);
                out += block.count();
                return;
            }
            T lanes[num_lanes<T>];
            store(lanes, values);
            for (int lane = 0; lane < block.count(); ++lane) {
                total += lanes[lane];
                if (++component < form.count) continue;
                *out++ = total * form.weight;
                total = T(0);
                component = 0;
            }
        };
        for_blocks(form, call.x + row * dim, call.y + row * dim, rows, run);
    });
}

template <class T>
void mrn_backward(const MrnBackward<T>& call, int threads) {
    const int64_t dim = call.dim;
    for_rows<T>(call.settings, call.rows, dim, threads, [&](const auto& of_call, int64_t row, int64_t rows) {
        const auto form = of_call;  // local, so that no store is taken to change it
        const T* grad_out = call.grad_out + (form.of_rows ? row : row * form.count);
        T* const grad_x = call.grad_x ? call.grad_x + row * dim : nullptr;
        T* const grad_y = call.grad_y ? call.grad_y + row * dim : nullptr;
        int64_t component = 0;
        const auto run = [&](int64_t first, const auto& block) __attribute__((always_inline)) {
            T upstream[num_lanes<T>] = {};
            for (int c = 0; c < block.count(); ++c) {
                upstream[c] = *grad_out * form.weight;
                if (form.of_rows && ++component < form.count) continue;
                ++grad_out;
                component = 0;
            }
            const Slopes<T> slopes = slopes_of(form, block, load<Lanes<T>>(upstream));
            const int64_t at = first * form.size;
            write_grads(form, block, slopes, grad_x ? grad_x + at : nullptr, grad_y ? grad_y + at : nullptr);
        };
        for_blocks(form, call.x + row * dim, call.y + row * dim, rows, run);
    });
}

QMK_INSTANTIATE(mrn_forward, MrnForward, int)
QMK_INSTANTIATE(mrn_backward, MrnBackward, int)
QMK_INSTANTIATE(mrn_pairwise_forward, MrnPairwiseForward, int)
QMK_INSTANTIATE_SCRATCH(mrn_pairwise_forward, MrnPairwiseForward)
QMK_INSTANTIATE(mrn_pairwise_backward, MrnPairwiseBackward, int)
QMK_INSTANTIATE_SCRATCH(mrn_pairwise_backward, MrnPairwiseBackward)

}  // namespace qmk::QMK_TARGET
