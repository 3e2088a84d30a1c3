// Finite scalar quantisation against the formula in long double, for every length of the last vector and any number of
// levels.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "../math/fsq.h"
#include "../ops/fsq.h"
#include "testing.h"

using namespace qmk;
using namespace qmk::QMK_TARGET;

static Integers<most_fsq_levels> as_argument(const std::vector<int64_t>& levels) {
    Integers<most_fsq_levels> result{int64_t(levels.size()), {}};
    std::copy(levels.begin(), levels.end(), result.values);
    return result;
}

// tanh(z + shift) * half - offset, with the constants rounded to T.
template <class T>
static long double bounded(T z, const FsqConstants<T>& constants) {
    return std::tanh((long double)z + constants.shift) * constants.half - constants.offset;
}

template <class T>
static void kernels_follow_the_formula(const std::vector<int64_t>& levels, int64_t groups) {
    const int n = int(levels.size());
    const int64_t count = groups * n;
    const std::string name = std::to_string(groups) + " groups of " + std::to_string(n);
    const T epsilon = std::numeric_limits<T>::epsilon(), nan = std::numeric_limits<T>::quiet_NaN();
    std::mt19937 random{unsigned(count)};
    std::normal_distribution<double> normal(0.0, 2.0);
    std::vector<T> z(count), grad(count), codes(count + 1, T(-7)), grad_z(count + 1, T(-7));
    std::vector<int64_t> indices(groups + 1, -7);
    for (int64_t i = 0; i < count; ++i) {
        z[i] = random() % 97 == 0 ? nan : T(normal(random) * (random() % 9 == 0 ? 20.0 : 1.0));
        grad[i] = T(normal(random));
    }

    for (int threads : {1, 3}) {
        fsq_forward<T>(FsqForward<T>{z.data(), codes.data(), indices.data(), groups, as_argument(levels)}, threads);
        fsq_backward<T>(FsqBackward<T>{grad.data(), z.data(), grad_z.data(), groups, as_argument(levels)}, threads);
        bool codes_hold = true, indices_hold = true, gradients_hold = true;
        for (int64_t group = 0; group < groups; ++group) {
            int64_t index = 0, place = 1;
            bool has_nan = false;
            for (int j = 0; j < n; ++j) {
                const int64_t i = group * n + j;
                const auto constants = fsq_constants<T>(levels[j]);
                if (z[i] != z[i]) {
                    has_nan = true;
                    codes_hold &= codes[i] != codes[i];
                    gradients_hold &= grad_z[i] != grad_z[i];
                    continue;
                }
                // At the middle between two levels, rounding allows a few units in the last place of the bound.
                const long double exact = bounded(z[i], constants), digit = std::round(codes[i] * constants.width);
                codes_hold &= codes[i] == T(digit) / constants.width &&
                              std::abs(exact - digit) <= 0.5L + 8 * epsilon * constants.half;
                index += (int64_t(digit) + levels[j] / 2) * place;
                place *= levels[j];
                const long double u = (long double)(T)(z[i] + constants.shift), cosh = std::cosh(u);
                const long double slope = constants.half / (constants.width * cosh * cosh);
                // exp counts as 0 where it is not a normal number.
                const long double allowed = 12 * epsilon * std::abs(grad[i] * slope) +
                                            10 * (1 + std::abs(grad[i])) * std::numeric_limits<T>::min();
                gradients_hold &= std::abs(grad_z[i] - grad[i] * slope) <= allowed;
            }
            indices_hold &= indices[group] == (has_nan ? -1 : index);
        }
        check(codes_hold, "codes of " + name);
        check(indices_hold, "indices of " + name);
        check(gradients_hold, "gradients of " + name);
        check(codes[count] == T(-7) && grad_z[count] == T(-7) && indices[groups] == -7,
              "nothing is written past " + name);
    }
}

// Every digit of every width: the quotient is rounded once, so that the outermost code is exactly -1 or 1.
template <class T>
static void every_level_is_reached() {
    for (int64_t count = 2; count <= 1000; ++count) {
        const auto constants = fsq_constants<T>(count);
        std::vector<T> z(count), codes(count);
        std::vector<int64_t> indices(count);
        for (int64_t level = 0; level < count; ++level)
            z[level] = T(std::atanh((double(level - count / 2) + constants.offset) / constants.half)) - constants.shift;
        fsq_forward<T>(FsqForward<T>{z.data(), codes.data(), indices.data(), count, {1, {count}}}, 1);
        bool holds = true;
        for (int64_t level = 0; level < count; ++level)
            holds &= indices[level] == level && codes[level] == T(level - count / 2) / T(count / 2);
        check(holds, "every one of " + std::to_string(count) + " levels");
    }
}

template <class T>
static void all() {
    for (int64_t groups : {1, 2, 7, 31, 33, 123, 507, 9001}) {
        kernels_follow_the_formula<T>({8}, groups);
        kernels_follow_the_formula<T>({8, 5}, groups);
        kernels_follow_the_formula<T>({8, 5, 3}, groups);
        kernels_follow_the_formula<T>({1000, 1000, 1000, 2}, groups);
        kernels_follow_the_formula<T>({3, 4, 5, 6, 7}, groups);
        kernels_follow_the_formula<T>(std::vector<int64_t>(62, 2), groups);
    }
    every_level_is_reached<T>();
}

int main(int, char** arguments) {
    if (!runs_here(arguments[1])) return skipped;
    all<float>();
    all<double>();
    return report();
}
