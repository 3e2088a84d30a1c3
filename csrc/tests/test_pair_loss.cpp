// Losses over a matrix of distances against their formula in double, and the gradient against its differences; from one
// and from three threads, with columns that have no match.
#include <cmath>
#include <cstdlib>
#include <random>
#include <vector>

#include "../ops/pair_loss.h"
#include "testing.h"

using namespace qmk;
using namespace qmk::QMK_TARGET;

namespace {

enum class Terms { alone, linex, near };

struct Problem {
    PairLossShape shape;
    PairLossSettings settings;
    bool has_after;
    std::vector<int32_t> places;  // empty: no pair is left out
    std::vector<double> distance, after, log_discounts;

    double at(int64_t sample, int64_t i, int64_t j) const {
        return distance[(sample * shape.rows + i) * shape.columns + j];
    }
    bool leaves_out(int64_t sample, int64_t i, int64_t j) const {
        const int64_t match = i + settings.offset, first = sample * shape.columns;
        return !places.empty() && j != match && std::abs(places[first + j] - places[first + match]) <= settings.window;
    }
};

// log(sum of exp) of count numbers.
template <class Value>
double logsumexp(int64_t count, Value&& value) {
    double most = -INFINITY, sum = 0;
    for (int64_t n = 0; n < count; ++n) most = std::fmax(most, value(n));
    for (int64_t n = 0; n < count; ++n) sum += std::exp(value(n) - most);
    return most + std::log(sum);
}

double loss_of(const Problem& problem) {
    const auto& [shape, settings, has_after, places, distance, after, log_discounts] = problem;
    const double rows = double(shape.batch * shape.rows), columns = double(shape.columns);
    double loss = 0;
    for (int64_t sample = 0; sample < shape.batch; ++sample)
        for (int64_t i = 0; i < shape.rows; ++i) {
            const int64_t match = i + settings.offset;
            const auto logit = [&, scale = settings.scale](int64_t row, int64_t column) {
                return problem.leaves_out(sample, row, column) ? -INFINITY : -scale * problem.at(sample, row, column);
            };
            const double share = (settings.kind == PairKind::symmetric ? 0.5 : 1) / rows;
            const auto add = [&, weight = settings.logsumexp_weight](double sum) {
                loss += share * (sum - logit(i, match) + weight * sum * sum);
            };
            if (over_rows(settings.kind)) add(logsumexp(shape.columns, [&](int64_t j) { return logit(i, j); }));
            if (over_columns(settings.kind)) add(logsumexp(shape.rows, [&](int64_t row) { return logit(row, match); }));
            for (int64_t j = 0; j < shape.columns; ++j) {
                const double d = problem.at(sample, i, j), l = logit(i, j);
                if (settings.kind == PairKind::sigmoid)
                    loss += std::log1p(std::exp(j == match ? -l : l)) / (rows * columns);
                if (settings.kind == PairKind::repulsion)
                    loss += j == match ? (d - settings.step) * (d - settings.step) / rows
                                       : -settings.repulsion_weight * std::log(d + 1e-6) / (rows * (columns - 1));
                if (settings.kind == PairKind::coulomb && j != match)
                    loss += 1 / (rows * (columns - 1)) / (d + settings.eps);
                if (!has_after) continue;
                const double delta = d - after[(sample * shape.rows + i) * shape.columns + j];
                const double discount = log_discounts[sample * shape.rows + i];
                const double divergence = delta > settings.clip ? delta : std::exp(delta + discount) - d;
                const double weight = (1 - settings.diagonal_weight) / (rows * columns);
                loss +=
                    settings.linex_weight * (weight + (j == match ? settings.diagonal_weight / rows : 0)) * divergence;
            }
        }
    return loss;
}

template <class T>
void the_kernels_equal_the_formula(Problem problem, double tolerance) {
    const PairLossShape shape = problem.shape;
    const PairLossSettings settings = problem.settings;
    const int64_t rows = shape.batch * shape.rows, pairs = rows * shape.columns;
    std::mt19937 random{unsigned(pairs)};
    std::uniform_real_distribution<double> uniform(0, 6);
    const auto draw = [&](std::vector<double>& values, int64_t count) {
        values.resize(count);
        for (auto& value : values) value = double(float(uniform(random)));
        return std::vector<T>(values.begin(), values.end());
    };
    const auto distance = draw(problem.distance, pairs), after = draw(problem.after, pairs);
    const auto log_discounts = draw(problem.log_discounts, rows);
    if (!problem.places.empty()) {
        problem.places.resize(shape.batch * shape.columns);
        for (auto& place : problem.places) place = int32_t(uniform(random) * double(shape.columns));
    }
    const int32_t* places = problem.places.empty() ? nullptr : problem.places.data();
    const T* afters = problem.has_after ? after.data() : nullptr;
    const T grad_loss = T(0.5);
    for (int threads : {1, 3}) {
        T loss;
        std::vector<T> stats(num_pair_stats), row_sums(2 * rows), column_sums(2 * rows), grad(pairs);
        RUN_WITH_SCRATCH(pair_loss_forward, threads,
                         PairLossForward<T>{distance.data(), afters, log_discounts.data(), places, &loss, stats.data(),
                                            row_sums.data(), column_sums.data(), nullptr, shape, settings});
        check(std::fabs(double(loss) - loss_of(problem)) <= tolerance * (1 + std::fabs(double(loss))), "loss");

        RUN_WITH_SCRATCH(
            pair_loss_backward, threads,
            PairLossBackward<T>{&grad_loss, distance.data(), afters, log_discounts.data(), places, row_sums.data(),
                                column_sums.data(), grad.data(), nullptr, shape, settings});
        bool holds = true;
        for (int64_t at = 0; at < pairs; at += pairs / 40 + 1) {
            const double step = 1e-6, before = problem.distance[at];
            problem.distance[at] = before + step;
            const double above = loss_of(problem);
            problem.distance[at] = before - step;
            const double derivative = (above - loss_of(problem)) / (2 * step);
            problem.distance[at] = before;
            holds = holds && std::fabs(double(grad[at]) - 0.5 * derivative) <= tolerance + 1e-7;
        }
        check(holds, "gradient of kind " + std::to_string(int(settings.kind)));
    }
}

}  // namespace

int main(int, char** arguments) {
    if (!runs_here(arguments[1])) return skipped;
    for (int kind = 0; kind < 7; ++kind)
        for (const Terms terms : {Terms::alone, Terms::linex, Terms::near})
            for (const PairLossShape shape : {PairLossShape{1, 3, 3}, {2, 37, 41}, {1, 5, 150}}) {
                if (terms == Terms::near && !is_softmax(PairKind(kind))) continue;
                const int64_t offset = shape.columns > 3 ? 2 : 0, window = shape.columns;
                const PairLossSettings settings{PairKind(kind), 0.7, 0.1, 0.6,    2.0, 0.4,
                                                -0.1,           1.3, 0.6, offset, 0.3, window};
                Problem problem{shape, settings, terms == Terms::linex, {}, {}, {}, {}};
                if (terms == Terms::near) problem.places.resize(1);
                the_kernels_equal_the_formula<float>(problem, 3e-5);
                the_kernels_equal_the_formula<double>(problem, 1e-11);
            }
    return report();
}
