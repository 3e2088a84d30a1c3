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

// Rows and columns beyond a tile, a strip and a block, against each pair on its own, from one and from three threads.
template <class T>
static void pairwise_equals_its_pairs(int64_t num_x, int64_t num_y, int64_t num_components, int64_t size,
                                      Reduction reduction) {
    const int64_t dim = num_components * size, pairs = num_x * num_y;
    const int64_t items = reduction == Reduction::none ? num_components : 1;
    std::mt19937 random(7);
    std::normal_distribution<T> normal;
    std::vector<T> x(num_x * dim), y(num_y * dim), grad(pairs * items);
    for (auto* values : {&x, &y, &grad})
        for (auto& value : *values) value = normal(random);
    const T weight = T(0.3);

    std::vector<T> pairs_x, pairs_y, expected(pairs * items), spread(pairs), grad_x(pairs * dim), grad_y(pairs * dim);
    for (int64_t i = 0; i < num_x; ++i)
        for (int64_t j = 0; j < num_y; ++j) {
            pairs_x.insert(pairs_x.end(), &x[i * dim], &x[i * dim] + dim);
            pairs_y.insert(pairs_y.end(), &y[j * dim], &y[j * dim] + dim);
        }
    std::vector<uint8_t> ends(pairs * num_components * ((2 * size + 7) / 8));
    std::vector<int32_t> largest(pairs);
    const IqeShape shape{pairs, num_components, size};
    iqe_forward<T>(IqeForward<T>{pairs_x.data(), pairs_y.data(), &weight, expected.data(), ends.data(), largest.data(),
                                 spread.data(), shape, reduction},
                   1);
    iqe_backward<T>(IqeBackward<T>{grad.data(), ends.data(), largest.data(), &weight, grad_x.data(), grad_y.data(),
                                   shape, reduction},
                    1);
    std::vector<double> sums((num_x + num_y) * dim);
    double of_weight = 0;
    for (int64_t pair = 0; pair < pairs; ++pair) {
        for (int64_t d = 0; d < dim; ++d) {
            sums[pair / num_y * dim + d] += double(grad_x[pair * dim + d]);
            sums[(num_x + pair % num_y) * dim + d] += double(grad_y[pair * dim + d]);
        }
        if (reduction == Reduction::maxmean) of_weight += double(grad[pair]) * double(spread[pair]);
    }

    const std::string sizes = std::to_string(num_x) + " x " + std::to_string(num_y) + ", " +
                              std::to_string(num_components) + " components of " + std::to_string(size);
    const double tolerance = sizeof(T) == 4 ? 1e-4 : 1e-12;
    const IqePairwiseShape pairwise{1, num_x, num_y, num_components, size};
    std::vector<std::vector<T>> results;
    for (int threads : {1, 3}) {
        std::vector<T> out(pairs * items), grads((num_x + num_y) * dim), partial(num_components * num_x);
        const bool weighted = reduction == Reduction::maxmean;
        RUN_WITH_SCRATCH(iqe_pairwise_forward, threads,
                         IqePairwiseForward<T>{x.data(), y.data(), &weight, out.data(), largest.data(), nullptr,
                                               pairwise, reduction});
        RUN_WITH_SCRATCH(iqe_pairwise_backward, threads,
                         IqePairwiseBackward<T>{grad.data(), x.data(), y.data(), largest.data(), &weight, grads.data(),
                                                grads.data() + num_x * dim, weighted ? partial.data() : nullptr,
                                                nullptr, pairwise, reduction});
        double error = 0, partial_sum = 0;
        for (int64_t i = 0; i < pairs * items; ++i)
            error = std::max(error, std::fabs(double(out[i]) - double(expected[i])));
        for (size_t i = 0; i < sums.size(); ++i) error = std::max(error, std::fabs(double(grads[i]) - sums[i]));
        for (const T part : partial) partial_sum += double(part);
        error = std::max(error, std::fabs(partial_sum - of_weight) / double(pairs));
        check(error <= tolerance, "pairwise equals its pairs, " + sizes);
        out.insert(out.end(), grads.begin(), grads.end());
        out.insert(out.end(), partial.begin(), partial.end());
        results.push_back(out);
    }
    check(results[0] == results[1], "results from one and from three threads, " + sizes);
}

template <class T>
static void all_pairwise() {
    for (const Reduction reduction : {Reduction::none, Reduction::sum, Reduction::maxmean}) {
        for (const int64_t size : {1, 3, 8, 9, 130}) {
            pairwise_equals_its_pairs<T>(19, 43, 3, size, reduction);
            pairwise_equals_its_pairs<T>(2, 5, 2, size, reduction);
        }
        // More rows than a tile, and sizes that end between the boundaries of vectors.
        for (const int64_t size : {3, 5, 7}) pairwise_equals_its_pairs<T>(49, 61, 1, size, reduction);
        pairwise_equals_its_pairs<T>(130, 100, 3, 7, reduction);
        pairwise_equals_its_pairs<T>(37, 333, 2, 8, reduction);
        pairwise_equals_its_pairs<T>(150, 37, 5, 9, reduction);
    }
}

int main(int, char** arguments) {
    if (!runs_here(arguments[1])) return skipped;
    for (int size = 1; size <= 70; ++size) the_network_sorts(size);
    the_unrolled_network_equals_the_loop<4>();
    the_unrolled_network_equals_the_loop<8>();
    the_unrolled_network_equals_the_loop<16>();
    the_unrolled_network_equals_the_loop<32>();
    for (int size : {1, 2, 3, 4, 7, 8, 16, 31, 60}) the_scans_find_length_and_ends(size);
    all_pairwise<float>();
    all_pairwise<double>();
    return report();
}
