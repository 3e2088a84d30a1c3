// QRL's latent dynamics loss against its formula, with distances by IQE's kernel and the gradient by differences; from
// one and from three threads.
#include <cmath>
#include <random>
#include <vector>

#include "../math/iqe.h"
#include "../math/sort.h"
#include "../ops/latent_dynamics.h"
#include "testing.h"

using namespace qmk;
using namespace qmk::QMK_TARGET;

namespace {

struct Problem {
    int64_t rows, count;
    LatentDynamicsSettings settings;
    std::vector<double> predicted, target;
    double max_weight = 0.27;
};

double distance(const double* x, const double* y, const Problem& problem) {
    const int64_t size = problem.settings.dim_per_component;
    double sum = 0, largest = 0;
    for (int64_t c = 0; c < problem.count; ++c) {
        std::vector<double> from(x + c * size, x + (c + 1) * size), to(y + c * size, y + (c + 1) * size);
        sort_any(int(size), from.data(), to.data());
        IqeLength<double> length{-Limits<double>::highest, 0};
        for (int64_t k = 0; k < size; ++k) length.add(from[k], to[k]);
        sum += length.length;
        largest = std::fmax(largest, length.length);
    }
    const MaxWeight<double> max{&problem.max_weight, 1, problem.settings.weight_link};
    return reduced(problem.settings.reduction, sum, largest, problem.count, WeightAt<double>(max, 0).value);
}

// The loss and the mean distance in each direction.
struct Expected {
    double loss = 0, stats[2] = {};
};

Expected expected_of(const Problem& problem) {
    const int64_t dim = problem.count * problem.settings.dim_per_component;
    const double rows = double(problem.rows), power = double(problem.settings.power);
    Expected expected;
    for (int64_t i = 0; i < problem.rows; ++i) {
        const double *x = &problem.predicted[i * dim], *y = &problem.target[i * dim];
        const double both[2] = {distance(x, y, problem), distance(y, x, problem)};
        for (int pair = 0; pair < 2; ++pair) {
            expected.loss += 0.5 * std::pow(both[pair], power) / rows;
            expected.stats[pair] += both[pair] / rows;
        }
    }
    return expected;
}

template <class T>
void the_kernels_equal_the_formula(Problem problem, double tolerance) {
    const int64_t size = problem.settings.dim_per_component, rows = problem.rows, dim = problem.count * size;
    const Reduction reduction = problem.settings.reduction;
    std::mt19937 random{unsigned(dim)};
    std::normal_distribution<double> normal;
    for (auto* values : {&problem.predicted, &problem.target}) {
        values->resize(rows * dim);
        for (auto& value : *values) value = double(float(normal(random)));
    }
    const std::vector<T> predicted(problem.predicted.begin(), problem.predicted.end());
    const std::vector<T> target(problem.target.begin(), problem.target.end());
    const T max_weight = T(problem.max_weight), one = T(1);
    const Expected expected = expected_of(problem);
    for (int threads : {1, 3}) {
        T loss;
        std::vector<T> stats(2), slopes(2 * rows), spread(2 * rows);
        std::vector<uint8_t> ends(2 * rows * problem.count * ((2 * size + 7) / 8));
        std::vector<int32_t> largest(2 * rows);
        RUN_WITH_SCRATCH(latent_dynamics_forward, threads,
                         LatentDynamicsForward<T>{predicted.data(),
                                                  target.data(),
                                                  &max_weight,
                                                  &loss,
                                                  stats.data(),
                                                  slopes.data(),
                                                  ends.data(),
                                                  needs_largest(reduction) ? largest.data() : nullptr,
                                                  spread.data(),
                                                  nullptr,
                                                  {rows, problem.count},
                                                  problem.settings});
        const auto close = [&](T actual, double wanted) {
            return std::fabs(double(actual) - wanted) <= tolerance * (1 + std::fabs(wanted));
        };
        check(close(loss, expected.loss), "loss");
        check(close(stats[0], expected.stats[0]) && close(stats[1], expected.stats[1]), "mean distances");

        std::vector<T> grad_predicted(rows * dim), grad_target(rows * dim);
        T grad_max_weight;
        latent_dynamics_backward<T>(LatentDynamicsBackward<T>{&one,
                                                              slopes.data(),
                                                              ends.data(),
                                                              largest.data(),
                                                              spread.data(),
                                                              &max_weight,
                                                              grad_predicted.data(),
                                                              grad_target.data(),
                                                              &grad_max_weight,
                                                              {rows, problem.count},
                                                              size,
                                                              reduction,
                                                              problem.settings.weight_link},
                                    threads);
        // Piecewise smooth: a small step stays on its piece.
        const auto derivative = [&](double& at) {
            const double step = 1e-6, before = at;
            at = before + step;
            const double above = expected_of(problem).loss;
            at = before - step;
            const double below = expected_of(problem).loss;
            at = before;
            return (above - below) / (2 * step);
        };
        const auto near = [&](T actual, double wanted) {
            return std::fabs(double(actual) - wanted) <= tolerance * 10 * (1 + std::fabs(wanted)) + 1e-6;
        };
        bool holds = reduction != Reduction::maxmean || near(grad_max_weight, derivative(problem.max_weight));
        for (int64_t i = 0; i < rows * dim; ++i)
            holds = holds && near(grad_predicted[i], derivative(problem.predicted[i])) &&
                    near(grad_target[i], derivative(problem.target[i]));
        check(holds, "gradients of components of " + std::to_string(size));
    }
}

}  // namespace

int main(int, char** arguments) {
    if (!runs_here(arguments[1])) return skipped;
    for (int64_t size : {1, 4, 8, 5, 16, 32, 33})
        for (int64_t power : {1, 2})
            for (Reduction reduction : {Reduction::maxmean, Reduction::sum, Reduction::max}) {
                const Problem problem{5, 3, {size, reduction, WeightLink::sigmoid, power}, {}, {}};
                the_kernels_equal_the_formula<float>(problem, 1e-5);
                the_kernels_equal_the_formula<double>(problem, 1e-12);
            }
    return report();
}
