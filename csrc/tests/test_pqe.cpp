// PQE-LH's CPU kernels against the formula, for matching rows and for all pairs, from one and from three threads; runs
// of rows with their own weights; and the exponential that the kernels share.
#include <cmath>
#include <cstdlib>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "../cpu/lanes.h"
#include "../math/pqe.h"
#include "../ops/pqe.h"
#include "testing.h"

using namespace qmk;
using namespace qmk::QMK_TARGET;

template <class T>
static T exp_in_lanes(T x, bool one_minus) {
    const auto parts = exponential_of_nonpositive<T>(broadcast(x));
    return (one_minus ? parts.one_minus() : parts.value())[num_lanes<T> - 1];
}

// Within two units in the last place, over the whole range.
template <class T>
static void the_exponential_is_accurate(const std::string& type) {
    const double unit = std::numeric_limits<T>::epsilon();
    double worst = 0, worst_one_minus = 0;
    for (int i = 0; i < 200000; ++i) {
        const T x = -T(std::pow(10.0, -9.0 + 10.9 * i / 200000));
        const double value = std::exp(double(x)), one_minus = -std::expm1(double(x));
        worst = std::fmax(worst, std::fabs(double(exp_in_lanes(x, false)) / value - 1));
        worst_one_minus = std::fmax(worst_one_minus, std::fabs(double(exp_in_lanes(x, true)) / one_minus - 1));
    }
    check(worst <= 2 * unit, type + ": exp, worst error in units " + std::to_string(worst / unit));
    check(worst_one_minus <= 2 * unit, type + ": 1 - exp, in units " + std::to_string(worst_one_minus / unit));
    for (T x : {T(-1e3), T(-1e9), T(-1e30)})  // far below where 2^k is a number, and as single numbers, as on a GPU
        check(exp_in_lanes(x, false) == 0 && exponential_of_nonpositive<T>(x).value() == 0, type + ": of far below 0");
    const T infinity = std::numeric_limits<T>::infinity();
    check(exp_in_lanes(T(0), false) == 1 && exp_in_lanes(T(0), true) == 0, type + ": exponentials of 0");
    check(exp_in_lanes(-infinity, false) == 0 && exp_in_lanes(-infinity, true) == 1, type + ": of -infinity");
    check(std::isnan(exp_in_lanes(std::numeric_limits<T>::quiet_NaN(), true)), type + ": of NaN");
}

template <class T>
static void kernels_equal_the_formula(int64_t num_x, int64_t num_y, int64_t num_components, int64_t size, bool weighted,
                                      double tolerance) {
    const int64_t dim = num_components * size, items = weighted ? 1 : num_components;
    const std::string name = "C=" + std::to_string(num_components) + " K=" + std::to_string(size) +
                             (weighted ? " weighted" : " components") + (sizeof(T) == 4 ? " float: " : " double: ");
    std::mt19937 random(17);
    std::normal_distribution<double> normal;
    std::vector<T> x(num_x * dim), y(num_y * dim), weights(num_components), grad(num_x * num_y * items);
    for (auto* values : {&x, &y, &weights, &grad})
        for (auto& value : *values) value = T(normal(random));
    const int64_t same = num_x > 3 ? 3 : 0;
    for (int64_t d = 0; d < dim; d += 2) y[same * dim + d] = x[same * dim + d];

    std::vector<double> out(num_x * num_y * items), grad_x(x.size()), grad_y(y.size()), grad_weights(num_components);
    std::vector<double> row_grad_x(x.size()), row_grad_y(x.size()), row_grad_weights(num_components);
    for (int64_t i = 0; i < num_x; ++i)
        for (int64_t j = 0; j < num_y; ++j)
            for (int64_t c = 0; c < num_components; ++c) {
                const int64_t item = (i * num_y + j) * items + (weighted ? 0 : c);
                double sum = 0;
                for (int64_t k = c * size; k < (c + 1) * size; ++k)
                    sum += std::fmin(double(y[j * dim + k]) - double(x[i * dim + k]), 0);
                const double component = -std::expm1(sum / double(size)), weight = weighted ? weights[c] : 1;
                const double slope = grad[item] * weight * std::exp(sum / double(size)) / double(size);
                out[item] += weight * component;
                grad_weights[c] += grad[item] * component;
                if (i == j) row_grad_weights[c] += grad[item] * component;
                for (int64_t k = c * size; k < (c + 1) * size; ++k) {
                    if (y[j * dim + k] > x[i * dim + k]) continue;
                    grad_x[i * dim + k] += slope;
                    grad_y[j * dim + k] -= slope;
                    if (i == j) row_grad_x[i * dim + k] = slope;
                    if (i == j) row_grad_y[i * dim + k] = -slope;
                }
            }

    const auto near = [&](const std::vector<T>& actual, const std::vector<double>& expected, const std::string& what) {
        double worst = 0, largest = 1e-30;
        for (size_t i = 0; i < expected.size(); ++i) {
            worst = std::fmax(worst, std::fabs(double(actual[i]) - expected[i]));
            largest = std::fmax(largest, std::fabs(expected[i]));
        }
        check(worst <= tolerance * largest, name + what + ", error " + std::to_string(worst / largest));
    };
    const auto summed = [&](const std::vector<T>& partial) {
        std::vector<T> sums(num_components);
        for (size_t i = 0; i < partial.size(); ++i) sums[i % num_components] += partial[i];
        return sums;
    };
    const T* given_weights = weighted ? weights.data() : nullptr;
    const PqePairwiseShape pairs{1, num_x, num_y, 1, num_components, size};
    const PqeShape rows{num_x, 1, num_components, size};
    std::vector<std::vector<T>> results;
    for (int threads : {1, 3}) {
        std::vector<T> all_out(out.size()), of_x(x.size()), of_y(y.size()), partial(num_x * num_components);
        RUN_WITH_SCRATCH(pqe_pairwise_forward, threads,
                         PqePairwiseForward<T>{x.data(), y.data(), given_weights, all_out.data(), nullptr, pairs});
        RUN_WITH_SCRATCH(pqe_pairwise_backward, threads,
                         PqePairwiseBackward<T>{grad.data(), x.data(), y.data(), given_weights, of_x.data(),
                                                of_y.data(), weighted ? partial.data() : nullptr, nullptr, pairs});
        near(all_out, out, "pairwise forward");
        near(of_x, grad_x, "pairwise gradient of x");
        near(of_y, grad_y, "pairwise gradient of y");
        if (weighted) near(summed(partial), grad_weights, "pairwise gradient of the weights");
        results.push_back(all_out);
        for (const auto& part : {of_x, of_y, partial})
            results.back().insert(results.back().end(), part.begin(), part.end());

        std::vector<T> diagonal(num_x * items), row_out(num_x * items);
        const int64_t rows_per_group = 4;
        std::vector<T> of_groups((num_x + rows_per_group - 1) / rows_per_group * num_components);
        std::vector<double> diagonal_out;
        for (int64_t i = 0; i < num_x * items; ++i) {
            const int64_t item = (i / items * (num_y + 1)) * items + i % items;
            diagonal[i] = grad[item];
            diagonal_out.push_back(out[item]);
        }
        pqe_forward<T>(PqeForward<T>{x.data(), y.data(), given_weights, row_out.data(), rows}, threads);
        pqe_backward<T>(PqeBackward<T>{diagonal.data(), x.data(), y.data(), given_weights, of_x.data(), of_y.data(),
                                       weighted ? of_groups.data() : nullptr, rows_per_group, rows},
                        threads);
        near(row_out, diagonal_out, "forward");
        near(of_x, row_grad_x, "gradient of x");
        std::vector<T> of_rows(of_y.begin(), of_y.begin() + num_x * dim);
        near(of_rows, row_grad_y, "gradient of y");
        if (weighted) near(summed(of_groups), row_grad_weights, "gradient of the weights");
        for (const auto& part : {row_out, of_x, of_rows, of_groups})
            results.back().insert(results.back().end(), part.begin(), part.end());
    }
    check(results[0] == results[1], name + "results from one and from three threads");
}

// All rows in one call give the same bits as one call per run with that run's weights.
template <class T>
static void runs_have_their_own_weights(int64_t runs, int64_t rows_per_run, int64_t num_components, int64_t size) {
    const int64_t rows = runs * rows_per_run, dim = num_components * size, rows_per_group = 4;
    const int64_t partials = (rows_per_run + rows_per_group - 1) / rows_per_group * num_components;
    const std::string name = std::to_string(runs) + " runs of " + std::to_string(rows_per_run) +
                             " rows, C=" + std::to_string(num_components) + " K=" + std::to_string(size) +
                             (sizeof(T) == 4 ? " float: " : " double: ");
    std::mt19937 random(19);
    std::normal_distribution<double> normal;
    // Matrices: 2 per run, of num_x by num_y pairs, from the same values.
    constexpr int64_t matrices = 2, num_x = 3, num_y = 5;
    const int64_t pairs = runs * matrices * num_x * num_y;
    const int64_t values = (rows > runs * matrices * num_y ? rows : runs * matrices * num_y) * dim;
    std::vector<T> x(values), y(values), weights(runs * num_components), grad(rows > pairs ? rows : pairs);
    for (auto* all : {&x, &y, &weights, &grad})
        for (auto& value : *all) value = T(normal(random));

    // The results of `count` runs from `first` on: out, grad_x, grad_y and partial weights, of rows and then of pairs.
    const auto results = [&](int64_t first, int64_t count, int threads) {
        const int64_t num_rows = count * rows_per_run, batch = count * matrices;
        const int64_t row = first * rows_per_run, matrix = first * matrices;
        const T* own_weights = weights.data() + first * num_components;
        std::vector<T> out(num_rows), grad_x(num_rows * dim), grad_y(num_rows * dim), partial(count * partials);
        const PqeShape shape{num_rows, count, num_components, size};
        pqe_forward<T>({&x[row * dim], &y[row * dim], own_weights, out.data(), shape}, threads);
        pqe_backward<T>({&grad[row], &x[row * dim], &y[row * dim], own_weights, grad_x.data(), grad_y.data(),
                         partial.data(), rows_per_group, shape},
                        threads);
        std::vector<T> all_out(batch * num_x * num_y), of_x(batch * num_x * dim), of_y(batch * num_y * dim),
            all_partial(batch * num_x * num_components);
        const PqePairwiseShape pair_shape{batch, num_x, num_y, count, num_components, size};
        const T *all_x = &x[matrix * num_x * dim], *all_y = &y[matrix * num_y * dim];
        RUN_WITH_SCRATCH(pqe_pairwise_forward, threads,
                         PqePairwiseForward<T>{all_x, all_y, own_weights, all_out.data(), nullptr, pair_shape});
        RUN_WITH_SCRATCH(pqe_pairwise_backward, threads,
                         PqePairwiseBackward<T>{&grad[matrix * num_x * num_y], all_x, all_y, own_weights, of_x.data(),
                                                of_y.data(), all_partial.data(), nullptr, pair_shape});
        return std::vector<std::vector<T>>{out, grad_x, grad_y, partial, all_out, of_x, of_y, all_partial};
    };
    std::vector<std::vector<T>> expected(8);
    for (int64_t run = 0; run < runs; ++run) {
        const auto own = results(run, 1, 1);
        for (size_t i = 0; i < own.size(); ++i) expected[i].insert(expected[i].end(), own[i].begin(), own[i].end());
    }
    for (int threads : {1, 3}) {
        const auto actual = results(0, runs, threads);
        for (size_t i = 0; i < actual.size(); ++i)
            check(actual[i] == expected[i], name + "result " + std::to_string(i));
    }
}

int main(int, char** arguments) {
    if (!runs_here(arguments[1])) return skipped;
    the_exponential_is_accurate<float>("float");
    the_exponential_is_accurate<double>("double");
    for (bool weighted : {true, false}) {
        const auto both = [=](int64_t num_x, int64_t num_y, int64_t num_components, int64_t size) {
            kernels_equal_the_formula<float>(num_x, num_y, num_components, size, weighted, 2e-6);
            kernels_equal_the_formula<double>(num_x, num_y, num_components, size, weighted, 1e-14);
        };
        for (int64_t size : {1, 2, 3, 4, 8, 16, 33, 150})
            for (int64_t num_components : {1, 5, 32}) both(21, 38, num_components, size);
        for (int64_t size : {3, 5, 7}) {
            both(49, 61, 1, size);
            both(100, 130, 3, size);
        }
        for (int64_t size : {4, 33}) both(1, 530, 6, size);  // a single row, with more of the others than a task
    }
    // A task takes 513 rows of one component at once, 147 of six and 32 of 32.
    for (int64_t size : {1, 3, 4, 8})
        for (int64_t num_components : {1, 6, 32})
            for (int64_t rows_per_run : {1, 3, 50, 300})
                for (int64_t runs : {2, 5}) {
                    runs_have_their_own_weights<float>(runs, rows_per_run, num_components, size);
                    runs_have_their_own_weights<double>(runs, rows_per_run, num_components, size);
                }
    return report();
}
