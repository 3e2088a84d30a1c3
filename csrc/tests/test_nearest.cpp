// The selection of nearest neighbours, tile by tile, against a stable sort of the whole row; with ties and NaN.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "../math/nearest.h"
#include "../ops/nearest.h"
#include "testing.h"

using namespace qmk;
using namespace qmk::QMK_TARGET;

template <class T>
static void merging_equals_sorting(int64_t columns, int64_t k, int64_t tile) {
    const int64_t rows = 19;
    std::mt19937 random(int(columns + k));
    std::vector<T> distances(rows * columns), values(rows * k);
    for (auto& distance : distances) {
        const auto draw = random() % 40;
        distance = draw == 0 ? std::numeric_limits<T>::quiet_NaN() : T(draw % 15);
    }
    for (int threads : {1, 3}) {
        std::vector<int64_t> indices(rows * k, -1);
        for (int64_t first = 0; first < columns; first += tile) {
            const int64_t here = std::min(tile, columns - first);
            std::vector<T> part;
            for (int64_t row = 0; row < rows; ++row)
                part.insert(part.end(), &distances[row * columns + first], &distances[row * columns + first] + here);
            nearest_merge<T>(NearestMerge<T>{part.data(), values.data(), indices.data(), rows, here, k, first},
                             threads);
        }
        for (int64_t row = 0; row < rows; ++row) {
            std::vector<int64_t> order(columns);
            for (int64_t j = 0; j < columns; ++j) order[j] = j;
            const T* from = &distances[row * columns];
            std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
                return from[a] < from[b] || (from[a] == from[a] && from[b] != from[b]);
            });
            if (!std::equal(indices.begin() + row * k, indices.begin() + (row + 1) * k, order.begin())) {
                check(false, std::to_string(k) + " nearest of " + std::to_string(columns));
            }
        }
    }
}

int main(int, char** arguments) {
    if (!runs_here(arguments[1])) return skipped;
    for (int64_t columns : {1, 7, 64, 300})
        for (int64_t k : {1, 2, 10, 65, 300})
            for (int64_t tile : {5, 64, 300})
                if (k <= columns) {
                    merging_equals_sorting<float>(columns, k, tile);
                    merging_equals_sorting<double>(columns, k, tile);
                }
    return report();
}
