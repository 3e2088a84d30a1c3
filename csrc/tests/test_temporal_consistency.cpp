// iQRL's temporal consistency against its formula and the gradient by differences; from one and from three threads,
// with a mask and without.
#include <cmath>
#include <random>
#include <vector>

#include "../ops/temporal_consistency.h"
#include "testing.h"

using namespace qmk;
using namespace qmk::QMK_TARGET;

namespace {

struct Shape {
    int64_t steps, batch, size;
};

constexpr double discount = 0.8;

struct Problem {
    Shape shape;
    std::vector<double> predicted, target, mask;
};

double cosine(const double* p, const double* t, int64_t size) {
    double dot = 0, squares = 0, target_squares = 0;
    for (int64_t k = 0; k < size; ++k) {
        dot += p[k] * t[k];
        squares += p[k] * p[k];
        target_squares += t[k] * t[k];
    }
    return dot / std::fmax(std::sqrt(squares), 1e-8) / std::fmax(std::sqrt(target_squares), 1e-8);
}

double cosine_of_row(const Problem& problem, int64_t i) {
    const int64_t size = problem.shape.size;
    return cosine(&problem.predicted[i * size], &problem.target[i * size], size);
}

double loss_of(const Problem& problem, bool masked) {
    const int64_t batch = problem.shape.batch;
    double loss = 0;
    for (int64_t i = 0; i < problem.shape.steps * batch; ++i)
        loss += std::pow(discount, double(i / batch)) / double(batch) * (masked ? problem.mask[i] : 1) *
                (1 - cosine_of_row(problem, i));
    return loss;
}

template <class T>
void the_kernels_equal_the_formula(Shape shape, double tolerance) {
    const int64_t rows = shape.steps * shape.batch, values = rows * shape.size;
    std::mt19937 random{unsigned(shape.size)};
    std::normal_distribution<double> normal;
    Problem problem{shape, {}, {}, {}};
    const auto draw = [&](std::vector<double>& to, int64_t count) {
        to.resize(count);
        for (auto& value : to) value = double(float(normal(random)));
    };
    draw(problem.predicted, values);
    draw(problem.target, values);
    draw(problem.mask, rows);
    // A target without a direction.
    for (int64_t k = 0; k < shape.size; ++k) problem.target[k] = 0;
    const std::vector<T> predicted(problem.predicted.begin(), problem.predicted.end());
    const std::vector<T> target(problem.target.begin(), problem.target.end());
    const std::vector<T> mask(problem.mask.begin(), problem.mask.end());
    for (bool masked : {false, true})
        for (int threads : {1, 3}) {
            T loss;
            std::vector<T> similarity(shape.steps), slopes(2 * rows);
            RUN_WITH_SCRATCH(
                temporal_consistency_forward, threads,
                TemporalConsistencyForward<T>{predicted.data(), target.data(), masked ? mask.data() : nullptr, &loss,
                                              similarity.data(), slopes.data(), nullptr, shape.steps, shape.batch,
                                              shape.size, discount});
            bool holds = std::fabs(double(loss) - loss_of(problem, masked)) <= tolerance * 10;
            for (int64_t h = 0; h < shape.steps; ++h) {
                double sum = 0;
                for (int64_t b = 0; b < shape.batch; ++b) sum += cosine_of_row(problem, h * shape.batch + b);
                holds = holds && std::fabs(double(similarity[h]) - sum / double(shape.batch)) <= tolerance;
            }
            check(holds, "loss and similarity of rows of " + std::to_string(shape.size));

            const T grad_loss = T(-1.5);
            // One more, which must stay unchanged.
            std::vector<T> grad(values + 1, T(7));
            temporal_consistency_backward<T>(
                TemporalConsistencyBackward<T>{&grad_loss, slopes.data(), predicted.data(), target.data(), grad.data(),
                                               rows, shape.size},
                threads);
            holds = grad[values] == T(7);
            for (int64_t i = 0; i < values; ++i) {
                Problem moved = problem;
                const double step = 1e-5;
                moved.predicted[i] += step;
                const double above = loss_of(moved, masked);
                moved.predicted[i] -= 2 * step;
                const double slope = (above - loss_of(moved, masked)) / (2 * step);
                holds = holds && std::fabs(double(grad[i]) + 1.5 * slope) <= 10 * tolerance + 1e-8;
            }
            check(holds, "gradients of rows of " + std::to_string(shape.size));
        }
}

}  // namespace

int main(int, char** arguments) {
    if (!runs_here(arguments[1])) return skipped;
    for (int64_t size : {2, 3, 8, 16, 33, 64, 123})
        for (int64_t batch : {1, 3}) {
            the_kernels_equal_the_formula<float>({2, batch, size}, 1e-6);
            the_kernels_equal_the_formula<double>({2, batch, size}, 1e-14);
        }
    return report();
}
