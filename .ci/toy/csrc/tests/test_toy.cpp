// The toy op against its formula, for rows shorter and longer than a vector of lanes.
#include <cmath>
#include <vector>

#include "../ops/toy.h"
#include "testing.h"

using namespace qmk;
using namespace qmk::QMK_TARGET;

template <class T>
static void the_kernels_equal_the_formula(int64_t rows, int64_t dim, int threads) {
    std::vector<T> x(rows * dim), y(rows * dim), out(rows), grad_x(rows * dim), grad_y(rows * dim), ones(rows, T(1));
    for (int64_t i = 0; i < rows * dim; ++i) {
        x[i] = T(i * 7 % 11);
        y[i] = T(i * 5 % 13);
    }
    toy_forward<T>({x.data(), y.data(), out.data(), rows, dim, {0.5}}, threads);
    toy_backward<T>({ones.data(), x.data(), y.data(), grad_x.data(), grad_y.data(), rows, dim, {0.5}}, threads);
    for (int64_t row = 0; row < rows; ++row) {
        double sum = 0;
        for (int64_t i = row * dim; i < (row + 1) * dim; ++i) {
            sum += 0.5 * std::fabs(double(x[i] - y[i]));
            const T slope = x[i] > y[i] ? T(0.5) : x[i] < y[i] ? T(-0.5) : T(0);
            check(grad_x[i] == slope && grad_y[i] == -slope, "gradients of rows of " + std::to_string(dim));
        }
        check(double(out[row]) == sum, "distance of rows of " + std::to_string(dim));
    }
}

int main(int, char** arguments) {
    if (!runs_here(arguments[1])) return skipped;
    for (int64_t dim : {1, 7, 16, 33})
        for (int threads : {1, 3}) {
            the_kernels_equal_the_formula<float>(2000, dim, threads);
            the_kernels_equal_the_formula<double>(2000, dim, threads);
        }
    return report();
}
