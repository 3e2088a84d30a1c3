// METRA's loss against its formula, and its gradient against differences; from one and from three threads, for rows
// shorter and longer than a vector of lanes.
#include <cmath>
#include <random>
#include <vector>

#include "../ops/metra.h"
#include "testing.h"

using namespace qmk;
using namespace qmk::QMK_TARGET;

namespace {

struct Problem {
    MetraShape shape;
    MetraSettings settings;
    std::vector<double> phi, next, skill;
    double log_multiplier = 0.3;
};

// The rows' terms of the loss, except its last term, which has no gradient by them.
double loss_of_rows(const Problem& problem, int64_t first, int64_t end, double multiplier) {
    const int64_t dim = problem.shape.dim;
    double rewards = 0, constraints = 0;
    for (int64_t i = first; i < end; ++i) {
        double squares = 0;
        for (int64_t at = i * dim; at < (i + 1) * dim; ++at) {
            const double step = problem.next[at] - problem.phi[at];
            squares += step * step;
            rewards += step * problem.skill[at];
        }
        const double squared = problem.settings.norm == MetraNorm::mean ? squares / double(dim) : squares;
        constraints += std::fmin(problem.settings.slack, 1 - squared);
    }
    return (-rewards - multiplier * constraints) / double(problem.shape.rows);
}

template <class T>
void the_kernels_equal_the_formula(Problem problem, double tolerance) {
    const int64_t rows = problem.shape.rows, dim = problem.shape.dim;
    std::mt19937 random{unsigned(dim)};
    std::normal_distribution<double> normal;
    const auto draw = [&](std::vector<double>& values, double scale) {
        values.resize(rows * dim);
        for (auto& value : values) value = double(float(scale * normal(random)));
    };
    // Some squared distances are above 1, others below.
    const double scale = problem.settings.norm == MetraNorm::mean ? 1 : 1 / std::sqrt(double(dim));
    draw(problem.phi, 0.7 * scale);
    draw(problem.next, 0.7 * scale);
    draw(problem.skill, 1);
    const std::vector<T> phi(problem.phi.begin(), problem.phi.end()), next(problem.next.begin(), problem.next.end());
    const std::vector<T> skill(problem.skill.begin(), problem.skill.end());
    const T log_multiplier = T(problem.log_multiplier), one = T(1);
    const double multiplier = std::exp(problem.log_multiplier);
    for (int threads : {1, 3}) {
        T loss, grad_log_multiplier;
        std::vector<T> reward(rows), stats(3), slopes(rows);
        RUN_WITH_SCRATCH(metra_forward, threads,
                         MetraForward<T>{phi.data(), next.data(), skill.data(), &log_multiplier, &loss, reward.data(),
                                         stats.data(), slopes.data(), nullptr, problem.shape, problem.settings});
        const auto near = [&](T actual, double expected) {
            return std::fabs(double(actual) - expected) <= tolerance * (1 + std::fabs(expected));
        };
        const double expected = loss_of_rows(problem, 0, rows, multiplier) + problem.log_multiplier * double(stats[0]);
        const std::string name = "rows of " + std::to_string(dim);
        check(near(loss, expected), "loss of " + name);

        std::vector<T> grad_phi(rows * dim), grad_next(rows * dim), grad_skill(rows * dim);
        for (T* of_skill : {grad_skill.data(), static_cast<T*>(nullptr)})
            metra_backward<T>(
                MetraBackward<T>{&one, phi.data(), next.data(), skill.data(), stats.data(), slopes.data(),
                                 grad_phi.data(), grad_next.data(), of_skill, &grad_log_multiplier, problem.shape},
                threads);
        const auto derivative = [&](double& at, int64_t row) {
            const double step = 1e-6, before = at;
            at = before + step;
            const double above = loss_of_rows(problem, row, row + 1, multiplier);
            at = before - step;
            const double below = loss_of_rows(problem, row, row + 1, multiplier);
            at = before;
            return (above - below) / (2 * step);
        };
        const auto agree = [&](const std::vector<T>& grads, std::vector<double>& values) {
            for (int64_t i = 0; i < rows * dim; ++i)
                if (!(std::fabs(double(grads[i]) - derivative(values[i], i / dim)) <= tolerance * 10 + 1e-7))
                    return false;
            return true;
        };
        check(near(grad_log_multiplier, double(stats[0])) && near(stats[1], multiplier), "multiplier of " + name);
        check(agree(grad_phi, problem.phi) && agree(grad_next, problem.next) && agree(grad_skill, problem.skill),
              "gradients of " + name);
    }
}

}  // namespace

int main(int, char** arguments) {
    if (!runs_here(arguments[1])) return skipped;
    for (int64_t dim : {1, 2, 7, 16, 33, 507})
        for (int64_t rows : {1, 33})
            for (MetraNorm norm : {MetraNorm::sum, MetraNorm::mean}) {
                const Problem problem{{rows, dim}, {1e-3, norm}, {}, {}, {}};
                the_kernels_equal_the_formula<float>(problem, 1e-5);
                the_kernels_equal_the_formula<double>(problem, 1e-12);
            }
    return report();
}
