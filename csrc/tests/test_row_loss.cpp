// Losses over rows against their formulas, with distances by the heads' own kernels and the gradient by differences;
// from one and from three threads.
#include <cmath>
#include <random>
#include <vector>

#include "../ops/row_loss.h"
#include "testing.h"

using namespace qmk;
using namespace qmk::QMK_TARGET;

namespace {

constexpr double not_kept = -1;  // a target that no form takes, in rows that are masked out

// An IQE of components of `size` values, or an MRN if that is 0.
struct Problem {
    int64_t rows, dim, size;
    RowLossSettings settings;
    std::vector<double> x, y, target, weight, mask;
    double max_weight = 0.27;

    IqeShape shape() const { return {rows, dim / size, size}; }
};

const MrnSettings mrn{3, MrnAsymmetric::first, MrnSquares::sum, 1.0, 1e-6, MrnEps::add, MrnReduction::mean, 1.0};

std::vector<double> distances_of(const Problem& problem) {
    std::vector<double> distances(problem.rows);
    const double *x = problem.x.data(), *y = problem.y.data();
    if (problem.size == 0)
        mrn_forward<double>({x, y, distances.data(), problem.rows, problem.dim, mrn}, 1);
    else
        iqe_forward<double>({x,
                             y,
                             {&problem.max_weight, 1, WeightLink::sigmoid},
                             distances.data(),
                             nullptr,
                             nullptr,
                             nullptr,
                             problem.shape(),
                             Reduction::maxmean},
                            1);
    return distances;
}

double term(double d, double t, const RowLossSettings& settings) {
    const double error = std::fabs(d - t);
    switch (settings.form) {
        case RowLossForm::smooth_l1:
            return error < settings.beta ? error * error / (2 * settings.beta) : error - settings.beta / 2;
        case RowLossForm::squared:
            return error * error;
        case RowLossForm::relative:
            return std::pow(d / t - 1, 2);
        case RowLossForm::upper:
            return d > t ? error * error : 0;
        case RowLossForm::apart:
            return d < t ? std::pow(error, settings.power) : 0;
        default: {
            const double delta = settings.huber_delta, weight = std::fabs(settings.expectile - (t > d));
            if (delta == 0) return weight * error * error;
            return weight * (error <= delta ? error * error / 2 : delta * (error - delta / 2));
        }
    }
}

// The loss, mean distance, mean target, and share of distances below the target.
struct Expected {
    double values[4] = {};
};

Expected expected_of(const Problem& problem) {
    Expected expected;
    double count = 0;
    for (double kept : problem.mask) count += kept;
    const std::vector<double> distances = distances_of(problem);
    for (int64_t i = 0; i < problem.rows; ++i) {
        if (problem.mask[i] == 0) continue;
        const double d = distances[i], t = problem.target[i];
        const double values[4] = {problem.weight[i] * term(d, t, problem.settings), d, t, d < t ? 1.0 : 0.0};
        for (int v = 0; v < 4; ++v) expected.values[v] += values[v] / count;
    }
    return expected;
}

template <class T>
std::vector<T> cast(const std::vector<double>& values) {
    return std::vector<T>(values.begin(), values.end());
}

template <class T>
void the_kernels_equal_the_formula(Problem problem, double tolerance) {
    const int64_t rows = problem.rows, dim = problem.dim, size = problem.size;
    std::mt19937 random{unsigned(rows + dim)};
    std::normal_distribution<double> normal;
    for (auto* values : {&problem.x, &problem.y}) {
        values->resize(rows * dim);
        for (auto& value : *values) value = double(float(normal(random)));
    }
    for (int64_t i = 0; i < rows; ++i) {
        problem.mask.push_back(i % 3 == 1 ? 0 : 1);
        problem.target.push_back(i % 3 == 1 ? not_kept : double(float(std::fabs(2 * normal(random)) + 0.1)));
        problem.weight.push_back(double(float(std::fabs(normal(random)))));
    }
    const auto x = cast<T>(problem.x), y = cast<T>(problem.y), target = cast<T>(problem.target);
    const auto weight = cast<T>(problem.weight), mask = cast<T>(problem.mask);
    const T max_weight = T(problem.max_weight), one = T(1);
    const MaxWeight<T> max{&max_weight, 1, WeightLink::sigmoid};
    const Expected expected = expected_of(problem);
    for (int threads : {1, 3}) {
        T loss, grad_max_weight = T(0);
        std::vector<T> stats(3), slopes(rows), spread(rows), grad_x(rows * dim), grad_y(rows * dim);
        std::vector<int32_t> largest(rows);
        const RowLossTerms<T> terms{target.data(), rows,         weight.data(), mask.data(),
                                    &loss,         stats.data(), slopes.data(), problem.settings};
        if (size == 0) {
            RUN_WITH_SCRATCH(row_loss_mrn_forward, threads,
                             RowLossMrnForward<T>{x.data(), y.data(), terms, nullptr, rows, dim, mrn});
            RUN_WITH_SCRATCH(row_loss_mrn_backward, threads,
                             RowLossMrnBackward<T>{&one, slopes.data(), x.data(), y.data(), grad_x.data(),
                                                   grad_y.data(), nullptr, rows, dim, mrn});
        } else {
            std::vector<uint8_t> ends(rows * (dim / size) * ((2 * size + 7) / 8));
            RUN_WITH_SCRATCH(row_loss_iqe_forward, threads,
                             RowLossIqeForward<T>{x.data(), y.data(), max, ends.data(), largest.data(), spread.data(),
                                                  terms, nullptr, problem.shape(), Reduction::maxmean});
            RUN_WITH_SCRATCH(row_loss_iqe_backward, threads,
                             RowLossIqeBackward<T>{&one, slopes.data(), ends.data(), largest.data(), spread.data(), max,
                                                   grad_x.data(), grad_y.data(), &grad_max_weight, nullptr,
                                                   problem.shape(), Reduction::maxmean});
        }
        const auto near = [](double actual, double wanted, double within) {
            return std::fabs(actual - wanted) <= within * (1 + std::fabs(wanted));
        };
        check(near(loss, expected.values[0], tolerance), "loss");
        for (int v = 0; v < 3; ++v) check(near(stats[v], expected.values[1 + v], tolerance), "statistics");
        // Piecewise smooth: a small step stays on its piece.
        const auto derivative = [&](double& at) {
            const double step = 1e-6, before = at;
            at = before + step;
            const double above = expected_of(problem).values[0];
            at = before - step;
            const double below = expected_of(problem).values[0];
            at = before;
            return (above - below) / (2 * step);
        };
        bool holds = size == 0 || near(grad_max_weight, derivative(problem.max_weight), 10 * tolerance + 1e-6);
        for (int64_t i = 0; i < rows * dim; ++i)
            holds = holds && near(grad_x[i], derivative(problem.x[i]), 10 * tolerance + 1e-6) &&
                    near(grad_y[i], derivative(problem.y[i]), 10 * tolerance + 1e-6);
        check(holds, "gradients of form " + std::to_string(int(problem.settings.form)));
    }
}

}  // namespace

int main(int, char** arguments) {
    if (!runs_here(arguments[1])) return skipped;
    const RowLossSettings forms[] = {
        {RowLossForm::smooth_l1, 0.7, 1, 0.5, 0}, {RowLossForm::smooth_l1, 0, 1, 0.5, 0},
        {RowLossForm::squared, 1, 1, 0.5, 0},     {RowLossForm::relative, 1, 1, 0.5, 0},
        {RowLossForm::upper, 1, 1, 0.5, 0},       {RowLossForm::apart, 1, 1, 0.5, 0},
        {RowLossForm::apart, 1, 2, 0.5, 0},       {RowLossForm::apart, 1, 1.5, 0.5, 0},
        {RowLossForm::expectile, 1, 1, 0.9, 0},   {RowLossForm::expectile, 1, 1, 0.2, 0.8}};
    for (const RowLossSettings& settings : forms)
        for (int64_t size : {0, 5, 8}) {
            const Problem problem{7, size == 8 ? 24 : 15, size, settings, {}, {}, {}, {}, {}};
            the_kernels_equal_the_formula<float>(problem, 1e-5);
            the_kernels_equal_the_formula<double>(problem, 1e-12);
        }
    return report();
}
