// Losses over a matrix of distances, the forward pass; included by pair_loss.cpp.
//
// A task is 32 rows of one matrix. Four rows at a time are read twice, the second time from the nearest cache: first
// for their maxima, then for everything else. One exponential per pair serves both directions: E = exp(l - m), with the
// row's maximum m, is summed along the row, and times exp(m - c) down the columns, where c is the task's largest m so
// far. A column far below the rows' maxima, which this would reduce to almost nothing, is summed again relative to its
// own maximum. LINEX takes one more exponential. Finally the column sums of all tasks are combined.
#pragma once

#include "../ops/pair_loss.h"
#include "pair_loss_lanes.h"
#include "parallel.h"
#include "workspace.h"

namespace qmk::QMK_TARGET {

namespace {

constexpr int64_t matches_per_task = 256;
constexpr int rows_at_once = 4;

// Adds a softmax over a row (side 0) or column (1), whose match has this logit.
inline void add_softmax(PairSums<double>& sums, int side, const Softmax<double>& softmax, double match_logit) {
    const double logsumexp = softmax.logsumexp();
    sums.logsumexp[side] += logsumexp;
    sums.squares[side] += logsumexp * logsumexp;
    sums.excess[side] += softmax.excess(match_logit);
    sums.hits[side] += match_logit >= softmax.largest;
}

template <class T>
struct ForwardTask {
    const T *distance, *after, *log_discounts;  // of the task's rows
    const int32_t* places;                      // of the columns
    T *row_largest, *row_log_sum;
    // Per column: the largest logit, the shift of its exponentials, and their sum.
    T *most, *shift, *sum;
    int64_t first_row, rows, columns, matches;
};

template <class T, PairKind kind, bool has_after, bool has_places>
struct Forward {
    using V = Lanes<T>;
    static constexpr int n = num_lanes<T>;
    static constexpr int64_t strip = 32 * n;  // columns whose terms are summed in T
    static constexpr bool has_logits = is_softmax(kind) || kind == PairKind::sigmoid;

    const PairLossSettings& settings;
    const ForwardTask<T>& task;
    PairSums<double>& sums;
    T scale;      // of the logits
    T highest{};  // c

    Forward(const PairLossSettings& settings, const ForwardTask<T>& task, PairSums<double>& sums)
        : settings(settings), task(task), sums(sums), scale(T(-settings.scale)), highest(-Limits<T>::highest) {}

    void run() {
        const V lowest = broadcast(T(-INFINITY));
        if constexpr (over_columns(kind))
            for (int64_t j = 0; j < task.columns; j += n) {
                store(task.most + j, lowest);
                store(task.sum + j, V{});
            }
        int64_t row = 0;
        for (; row + rows_at_once <= task.rows; row += rows_at_once) together<rows_at_once>(row);
        for (; row < task.rows; ++row) together<1>(row);
        if constexpr (over_columns(kind))
            for (int64_t j = 0; j < task.columns; j += n) finish_columns(j);
    }

    // Calls visit(column, is_tail, kept) for every vector of columns; kept(v) zeroes the lanes of v past the last
    // column.
    template <class Visit>
    QMK_INLINE void for_columns(int64_t begin, int64_t end, Visit&& visit) {
        int64_t j = begin;
        for (; j + n <= end; j += n) visit(j, std::false_type{}, [](V v) { return v; });
        if (j == end) return;
        IndexLanes<T> exists{};
        for (int lane = 0; lane < end - j; ++lane) exists[lane] = -1;
        visit(j, std::true_type{}, [=](V v) { return exists ? v : V{}; });
    }

    template <bool is_tail>
    QMK_INLINE V at(const T* matrix, int64_t row, int64_t column) const {
        const T* from = matrix + row * task.columns + column;
        if constexpr (is_tail) return load_some(from, task.columns - column);
        return load<V>(from);
    }

    QMK_INLINE LeftOut<T> left_out_of(int64_t row) const {
        const int64_t match = match_of(row);
        return {task.places, task.places[match], int32_t(settings.window), match};
    }

    template <bool is_tail>
    QMK_INLINE IndexLanes<T> left_out(int64_t row, int64_t column) const {
        if constexpr (is_tail) return left_out_of(row).at_some(column, task.columns - column);
        return left_out_of(row).at(column);
    }

    template <int count>
    void together(int64_t row) {
        T most[count], shift[count], share[count], shrink = T(1);
        bool is_infinite = false;  // a logit
        if constexpr (has_logits) {
            V maxima[count];
            for (V& one : maxima) one = broadcast(T(-INFINITY));
            for_columns(0, task.columns, [&](int64_t j, auto is_tail, auto&&) {
                V column = over_columns(kind) ? load<V>(task.most + j) : V{};
                for (int r = 0; r < count; ++r) {
                    V logit = scale * at<is_tail.value>(task.distance, row + r, j);
                    if constexpr (has_places)
                        logit = left_out<is_tail.value>(row + r, j) ? broadcast(T(-INFINITY)) : logit;
                    if constexpr (over_columns(kind)) column = larger<T>(logit, column);
                    if constexpr (is_tail.value)
                        for (int64_t lane = task.columns - j; lane < n; ++lane) logit[lane] = T(-INFINITY);
                    maxima[r] = larger<T>(logit, maxima[r]);
                }
                if constexpr (over_columns(kind)) store(task.most + j, column);
            });
            const T before = highest;
            for (int r = 0; r < count; ++r) {
                most[r] = max_of_lanes<T>(maxima[r]);
                shift[r] = finite_or_nan(most[r], Limits<T>::highest);
                is_infinite |= most[r] > Limits<T>::highest;
                highest = shift[r] > highest ? shift[r] : highest;
            }
            if constexpr (over_columns(kind)) {
                shrink = exp_of(before - highest);
                for (int r = 0; r < count; ++r) share[r] = exp_of(shift[r] - highest);
            }
        }

        double row_sum[count] = {};
        is_infinite ? add<count, true>(row, shift, share, shrink, row_sum)
                    : add<count, false>(row, shift, share, shrink, row_sum);
        for (int r = 0; r < count; ++r) finish_row(row + r, most[has_logits ? r : 0], row_sum[r]);
    }

    QMK_INLINE int64_t match_of(int64_t row) const { return task.first_row + row + settings.offset; }

    QMK_INLINE T log_discount_of(int64_t row) const {
        return task.log_discounts ? task.log_discounts[row] : T(settings.log_discount);
    }

    // Everything except the maxima and the matches.
    template <int count, bool is_infinite>
    void add(int64_t row, const T* shift, const T* share, T shrink, double* row_sum) {
        T log_discount[count];
        const V clip = broadcast(T(settings.clip));
        for (int r = 0; r < count; ++r) log_discount[r] = log_discount_of(row + r);
        for (int64_t begin = 0; begin < task.columns; begin += strip) {
            const int64_t end = begin + strip < task.columns ? begin + strip : task.columns;
            V exponentials[count] = {}, distances{}, num_left_out{}, positives{}, divergences{}, differences{};
            Lanes<double> terms{};
            for_columns(begin, end, [&](int64_t j, auto is_tail, auto&& kept) {
                V column{};
                V product{};  // of 1 + exp(-|l|), minus 1
                Lanes<double> values = broadcast(1.0);
                if constexpr (over_columns(kind)) column = load<V>(task.sum + j) * shrink;
                for (int r = 0; r < count; ++r) {
                    const V distance = at<is_tail.value>(task.distance, row + r, j);
                    IndexLanes<T> is_left_out{};
                    if constexpr (has_places) {
                        is_left_out = left_out<is_tail.value>(row + r, j);
                        num_left_out += kept(is_left_out ? V{} + 1 : V{});
                    }
                    if constexpr (has_places)
                        distances += is_left_out ? V{} : distance;
                    else if constexpr (kind != PairKind::coulomb)
                        distances += distance;
                    if constexpr (is_softmax(kind)) {
                        const V below = rounded(scale * distance) - shift[r];
                        V e = is_infinite ? exp_of<T>(below) : share_of<T>(below);
                        if constexpr (has_places) e = is_left_out ? V{} : e;
                        if constexpr (over_rows(kind)) exponentials[r] += kept(e);
                        if constexpr (over_columns(kind)) column += e * share[r];
                    }
                    if constexpr (kind == PairKind::sigmoid) {
                        const V logit = scale * distance;
                        const V e = kept(share_of<T>(logit < 0 ? logit : -logit));
                        positives += kept(logit < 0 ? V{} : logit);
                        product += e + product * e;
                    }
                    if constexpr (kind == PairKind::repulsion) {
                        V value = distance + T(pair_eps);
                        if constexpr (is_tail.value)
                            for (int64_t lane = end - j; lane < n; ++lane) value[lane] = T(1);
                        // Eight floats' product is a double.
                        if constexpr (sizeof(T) == sizeof(float))
                            for (int part = 0; part < num_parts<T>; ++part) values *= part_in_double<T>(value, part);
                        else
                            terms += logarithm_of_any(value);
                    }
                    if constexpr (kind == PairKind::coulomb) {
                        const auto is_match = lane_numbers<T>() == int32_t(match_of(row + r) - j);
                        const V inverse = kept(1 / (distance + T(settings.eps)));
                        positives += is_match ? V{} : inverse;
                        distances += is_match ? V{} : distance;
                    }
                    if constexpr (has_after) {
                        const V delta = distance - at<is_tail.value>(task.after, row + r, j);
                        const V grown = exp_of<T>((delta > clip ? clip : delta) + log_discount[r]);
                        divergences += kept(Linex<V>(distance, delta, grown, clip).value);
                        differences += delta;
                    }
                }
                if constexpr (over_columns(kind)) store(task.sum + j, column);
                if constexpr (kind == PairKind::sigmoid) {
                    auto whole = part_in_double<T>(product, 0);
                    for (int part = 1; part < num_parts<T>; ++part) {
                        const auto other = part_in_double<T>(product, part);
                        whole += other + whole * other;
                    }
                    terms += log_one_plus(whole);
                }
                if constexpr (kind == PairKind::repulsion && sizeof(T) == sizeof(float))
                    terms += logarithm_of_any(values);
            });
            for (int r = 0; r < count; ++r) row_sum[r] += double(sum_of_lanes<T>(exponentials[r]));
            sums.distance += double(sum_of_lanes<T>(distances));
            if constexpr (has_places) sums.left_out += double(sum_of_lanes<T>(num_left_out));
            sums.divergence += double(sum_of_lanes<T>(divergences));
            sums.difference += double(sum_of_lanes<T>(differences));
            sums.terms += double(sum_of_lanes<T>(positives)) + sum_of_lanes<double>(terms);
        }
    }

    void finish_row(int64_t row, T most, double exponentials) {
        const int64_t match = match_of(row);
        const T* distances = task.distance + row * task.columns;
        const T distance = distances[match];
        sums.match_distance += double(distance);
        if constexpr (kind == PairKind::sigmoid) sums.hits[0] += scale * distance >= most;
        if constexpr (over_rows(kind)) {
            const Softmax<double> softmax(double(most), std::log(exponentials));
            task.row_largest[row] = T(softmax.largest);
            task.row_log_sum[row] = T(softmax.log_sum);
            add_softmax(sums, 0, softmax, double(rounded(scale * distance)));
        }
        if constexpr (kind == PairKind::repulsion) {
            const double beyond = double(distance) - settings.step;
            sums.match_steps += beyond * beyond;
            sums.match_terms += std::log(double(distance + T(pair_eps)));
        }
        if constexpr (has_after) {
            const T delta = distance - task.after[row * task.columns + match], clip = T(settings.clip);
            const T grown = exp_of((delta > clip ? clip : delta) + log_discount_of(row));
            sums.match_divergence += double(Linex<T>(distance, delta, grown, clip).value);
        }
        if constexpr (over_columns(kind)) {
            const int64_t matches_begin = settings.offset, matches_end = settings.offset + task.matches;
            const auto add_outside = [&](int64_t begin, int64_t end) {
                for (int64_t j = begin; j < end; ++j) {
                    const bool is_left_out = has_places && left_out_of(row).alone(j);
                    sums.left_out_outside += is_left_out;
                    sums.outside += is_left_out ? 0 : double(distances[j]);
                }
            };
            add_outside(0, matches_begin);
            add_outside(matches_end, task.columns);
        }
    }

    // Sets a column's shift, and sums it relative to its own maximum if the common shift leaves too little, or no
    // number.
    void finish_columns(int64_t column) {
        const V sum = load<V>(task.sum + column);
        const auto is_fine = (sum >= T(1e-18)) & (sum <= T(1e18));
        bool all = true;
        for (int lane = 0; lane < n && column + lane < task.columns; ++lane) all &= bool(is_fine[lane]);
        store(task.shift + column, broadcast(highest));
        if (all) return;
        const V own = finite_or_nan(load<V>(task.most + column), broadcast(Limits<T>::highest));
        V again{};
        const int64_t exist = task.columns - column < n ? task.columns - column : n;
        for (int64_t row = 0; row < task.rows; ++row) {
            const V e = exp_of<T>(rounded(scale * load_some(task.distance + row * task.columns + column, exist)) - own);
            if constexpr (has_places)
                again += left_out_of(row).at_some(column, exist) ? V{} : e;
            else
                again += e;
        }
        store(task.shift + column, is_fine ? broadcast(highest) : own);
        store(task.sum + column, is_fine ? sum : again);
    }
};

// Combines the tasks' parts of the columns of matches first .. end.
template <class T>
void merge_columns(const T* distance, const T* lines, int64_t blocks, int64_t line, T* largest, T* log_sum,
                   int64_t first, int64_t end, const PairLossShape& shape, const PairLossSettings& settings,
                   PairSums<double>& sums) {
    using V = Lanes<T>;
    constexpr int n = num_lanes<T>;
    for (int64_t i = first; i < end; i += n) {
        const T* from = lines + settings.offset + i;
        V top = broadcast(-Limits<T>::highest), most = broadcast(T(-INFINITY)), sum{};
        for (int64_t block = 0; block < blocks; ++block) {
            most = larger<T>(load<V>(from + 3 * block * line), most);
            top = larger<T>(load<V>(from + (3 * block + 1) * line), top);
        }
        for (int64_t block = 0; block < blocks; ++block)
            sum += load<V>(from + (3 * block + 2) * line) * exp_of<T>(load<V>(from + (3 * block + 1) * line) - top);
        for (int lane = 0; lane < n && i + lane < end; ++lane) {
            const int64_t row = i + lane;
            const double above = double(top[lane]) - double(finite_or_nan(most[lane], Limits<T>::highest));
            const Softmax<double> softmax(double(most[lane]), above + std::log(double(sum[lane])));
            const T positive = rounded(T(-settings.scale) * distance[row * shape.columns + settings.offset + row]);
            largest[row] = T(softmax.largest);
            log_sum[row] = T(softmax.log_sum);
            add_softmax(sums, 1, softmax, double(positive));
        }
    }
}

// The output of a call's tasks: sums per task of rows, then of matches, and three lines per task of rows.
template <class T>
struct ForwardMemory {
    int64_t row_tasks, match_tasks, line;
    PairSums<double>* sums;
    T* lines;
    int64_t bytes;

    ForwardMemory(void* memory, const PairLossShape& shape, PairKind kind) {
        Workspace workspace{static_cast<char*>(memory)};
        row_tasks = divide_up(shape.rows, rows_per_task);
        match_tasks = over_columns(kind) ? divide_up(shape.rows, matches_per_task) : 0;
        line = over_columns(kind) ? padded(shape.columns) : 0;
        sums = workspace.take<PairSums<double>>(shape.batch * (row_tasks + match_tasks));
        lines = workspace.take<T>(shape.batch * row_tasks * 3 * line);
        bytes = workspace.used;
    }
};

template <class T, PairKind kind, bool has_after, bool has_places>
void forward(const PairLossForward<T>& call, int threads) {
    void* workspace = call.scratch;
    T *loss = call.loss, *stats = call.stats, *row_sums = call.row_sums, *column_sums = call.column_sums;
    const T *distance = call.distance, *after = call.after, *log_discounts = call.log_discounts;
    const PairLossShape& shape = call.shape;
    const PairLossSettings& settings = call.settings;
    const ForwardMemory<T> memory(workspace, shape, kind);
    const int64_t pairs = shape.rows * shape.columns, all_rows = shape.batch * shape.rows;
    const int64_t row_tasks = shape.batch * memory.row_tasks;
    threads = threads_for(shape.batch * pairs, pairs_per_thread, threads);
    parallel_for(row_tasks, threads, [&](int64_t index) {
        const int64_t sample = index / memory.row_tasks, row = index % memory.row_tasks * rows_per_task;
        const int64_t rows = shape.rows - row < rows_per_task ? shape.rows - row : rows_per_task;
        const int64_t first = sample * shape.rows + row, at = first * shape.columns;
        T* lines = memory.lines + index * 3 * memory.line;
        const ForwardTask<T> task{distance + at,
                                  has_after ? after + at : nullptr,
                                  log_discounts ? log_discounts + first : nullptr,
                                  has_places ? call.places + sample * shape.columns : nullptr,
                                  over_rows(kind) ? row_sums + first : nullptr,
                                  over_rows(kind) ? row_sums + all_rows + first : nullptr,
                                  lines,
                                  lines + memory.line,
                                  lines + 2 * memory.line,
                                  row,
                                  rows,
                                  shape.columns,
                                  shape.rows};
        PairSums<double> sums{};
        Forward<T, kind, has_after, has_places>(settings, task, sums).run();
        memory.sums[index] = sums;
    });
    if constexpr (over_columns(kind))
        parallel_for(shape.batch * memory.match_tasks, threads, [&](int64_t index) {
            const int64_t sample = index / memory.match_tasks, first = index % memory.match_tasks * matches_per_task;
            const int64_t end = first + matches_per_task < shape.rows ? first + matches_per_task : shape.rows;
            T* largest = column_sums + sample * shape.rows;
            PairSums<double> sums{};
            merge_columns(distance + sample * pairs, memory.lines + sample * memory.row_tasks * 3 * memory.line,
                          memory.row_tasks, memory.line, largest, largest + all_rows, first, end, shape, settings,
                          sums);
            memory.sums[row_tasks + index] = sums;
        });
    PairSums<double> all{};
    for (int64_t index = 0; index < row_tasks + shape.batch * memory.match_tasks; ++index)
        for (int i = 0; i < num_pair_sums<double>; ++i)
            reinterpret_cast<double*>(&all)[i] += reinterpret_cast<const double*>(&memory.sums[index])[i];
    finish_pair_loss(all, settings, shape, has_after, loss, stats);
}

}  // namespace

}  // namespace qmk::QMK_TARGET
