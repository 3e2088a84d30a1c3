// MRN's CPU kernels against the formula, for matching rows and for all pairs, from one and from three threads.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "../ops/mrn.h"
#include "testing.h"

using namespace qmk;
using namespace qmk::QMK_TARGET;

// One component of `size` values, and its gradient by x for grad_out.
static double component(const double* x, const double* y, int64_t size, const MrnSettings& settings, double grad_out,
                        double* grad) {
    const int64_t half = settings.asymmetric == MrnAsymmetric::none ? 0 : size / 2;
    const bool first = settings.asymmetric != MrnAsymmetric::second;
    double largest = 0, squares = 0;
    int64_t where = -1;
    const auto is_asymmetric = [&](int64_t d) { return first ? d < half : d >= half; };
    const double shift = settings.eps_form == MrnEps::difference ? settings.eps : 0;
    int64_t count = 0;
    for (int64_t d = 0; d < size; ++d) {
        const double difference = x[d] - y[d];
        grad[d] = 0;
        if (!is_asymmetric(d)) {
            squares += (difference + shift) * (difference + shift);
            ++count;
        } else if (difference > largest) {
            largest = difference;
            where = d;
        }
    }
    if (where >= 0) grad[where] = grad_out;
    if (count == 0) return largest;
    const double share = settings.squares == MrnSquares::mean ? 1.0 / double(count) : 1.0;
    squares *= share;
    const bool moves = settings.eps_form == MrnEps::max ? squares > settings.eps : squares > 0 || settings.eps > 0;
    if (settings.eps_form == MrnEps::add) squares += settings.eps;
    if (settings.eps_form == MrnEps::max) squares = std::fmax(squares, settings.eps);
    const double slope = moves ? settings.exponent * share * std::pow(squares, settings.exponent / 2 - 1) : 0;
    for (int64_t d = 0; d < size; ++d)
        if (!is_asymmetric(d)) grad[d] = grad_out * slope * (x[d] - y[d] + shift);
    return largest + std::pow(squares, settings.exponent / 2);
}

template <class T>
static void kernels_equal_the_formula(const MrnSettings& settings, int64_t num_x, int64_t num_y, int64_t size,
                                      double tolerance) {
    const int64_t dim = settings.num_components * size, matching = num_x < num_y ? num_x : num_y;
    std::mt19937 random{unsigned(size)};
    std::normal_distribution<T> normal;
    std::vector<T> x(num_x * dim), y(num_y * dim), grad_out(num_x * num_y);
    for (auto* values : {&x, &y, &grad_out})
        for (auto& value : *values) value = normal(random);
    std::copy(x.begin(), x.begin() + dim, y.begin());  // one pair of equal rows

    std::vector<double> out(num_x * num_y), grad_x(num_x * dim), grad_y(num_y * dim), row_grad_x(matching * dim),
        grad(size);
    const double weight =
        settings.scale / (settings.reduction == MrnReduction::mean ? double(settings.num_components) : 1.0);
    const std::vector<double> wide_x(x.begin(), x.end()), wide_y(y.begin(), y.end());
    for (int64_t i = 0; i < num_x; ++i)
        for (int64_t j = 0; j < num_y; ++j)
            for (int64_t c = 0; c < settings.num_components; ++c) {
                out[i * num_y + j] +=
                    weight * component(&wide_x[i * dim + c * size], &wide_y[j * dim + c * size], size, settings,
                                       weight * double(grad_out[i * num_y + j]), grad.data());
                for (int64_t d = 0; d < size; ++d) {
                    grad_x[i * dim + c * size + d] += grad[d];
                    grad_y[j * dim + c * size + d] -= grad[d];
                    if (i == j) row_grad_x[i * dim + c * size + d] = grad[d];
                }
            }

    const auto near = [&](const std::vector<T>& actual, const std::vector<double>& expected, const char* what) {
        for (size_t i = 0; i < actual.size(); ++i)
            if (std::fabs(double(actual[i]) - expected[i]) > tolerance * (1 + std::fabs(expected[i])))
                return check(false, std::string(what) + " of components of " + std::to_string(size) + ", " +
                                        std::to_string(num_x) + " by " + std::to_string(num_y));
    };
    for (int threads : {1, 3}) {
        const MrnPairwiseShape shape{1, num_x, num_y, dim};
        std::vector<T> results(num_x * num_y), of_x(num_x * dim), of_y(num_y * dim), rows(matching), diagonal(matching);
        RUN_WITH_SCRATCH(mrn_pairwise_forward, threads,
                         MrnPairwiseForward<T>{x.data(), y.data(), results.data(), nullptr, shape, settings});
        RUN_WITH_SCRATCH(mrn_pairwise_backward, threads,
                         MrnPairwiseBackward<T>{grad_out.data(), x.data(), y.data(), of_x.data(), of_y.data(), nullptr,
                                                shape, settings});
        near(results, out, "pairwise forward");
        near(of_x, grad_x, "pairwise gradient of x");
        near(of_y, grad_y, "pairwise gradient of y");

        std::vector<double> diagonal_out(matching);
        for (int64_t i = 0; i < matching; ++i) {
            diagonal[i] = grad_out[i * num_y + i];
            diagonal_out[i] = out[i * num_y + i];
        }
        of_x.resize(matching * dim);
        of_y.resize(matching * dim);
        mrn_forward<T>(MrnForward<T>{x.data(), y.data(), rows.data(), matching, dim, settings}, threads);
        mrn_backward<T>(
            MrnBackward<T>{diagonal.data(), x.data(), y.data(), of_x.data(), of_y.data(), matching, dim, settings},
            threads);
        near(rows, diagonal_out, "forward");
        near(of_x, row_grad_x, "gradient of x");
        for (T& grad : of_y) grad = -grad;
        near(of_y, row_grad_x, "gradient of y");
    }
}

int main(int, char** arguments) {
    if (!runs_here(arguments[1])) return skipped;
    const MrnSettings forms[] = {
        {1, MrnAsymmetric::second, MrnSquares::mean, 2.0, 0.0, MrnEps::add, MrnReduction::sum, 1.0},
        {1, MrnAsymmetric::second, MrnSquares::sum, 1.0, 1e-12, MrnEps::max, MrnReduction::sum, 1.0},
        {8, MrnAsymmetric::first, MrnSquares::sum, 1.0, 1e-6, MrnEps::add, MrnReduction::mean, 1.0},
        {3, MrnAsymmetric::first, MrnSquares::mean, 1.5, 1e-2, MrnEps::difference, MrnReduction::mean, 0.3},
        {2, MrnAsymmetric::none, MrnSquares::sum, 1.0, 0.0, MrnEps::add, MrnReduction::sum, 2.0},
    };
    const auto both = [](const MrnSettings& settings, int64_t num_x, int64_t num_y, int64_t size) {
        kernels_equal_the_formula<float>(settings, num_x, num_y, size, 2e-5);
        kernels_equal_the_formula<double>(settings, num_x, num_y, size, 1e-11);
    };
    for (const MrnSettings& settings : forms) {
        for (int64_t size : {1, 2, 7, 16, 45, 64}) both(settings, 14, 37, size);
        // More rows than a tile, whose memory then has no slack; odd sizes end between its boundaries.
        for (int64_t size : {3, 5, 7}) {
            both(settings, 49, 61, size);
            both(settings, 100, 130, size);
        }
        both(settings, 107, 109, 12);
        both(settings, 50, 53, 101);   // more rows than the largest panel
        both(settings, 133, 140, 16);  // several tasks of matching rows, whose components fit a register
        both(settings, 9, 800, 5);     // more lanes than a strip
        both(settings, 130, 7, 13);    // x is laid out as lanes
        // A single row, with more of the others than a piece and than a task.
        both(settings, 1, 1, 7);
        both(settings, 1, 530, 45);
        both(settings, 530, 1, 45);
        both(settings, 2600, 1, 7);
    }
    return report();
}
