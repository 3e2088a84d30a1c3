// QRL's critic loss against its formula, with distances by IQE's kernel and the gradient by differences; from one and
// from three threads, with given goals and with goals that are y rolled.
#include <cmath>
#include <random>
#include <vector>

#include "../math/iqe.h"
#include "../math/sort.h"
#include "../ops/qrl_critic.h"
#include "testing.h"

using namespace qmk;
using namespace qmk::QMK_TARGET;

namespace {

struct Problem {
    int64_t rows, count, size;
    bool has_goal;
    Reduction reduction;
    std::vector<double> x, y, goal, cost;
    double raw = 0.3, max_weight = 0.27;
    QrlCriticSettings settings;
};

double distance(const double* x, const double* y, const Problem& problem) {
    double sum = 0, largest = 0;
    for (int64_t c = 0; c < problem.count; ++c) {
        std::vector<double> from(x + c * problem.size, x + (c + 1) * problem.size);
        std::vector<double> to(y + c * problem.size, y + (c + 1) * problem.size);
        sort_any(int(problem.size), from.data(), to.data());
        IqeLength<double> length{-Limits<double>::highest, 0};
        for (int64_t k = 0; k < problem.size; ++k) length.add(from[k], to[k]);
        sum += length.length;
        largest = std::fmax(largest, length.length);
    }
    const MaxWeight<double> max{&problem.max_weight, 1, problem.settings.weight_link};
    return reduced(problem.reduction, sum, largest, problem.count, WeightAt<double>(max, 0).value);
}

double loss_of(const Problem& problem) {
    const int64_t dim = problem.count * problem.size;
    double push = 0, violation = 0;
    for (int64_t i = 0; i < problem.rows; ++i) {
        const double* x = &problem.x[i * dim];
        const double* goal =
            problem.has_goal ? &problem.goal[i * dim] : &problem.y[(i + problem.rows - 1) % problem.rows * dim];
        const double beta = problem.settings.softplus_beta, offset = problem.settings.softplus_offset;
        push += std::log1p(std::exp(beta * (offset - distance(x, goal, problem)))) / beta;
        const double beyond = std::fmax(0.0, distance(x, &problem.y[i * dim], problem) - problem.cost[i]);
        violation += beyond * beyond;
    }
    const double multiplier = problem.settings.multiplier == QrlCriticMultiplier::exp
                                  ? std::exp(problem.raw)
                                  : std::log1p(std::exp(problem.raw));
    const double rows = double(problem.rows);
    return push / rows + multiplier * (violation / rows - problem.settings.threshold);
}

template <class T>
void the_kernels_equal_the_formula(Problem problem, double tolerance) {
    const int64_t rows = problem.rows, dim = problem.count * problem.size, bytes = (2 * problem.size + 7) / 8;
    std::mt19937 random{unsigned(dim)};
    std::normal_distribution<double> normal;
    const auto draw = [&](std::vector<double>& values, int64_t count) {
        values.resize(count);
        for (auto& value : values) value = double(float(normal(random)));
    };
    draw(problem.x, rows * dim);
    draw(problem.y, rows * dim);
    draw(problem.goal, rows * dim);
    draw(problem.cost, rows);
    const std::vector<T> x(problem.x.begin(), problem.x.end()), y(problem.y.begin(), problem.y.end());
    const std::vector<T> goal(problem.goal.begin(), problem.goal.end()), cost(problem.cost.begin(), problem.cost.end());
    const T raw = T(problem.raw), max_weight = T(problem.max_weight), one = T(1);
    const bool has_largest = needs_largest(problem.reduction);
    for (int threads : {1, 3}) {
        T loss;
        std::vector<T> stats(6), slopes(2 * rows), spread(2 * rows);
        std::vector<uint8_t> ends(2 * rows * problem.count * bytes);
        std::vector<int32_t> largest(2 * rows);
        const T* goals = problem.has_goal ? goal.data() : nullptr;
        RUN_WITH_SCRATCH(qrl_critic_forward, threads,
                         QrlCriticForward<T>{x.data(),
                                             y.data(),
                                             goals,
                                             &max_weight,
                                             &raw,
                                             cost.data(),
                                             rows,
                                             &loss,
                                             stats.data(),
                                             slopes.data(),
                                             ends.data(),
                                             has_largest ? largest.data() : nullptr,
                                             spread.data(),
                                             nullptr,
                                             {rows, problem.count},
                                             problem.settings});
        check(std::fabs(double(loss) - loss_of(problem)) <= tolerance * (1 + std::fabs(double(loss))), "loss");

        std::vector<T> grad_x(rows * dim), grad_y(rows * dim), grad_goal(rows * dim);
        T grad_raw, grad_max_weight;
        qrl_critic_backward<T>(QrlCriticBackward<T>{&one,
                                                    stats.data(),
                                                    slopes.data(),
                                                    ends.data(),
                                                    largest.data(),
                                                    spread.data(),
                                                    &max_weight,
                                                    grad_x.data(),
                                                    grad_y.data(),
                                                    problem.has_goal ? grad_goal.data() : nullptr,
                                                    &grad_max_weight,
                                                    &grad_raw,
                                                    {rows, problem.count},
                                                    problem.size,
                                                    problem.reduction,
                                                    problem.settings.weight_link},
                               threads);
        // Piecewise smooth: a small step stays on its piece.
        const auto derivative = [&](double& at) {
            const double step = 1e-6, before = at;
            at = before + step;
            const double above = loss_of(problem);
            at = before - step;
            const double below = loss_of(problem);
            at = before;
            return (above - below) / (2 * step);
        };
        const auto near = [&](T actual, double expected) {
            return std::fabs(double(actual) - expected) <= tolerance * 10 + 1e-6;
        };
        bool holds = near(grad_raw, -derivative(problem.raw));
        if (problem.reduction == Reduction::maxmean)
            holds = holds && near(grad_max_weight, derivative(problem.max_weight));
        for (int64_t i = 0; i < rows * dim; ++i) {
            holds = holds && near(grad_x[i], derivative(problem.x[i])) && near(grad_y[i], derivative(problem.y[i]));
            if (problem.has_goal) holds = holds && near(grad_goal[i], derivative(problem.goal[i]));
        }
        check(holds, "gradients of components of " + std::to_string(problem.size));
    }
}

}  // namespace

int main(int, char** arguments) {
    if (!runs_here(arguments[1])) return skipped;
    for (int64_t size : {1, 4, 8, 5, 16, 32, 33})
        for (bool has_goal : {false, true})
            for (Reduction reduction : {Reduction::maxmean, Reduction::sum, Reduction::max}) {
                const QrlCriticSettings settings{
                    size, reduction, has_goal ? WeightLink::sigmoid : WeightLink::one_minus_sigmoid,
                    0.3,  5.0,       has_goal ? QrlCriticMultiplier::exp : QrlCriticMultiplier::softplus,
                    0.06};
                const Problem problem{5, 3, size, has_goal, reduction, {}, {}, {}, {}, 0.3, 0.27, settings};
                the_kernels_equal_the_formula<float>(problem, 1e-5);
                the_kernels_equal_the_formula<double>(problem, 1e-12);
            }
    return report();
}
