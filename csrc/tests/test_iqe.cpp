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

// Rows and columns beyond a tile, a strip and a block, against single pairs, from one and from three threads.
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
    const T raw = T(0.3);
    const MaxWeight<T> max{&raw, 1, WeightLink::sigmoid};

    std::vector<T> pairs_x, pairs_y, expected(pairs * items), spread(pairs), grad_x(pairs * dim), grad_y(pairs * dim);
    for (int64_t i = 0; i < num_x; ++i)
        for (int64_t j = 0; j < num_y; ++j) {
            pairs_x.insert(pairs_x.end(), &x[i * dim], &x[i * dim] + dim);
            pairs_y.insert(pairs_y.end(), &y[j * dim], &y[j * dim] + dim);
        }
    std::vector<uint8_t> ends(pairs * num_components * ((2 * size + 7) / 8));
    std::vector<int32_t> largest(pairs);
    const IqeShape shape{pairs, num_components, size};
    iqe_forward<T>(IqeForward<T>{pairs_x.data(), pairs_y.data(), max, expected.data(), ends.data(), largest.data(),
                                 spread.data(), shape, reduction},
                   1);
    T of_weight = T(0);
    T* to_weight = reduction == Reduction::maxmean ? &of_weight : nullptr;
    iqe_backward<T>(IqeBackward<T>{grad.data(), ends.data(), largest.data(), spread.data(), max, grad_x.data(),
                                   grad_y.data(), to_weight, shape, reduction},
                    1);
    std::vector<double> sums((num_x + num_y) * dim);
    double of_weight_expected = 0;
    for (int64_t pair = 0; pair < pairs; ++pair) {
        for (int64_t d = 0; d < dim; ++d) {
            sums[pair / num_y * dim + d] += double(grad_x[pair * dim + d]);
            sums[(num_x + pair % num_y) * dim + d] += double(grad_y[pair * dim + d]);
        }
        if (to_weight) of_weight_expected += double(grad[pair]) * double(spread[pair]);
    }
    const double weight = 1 / (1 + std::exp(-0.3));
    of_weight_expected *= weight * (1 - weight);

    const std::string sizes = std::to_string(num_x) + " x " + std::to_string(num_y) + ", " +
                              std::to_string(num_components) + " components of " + std::to_string(size);
    const double tolerance = sizeof(T) == 4 ? 1e-4 : 1e-12;
    const IqePairwiseShape pairwise{1, num_x, num_y, num_components, size};
    std::vector<std::vector<T>> results;
    for (int threads : {1, 3}) {
        std::vector<T> out(pairs * items), grads((num_x + num_y) * dim);
        T of_pairs_weight = T(0);
        RUN_WITH_SCRATCH(
            iqe_pairwise_forward, threads,
            IqePairwiseForward<T>{x.data(), y.data(), max, out.data(), largest.data(), nullptr, pairwise, reduction});
        RUN_WITH_SCRATCH(iqe_pairwise_backward, threads,
                         IqePairwiseBackward<T>{grad.data(), x.data(), y.data(), largest.data(), max, grads.data(),
                                                grads.data() + num_x * dim, to_weight ? &of_pairs_weight : nullptr,
                                                nullptr, pairwise, reduction});
        double error = 0;
        for (int64_t i = 0; i < pairs * items; ++i)
            error = std::max(error, std::fabs(double(out[i]) - double(expected[i])));
        for (size_t i = 0; i < sums.size(); ++i) error = std::max(error, std::fabs(double(grads[i]) - sums[i]));
        for (const T found : {of_weight, of_pairs_weight})
            error = std::max(error, std::fabs(double(found) - of_weight_expected) / double(pairs));
        check(error <= tolerance, "pairwise equals its pairs, " + sizes);
        out.insert(out.end(), grads.begin(), grads.end());
        out.push_back(of_pairs_weight);
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
        // A single row, with more of the others than a piece and than a task.
        for (const int64_t size : {1, 8, 33}) {
            pairwise_equals_its_pairs<T>(1, 1, 3, size, reduction);
            pairwise_equals_its_pairs<T>(1, 530, 5, size, reduction);
            pairwise_equals_its_pairs<T>(530, 1, 7, size, reduction);
        }
    }
}

// Rows in equal runs with their own weights give the same as each run by itself.
template <class T>
static void runs_of_rows_have_their_own_weights(WeightLink link) {
    const int64_t num_runs = 3, in_run = 700, num_components = 5, size = 8, dim = num_components * size;
    const int64_t rows = num_runs * in_run, bytes = num_components * ((2 * size + 7) / 8);
    std::mt19937 random(3);
    std::normal_distribution<T> normal;
    std::vector<T> x(rows * dim), y(rows * dim), grad(rows), raw(num_runs);
    for (auto* values : {&x, &y, &grad, &raw})
        for (auto& value : *values) value = normal(random);
    struct Result {
        std::vector<T> out, spread, grad_x, grad_y, grad_raw;
        std::vector<uint8_t> ends;
        std::vector<int32_t> largest;
    };
    const auto run = [&](int64_t first, int64_t count, MaxWeight<T> max, int threads) {
        Result result{std::vector<T>(count),       std::vector<T>(count),           std::vector<T>(count * dim),
                      std::vector<T>(count * dim), std::vector<T>(max.num_weights), std::vector<uint8_t>(count * bytes),
                      std::vector<int32_t>(count)};
        const IqeShape shape{count, num_components, size};
        iqe_forward<T>(IqeForward<T>{&x[first * dim], &y[first * dim], max, result.out.data(), result.ends.data(),
                                     result.largest.data(), result.spread.data(), shape, Reduction::maxmean},
                       threads);
        iqe_backward<T>(IqeBackward<T>{&grad[first], result.ends.data(), result.largest.data(), result.spread.data(),
                                       max, result.grad_x.data(), result.grad_y.data(), result.grad_raw.data(), shape,
                                       Reduction::maxmean},
                        threads);
        return result;
    };
    const Result all = run(0, rows, {raw.data(), num_runs, link}, 3);
    bool equal = true;
    for (int64_t place = 0; place < num_runs; ++place) {
        const Result alone = run(place * in_run, in_run, {&raw[place], 1, link}, 1);
        equal = equal && std::equal(alone.out.begin(), alone.out.end(), &all.out[place * in_run]) &&
                std::equal(alone.grad_x.begin(), alone.grad_x.end(), &all.grad_x[place * in_run * dim]) &&
                std::equal(alone.grad_y.begin(), alone.grad_y.end(), &all.grad_y[place * in_run * dim]) &&
                alone.grad_raw[0] == all.grad_raw[place];
    }
    check(equal, "runs of rows with their own weights");
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
    for (const WeightLink link : {WeightLink::identity, WeightLink::sigmoid, WeightLink::one_minus_sigmoid}) {
        runs_of_rows_have_their_own_weights<float>(link);
        runs_of_rows_have_their_own_weights<double>(link);
    }
    return report();
}
