// MRN's CPU kernels against the formula written out, between matching rows and between all pairs, from one and from
// three threads.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "../cpu/mrn.h"
#include "testing.h"

using namespace qmk;
using namespace qmk::QMK_TARGET;

// One component of `size` values, and the gradient by x that grad_out makes of it.
static double component(const double* x, const double* y, int64_t size, const MrnForm& form, double grad_out,
                        double* grad) {
    const int64_t half = form.asymmetric == MrnAsymmetric::none ? 0 : size / 2;
    const bool first = form.asymmetric != MrnAsymmetric::second;
    double largest = 0, squares = 0;
    int64_t where = -1;
    const auto is_asymmetric = [&](int64_t d) { return first ? d < half : d >= half; };
    const double shift = form.eps_form == MrnEps::difference ? form.eps : 0;
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
    const double share = form.mean_of_squares ? 1.0 / double(count) : 1.0;
    squares *= share;
    const bool moves = form.eps_form == MrnEps::max ? squares > form.eps : squares > 0 || form.eps > 0;
    if (form.eps_form == MrnEps::add) squares += form.eps;
    if (form.eps_form == MrnEps::max) squares = std::fmax(squares, form.eps);
    const double slope = moves ? form.exponent * share * std::pow(squares, form.exponent / 2 - 1) : 0;
    for (int64_t d = 0; d < size; ++d)
        if (!is_asymmetric(d)) grad[d] = grad_out * slope * (x[d] - y[d] + shift);
    return largest + std::pow(squares, form.exponent / 2);
}

template <class T>
static void kernels_equal_the_formula(const MrnCpu<T>& kernels, const MrnForm& form, int64_t num_x, int64_t num_y,
                                      int64_t size, double tolerance) {
    const int64_t dim = form.num_components * size;
    std::mt19937 random{unsigned(size)};
    std::normal_distribution<T> normal;
    std::vector<T> x(num_x * dim), y(num_y * dim), grad_out(num_x * num_y);
    for (auto* values : {&x, &y, &grad_out})
        for (auto& value : *values) value = normal(random);
    std::copy(x.begin(), x.begin() + dim, y.begin());  // one pair of equal rows

    std::vector<double> out(num_x * num_y), grad_x(num_x * dim), grad_y(num_y * dim), row_grad_x(num_x * dim),
        grad(size);
    const double weight = form.scale / (form.reduction == MrnReduction::mean ? double(form.num_components) : 1.0);
    const std::vector<double> wide_x(x.begin(), x.end()), wide_y(y.begin(), y.end());
    for (int64_t i = 0; i < num_x; ++i)
        for (int64_t j = 0; j < num_y; ++j)
            for (int64_t c = 0; c < form.num_components; ++c) {
                out[i * num_y + j] += weight * component(&wide_x[i * dim + c * size], &wide_y[j * dim + c * size], size,
                                                         form, weight * double(grad_out[i * num_y + j]), grad.data());
                for (int64_t d = 0; d < size; ++d) {
                    grad_x[i * dim + c * size + d] += grad[d];
                    grad_y[j * dim + c * size + d] -= grad[d];
                    if (i == j) row_grad_x[i * dim + c * size + d] = grad[d];
                }
            }

    const auto near = [&](const std::vector<T>& actual, const std::vector<double>& expected, const char* what) {
        for (size_t i = 0; i < actual.size(); ++i)
            if (std::fabs(double(actual[i]) - expected[i]) > tolerance * (1 + std::fabs(expected[i])))
                return check(false, std::string(what) + " of components of " + std::to_string(size));
    };
    for (int threads : {1, 3}) {
        const MrnPairwiseShape shape{1, num_x, num_y, dim};
        std::vector<char> workspace(kernels.pairwise_workspace(shape, true));
        std::vector<T> results(num_x * num_y), of_x(num_x * dim), of_y(num_y * dim), rows(num_x), diagonal(num_x);
        kernels.pairwise_forward(x.data(), y.data(), results.data(), workspace.data(), shape, form, threads);
        kernels.pairwise_backward(grad_out.data(), x.data(), y.data(), of_x.data(), of_y.data(), workspace.data(),
                                  shape, form, threads);
        near(results, out, "pairwise forward");
        near(of_x, grad_x, "pairwise gradient of x");
        near(of_y, grad_y, "pairwise gradient of y");

        std::vector<double> diagonal_out(num_x);
        for (int64_t i = 0; i < num_x; ++i) {
            diagonal[i] = grad_out[i * num_y + i];
            diagonal_out[i] = out[i * num_y + i];
        }
        kernels.forward(x.data(), y.data(), rows.data(), num_x, dim, form, threads);
        kernels.backward(diagonal.data(), x.data(), y.data(), of_x.data(), of_y.data(), num_x, dim, form, threads);
        near(rows, diagonal_out, "forward");
        near(of_x, row_grad_x, "gradient of x");
    }
}

int main(int, char** arguments) {
    if (!runs_here(arguments[1])) return skipped;
    const MrnForm forms[] = {
        {1, MrnAsymmetric::second, true, 2.0, 0.0, MrnEps::add, MrnReduction::sum, 1.0},
        {1, MrnAsymmetric::second, false, 1.0, 1e-12, MrnEps::max, MrnReduction::sum, 1.0},
        {8, MrnAsymmetric::first, false, 1.0, 1e-6, MrnEps::add, MrnReduction::mean, 1.0},
        {3, MrnAsymmetric::first, true, 1.5, 1e-2, MrnEps::difference, MrnReduction::mean, 0.3},
        {2, MrnAsymmetric::none, false, 1.0, 0.0, MrnEps::add, MrnReduction::sum, 2.0},
    };
    for (const MrnForm& form : forms)
        for (int64_t size : {1, 2, 7, 16, 45, 64}) {
            kernels_equal_the_formula(qmk::QMK_TARGET::mrn_float, form, 14, 37, size, 2e-5);
            kernels_equal_the_formula(qmk::QMK_TARGET::mrn_double, form, 14, 37, size, 1e-11);
        }
    for (const MrnForm& form : forms) {  // more rows than a task, a tile and a block of lanes hold
        kernels_equal_the_formula(qmk::QMK_TARGET::mrn_float, form, 107, 109, 12, 5e-5);
        kernels_equal_the_formula(qmk::QMK_TARGET::mrn_double, form, 107, 109, 12, 1e-11);
    }
    return report();
}
