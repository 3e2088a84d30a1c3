// The Poisson comparisons against sums over all counts in extended precision, on both sides of every switch of method,
// and the CPU kernels in lanes against the same function of single numbers.
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "../ops/poisson.h"
#include "testing.h"

using namespace qmk;
using namespace qmk::QMK_TARGET;

struct Truth {
    long double le, gt, equal, one_more;
};

// For rates up to some hundreds: no term that matters underflows.
static Truth summed(long double a, long double b) {
    const int most = int(std::max(a, b) + 15 * std::sqrt(std::max(a, b)) + 60);
    long double x_is_n = std::exp(-a), y_is_n = std::exp(-b), x_at_most_n = x_is_n, y_below_n = 0;
    Truth sums{};
    for (int n = 0; n < most; ++n) {
        sums.le += y_is_n * x_at_most_n;
        sums.gt += x_is_n * y_below_n;
        sums.equal += x_is_n * y_is_n;
        y_below_n += y_is_n;
        x_is_n *= a / (n + 1);
        sums.one_more += x_is_n * y_is_n;
        x_at_most_n += x_is_n;
        y_is_n *= b / (n + 1);
    }
    return sums;
}

static void near(double actual, long double expected, const std::string& what) {
    const long double error = std::fabs(actual - expected);
    check(error <= 1e-12L * std::fabs(expected) || error < 1e-300L, what + ": " + std::to_string(double(error)));
}

static void the_function_equals_the_sums(double a, double b) {
    const std::string rates = " at a=" + std::to_string(a) + " b=" + std::to_string(b);
    const Truth truth = summed(a, b);
    const long double log_le = truth.gt < 0.5L ? std::log1p(-truth.gt) : std::log(truth.le);
    near(poisson_probability(a, b, PoissonComparison::le), truth.le, "le" + rates);
    near(poisson_probability(a, b, PoissonComparison::gt), truth.gt, "gt" + rates);
    near(poisson_probability(a, b, PoissonComparison::log_le), log_le, "log_le" + rates);
    const auto by = poisson_derivatives(a, b, PoissonComparison::le),
               of_log = poisson_derivatives(a, b, PoissonComparison::log_le);
    near(by.by_a, -truth.equal, "le by a" + rates);
    near(by.by_b, truth.one_more, "le by b" + rates);
    near(of_log.by_a, -truth.equal / truth.le, "log_le by a" + rates);
    near(of_log.by_b, truth.one_more / truth.le, "log_le by b" + rates);
}

// Lanes treat numbers below the smallest normal number as 0.
static bool same(double a, double b, double tolerance) {
    return (std::isnan(a) && std::isnan(b)) || a == b || std::fabs(a - b) <= tolerance * std::fabs(b) + 1e-307;
}

// Rates of both methods side by side, some on either side of where lanes switch, some not finite, and in a count that
// leaves the last block partial.
template <class T>
static void kernels_equal_the_function(double tolerance) {
    std::mt19937 random(3);
    std::uniform_real_distribution<double> exponent(-6, 4), unit(-1, 1);
    const double infinity = std::numeric_limits<double>::infinity();
    const double odd[] = {0, -1, infinity, std::numeric_limits<double>::quiet_NaN(), -infinity, -0.0};
    const int64_t count = 2005;
    std::vector<T> a(count), b(count), grad(count);
    for (int64_t i = 0; i < count; ++i) {
        a[i] = T(i % 11 == 0 ? odd[i / 11 % 6] : std::pow(10.0, exponent(random)));
        b[i] = T(i % 13 == 0 ? odd[i / 13 % 6] : std::pow(10.0, exponent(random)));
        grad[i] = T(unit(random));
    }
    for (auto comparison : {PoissonComparison::le, PoissonComparison::gt, PoissonComparison::log_le}) {
        std::vector<T> out[2], by_a[2], by_b[2];
        for (int run = 0; run < 2; ++run) {
            for (auto* results : {&out[run], &by_a[run], &by_b[run]}) results->resize(count);
            poisson_forward<T>(PoissonForward<T>{a.data(), b.data(), out[run].data(), count, comparison}, 1 + 2 * run);
            poisson_backward<T>(PoissonBackward<T>{grad.data(), a.data(), b.data(), by_a[run].data(), by_b[run].data(),
                                                   count, comparison},
                                1 + 2 * run);
        }
        for (int64_t i = 0; i < count; ++i) {
            const std::string where = " of comparison " + std::to_string(int(comparison)) +
                                      " at a=" + std::to_string(a[i]) + " b=" + std::to_string(b[i]);
            const auto by = poisson_derivatives(double(a[i]), double(b[i]), comparison);
            check(same(out[0][i], T(poisson_probability(double(a[i]), double(b[i]), comparison)), tolerance),
                  "value" + where);
            check(same(by_a[0][i], T(double(grad[i]) * by.by_a), tolerance), "derivative by a" + where);
            check(same(by_b[0][i], T(double(grad[i]) * by.by_b), tolerance), "derivative by b" + where);
            check(same(out[0][i], out[1][i], 0) && same(by_a[0][i], by_a[1][i], 0) && same(by_b[0][i], by_b[1][i], 0),
                  "three threads" + where);
        }
    }
}

int main(int, char** arguments) {
    if (!runs_here(arguments[1])) return skipped;
    const double rates[] = {1e-6, 1e-3, 0.1, 1, 1.999, 2.001, 7.5, 14.999, 15.001, 40, 112.4, 300};
    for (double a : rates)
        for (double b : rates) the_function_equals_the_sums(a, b);
    // ab = 225, where the series ends; (sqrt a - sqrt b)^2 = 28, where the recurrence reverses; a = b.
    for (double a : {0.8, 3.0, 15.0, 60.0, 250.0})
        for (double step : {0.999, 1.001}) {
            the_function_equals_the_sums(a, 225 * step / a);
            the_function_equals_the_sums(225 * step / a, a);
            the_function_equals_the_sums(a, std::pow(std::sqrt(a) + std::sqrt(28 * step), 2));
            the_function_equals_the_sums(std::pow(std::sqrt(a) + std::sqrt(28 * step), 2), a);
            the_function_equals_the_sums(a, a * (1 + 1e-9 * (step - 1)));
        }
    kernels_equal_the_function<float>(1e-6);
    kernels_equal_the_function<double>(1e-11);
    return report();
}
