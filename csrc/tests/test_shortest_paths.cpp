// Shortest paths by tiles against the plain closure, on whole numbers, where sums are exact; unreachable nodes, ways of
// length 0, and the ways that `next` leads along.
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "../ops/shortest_paths.h"
#include "testing.h"

using namespace qmk;
using namespace qmk::QMK_TARGET;

template <class T>
static std::vector<T> random_graph(std::mt19937& random, int64_t batch, int64_t size, int ways_per_node) {
    std::vector<T> lengths(batch * size * size, std::numeric_limits<T>::infinity());
    for (int64_t row = 0; row < batch * size; ++row)
        for (int i = 0; i < ways_per_node; ++i) lengths[row * size + int64_t(random() % size)] = T(random() % 9);
    return lengths;
}

template <class T>
static void closed_plainly(T* distances, int64_t size) {
    for (int64_t i = 0; i < size; ++i) distances[i * size + i] = 0;
    for (int64_t k = 0; k < size; ++k)
        for (int64_t i = 0; i < size; ++i)
            for (int64_t j = 0; j < size; ++j) {
                const T via = distances[i * size + k] + distances[k * size + j];
                if (via < distances[i * size + j]) distances[i * size + j] = via;
            }
}

// Whether following `next` from i arrives at j after the distance.
template <class T>
static bool arrives(const T* lengths, const T* next, T distance, int64_t size, int64_t i, int64_t j) {
    T travelled = 0;
    for (int64_t steps = 0; i != j; ++steps) {
        const int64_t then = int64_t(next[i * size + j]);
        if (then < 0 || steps > size) return std::isinf(distance) && then == -1;
        travelled += lengths[i * size + then];
        i = then;
    }
    return travelled == distance;
}

template <class T>
static void closure_by_tiles_is_the_plain_one(int64_t batch, int64_t size, int ways_per_node) {
    std::mt19937 random(int(size + ways_per_node));
    const std::string name = std::to_string(batch) + " graphs of " + std::to_string(size) + " nodes";
    const auto lengths = random_graph<T>(random, batch, size, ways_per_node);
    auto expected = lengths;
    for (int64_t graph = 0; graph < batch; ++graph) closed_plainly(&expected[graph * size * size], size);
    for (int threads : {1, 3}) {
        std::vector<T> alone(lengths.size()), distances(lengths.size()), next(lengths.size());
        shortest_paths_forward<T>({lengths.data(), alone.data(), nullptr, batch, size}, threads);
        shortest_paths_forward<T>({lengths.data(), distances.data(), next.data(), batch, size}, threads);
        check(alone == expected && distances == expected, "distances of " + name);
        bool all = true;
        for (int64_t graph = 0; graph < batch; ++graph) {
            const int64_t first = graph * size * size;
            for (int64_t i = 0; i < size; ++i)
                for (int64_t j = 0; j < size; ++j)
                    all &= arrives(&lengths[first], &next[first], expected[first + i * size + j], size, i, j);
        }
        check(all, "the next nodes of " + name);
    }
}

template <class T>
static void a_graph_with_a_length_below_zero_or_nan_is_nan_alone() {
    const int64_t size = 70, items = size * size;
    std::mt19937 random(1);
    auto lengths = random_graph<T>(random, 3, size, 9);
    lengths[5] = T(-1);
    lengths[2 * items + 7] = std::numeric_limits<T>::quiet_NaN();
    std::vector<T> distances(lengths.size()), next(lengths.size());
    shortest_paths_forward<T>({lengths.data(), distances.data(), next.data(), 3, size}, 1);
    bool right = true;
    for (int64_t i = 0; i < 3 * items; ++i) right &= std::isnan(distances[i]) == (i / items != 1);
    for (int64_t i = 0; i < items; ++i) right &= next[i] == T(-1) && next[2 * items + i] == T(-1);
    check(right, "lengths below zero and NaN");
}

template <class T>
static void all_claims() {
    for (int64_t size : {1, 2, 7, 33, 63, 64, 65, 131})
        for (int ways : {1, 3, 40}) closure_by_tiles_is_the_plain_one<T>(1, size, ways);
    closure_by_tiles_is_the_plain_one<T>(5, 67, 3);
    a_graph_with_a_length_below_zero_or_nan_is_nan_alone<T>();
}

int main(int, char** arguments) {
    if (!runs_here(arguments[1])) return skipped;
    all_claims<float>();
    all_claims<double>();
    return report();
}
