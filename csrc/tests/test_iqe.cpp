// IQE's arithmetic against brute force: the sorting network by the 0-1 principle, the scans by sweeping over all ends,
// and the CPU kernels' results from one and from three threads.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "../math/iqe.h"
#include "../ops/iqe.h"
#include "testing.h"

using namespace qmk;
using namespace qmk::QMK_TARGET;

// A network sorts everything if it sorts all sequences of zeros and ones.
static void the_network_sorts(int size) {
    const int cases = size <= 12 ? 1 << size : 4000;
    std::mt19937_64 random(size);
    for (int i = 0; i < cases; ++i) {
        const uint64_t bits = size <= 12 ? uint64_t(i) : random();
        std::vector<float> keys(size), payload(size);
        for (int k = 0; k < size; ++k) payload[k] = keys[k] = float(bits >> (k % 64) & 1) + (k >= 64 ? 0.5f : 0.0f);
        sort_any(size, keys.data(), payload.data());
        check(std::is_sorted(keys.begin(), keys.end()) && keys == payload, "network of size " + std::to_string(size));
    }
}

template <int size>
static void the_unrolled_network_equals_the_loop() {
    std::mt19937 random(size);
    std::vector<float> keys(size);
    for (auto& key : keys) key = float(random() % 100);
    auto expected = keys;
    std::sort(expected.begin(), expected.end());
    sort_fixed<size>(keys.data());
    check(keys == expected, "unrolled network of size " + std::to_string(size));
}

static double swept_length(const std::vector<double>& x, const std::vector<double>& y) {
    std::vector<std::pair<double, int>> ends;
    for (size_t k = 0; k < x.size(); ++k)
        if (x[k] < y[k]) {
            ends.push_back({x[k], 1});
            ends.push_back({y[k], -1});
        }
    std::sort(ends.begin(), ends.end());
    double length = 0, begin = 0;
    int depth = 0;
    for (const auto& [place, step] : ends) {
        if (depth == 0) begin = place;
        depth += step;
        if (depth == 0) length += place - begin;
    }
    return length;
}

// Coordinates are small integers, so there are many ties; the marked ends must still add up to the length.
static void the_scans_find_length_and_ends(int size) {
    std::mt19937 random(size + 100);
    for (int i = 0; i < 500; ++i) {
        std::vector<double> x(size), y(size), sorted_x, sorted_y;
        std::vector<int64_t> marks(size);
        for (int k = 0; k < size; ++k) {
            x[k] = double(random() % 12);
            y[k] = double(random() % 12);
            marks[k] = int64_t(1) << k;
        }
        sorted_x = x;
        sorted_y = y;
        sort_any(size, sorted_x.data(), sorted_y.data(), marks.data());
        const double lowest = -Limits<double>::highest;
        IqeLength<double> length{lowest, 0};
        IqeEnds<double, int64_t> ends{lowest, 0, 0, 0, 0};
        IqeLeftEnds<double> lefts{lowest};
        IqeLeftEndsAndLength<double> both{lowest, 0};
        int64_t left = 0, left_too = 0;
        for (int k = 0; k < size; ++k) {
            length.add(sorted_x[k], sorted_y[k]);
            ends.add(sorted_x[k], sorted_y[k], marks[k]);
            if (lefts.add(sorted_x[k], sorted_y[k])) left |= marks[k];
            if (both.add(sorted_x[k], sorted_y[k])) left_too |= marks[k];
        }
        ends.right |= ends.last;
        double by_ends = 0;
        for (int k = 0; k < size; ++k)
            by_ends += double(ends.right >> k & 1) * y[k] - double(ends.left >> k & 1) * x[k];
        const double expected = swept_length(x, y);
        check(length.length == expected && ends.length == expected && both.length == expected, "length of a union");
        check(by_ends == expected, "marked ends add up to the length");
        check(left == ends.left && left_too == ends.left, "all scans find the same left ends");
    }
}

template <class T>
static void threads_do_not_change_results() {
    const int64_t num_x = 37, num_y = 150, num_components = 5, size = 9, dim = num_components * size;
    std::mt19937 random(7);
    std::normal_distribution<T> normal;
    std::vector<T> x(num_x * dim), y(num_y * dim), grad(num_x * num_y);
    for (auto* values : {&x, &y, &grad})
        for (auto& value : *values) value = normal(random);
    const IqePairwiseShape shape{1, num_x, num_y, num_components, size};
    const T weight = T(0.3);
    std::vector<std::vector<T>> results;
    for (int threads : {1, 3}) {
        std::vector<T> out(num_x * num_y), grad_x(num_x * dim), grad_y(num_y * dim), partial(num_components * num_x);
        std::vector<int32_t> largest(num_x * num_y);
        RUN_WITH_SCRATCH(iqe_pairwise_forward, threads,
                         IqePairwiseForward<T>{x.data(), y.data(), &weight, out.data(), largest.data(), nullptr, shape,
                                               Reduction::maxmean});
        RUN_WITH_SCRATCH(iqe_pairwise_backward, threads,
                         IqePairwiseBackward<T>{grad.data(), x.data(), y.data(), largest.data(), &weight, grad_x.data(),
                                                grad_y.data(), partial.data(), nullptr, shape, Reduction::maxmean});
        for (auto* part : {&grad_x, &grad_y, &partial}) out.insert(out.end(), part->begin(), part->end());
        results.push_back(out);
    }
    check(results[0] == results[1], "results from one and from three threads");
}

// All pairs, by the pairwise kernels and as matching rows that repeat each x and y.
template <class T>
static void pairs_are_rows_that_match(int64_t num_x, int64_t num_y, int64_t num_components, int64_t size,
                                      double tolerance) {
    const int64_t dim = num_components * size, pairs = num_x * num_y, bytes = (2 * size + 7) / 8;
    std::mt19937 random{unsigned(size)};
    std::normal_distribution<T> normal;
    std::vector<T> x(num_x * dim), y(num_y * dim), grad(pairs), all_x, all_y;
    for (auto* values : {&x, &y, &grad})
        for (auto& value : *values) value = normal(random);
    for (int64_t i = 0; i < num_x; ++i) {
        for (int64_t j = 0; j < num_y; ++j) all_x.insert(all_x.end(), x.begin() + i * dim, x.begin() + (i + 1) * dim);
        all_y.insert(all_y.end(), y.begin(), y.end());
    }
    std::vector<T> out(pairs), of_x(x.size()), of_y(y.size()), row_out(pairs), row_x(pairs * dim), row_y(pairs * dim);
    std::vector<uint8_t> ends(pairs * num_components * bytes);
    const IqePairwiseShape shape{1, num_x, num_y, num_components, size};
    RUN_WITH_SCRATCH(
        iqe_pairwise_forward, 3,
        IqePairwiseForward<T>{x.data(), y.data(), nullptr, out.data(), nullptr, nullptr, shape, Reduction::sum});
    RUN_WITH_SCRATCH(iqe_pairwise_backward, 3,
                     IqePairwiseBackward<T>{grad.data(), x.data(), y.data(), nullptr, nullptr, of_x.data(), of_y.data(),
                                            nullptr, nullptr, shape, Reduction::sum});
    const IqeShape rows{pairs, num_components, size};
    iqe_forward<T>(IqeForward<T>{all_x.data(), all_y.data(), nullptr, row_out.data(), ends.data(), nullptr, nullptr,
                                 rows, Reduction::sum},
                   3);
    iqe_backward<T>(
        IqeBackward<T>{grad.data(), ends.data(), nullptr, nullptr, row_x.data(), row_y.data(), rows, Reduction::sum},
        3);

    const auto near = [&](const std::vector<T>& actual, const std::vector<double>& expected, const char* what) {
        for (size_t i = 0; i < actual.size(); ++i)
            if (std::fabs(double(actual[i]) - expected[i]) > tolerance * (1 + std::fabs(expected[i])))
                return check(false, std::string(what) + " of components of " + std::to_string(size));
    };
    std::vector<double> sums_x(x.size()), sums_y(y.size());
    for (int64_t i = 0; i < num_x; ++i)
        for (int64_t j = 0; j < num_y; ++j)
            for (int64_t d = 0; d < dim; ++d) {
                sums_x[i * dim + d] += double(row_x[(i * num_y + j) * dim + d]);
                sums_y[j * dim + d] += double(row_y[(i * num_y + j) * dim + d]);
            }
    near(out, std::vector<double>(row_out.begin(), row_out.end()), "distances");
    near(of_x, sums_x, "gradient of x");
    near(of_y, sums_y, "gradient of y");
}

int main(int, char** arguments) {
    if (!runs_here(arguments[1])) return skipped;
    for (int size = 1; size <= 70; ++size) the_network_sorts(size);
    the_unrolled_network_equals_the_loop<4>();
    the_unrolled_network_equals_the_loop<8>();
    the_unrolled_network_equals_the_loop<16>();
    the_unrolled_network_equals_the_loop<32>();
    for (int size : {1, 2, 3, 4, 7, 8, 16, 31, 60}) the_scans_find_length_and_ends(size);
    threads_do_not_change_results<float>();
    threads_do_not_change_results<double>();
    // More rows than a tile, and sizes that end between the boundaries of vectors.
    for (int64_t size : {1, 3, 5, 7, 8, 33, 129})
        for (int64_t num_components : {1, 3}) {
            pairs_are_rows_that_match<float>(49, 61, num_components, size, 5e-5);
            pairs_are_rows_that_match<float>(130, 100, num_components, size, 5e-5);
            pairs_are_rows_that_match<double>(100, 9, num_components, size, 1e-12);
        }
    return report();
}
