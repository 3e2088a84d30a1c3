// The weights of the maximum in maxmean: which rows use which, and their gradients.
#pragma once

#include <cstdint>

#include "../math/reduction.h"

namespace qmk::QMK_TARGET {

namespace {

// Calls run(first, end, weight) for every run of rows in [first, end) that share a weight; there are `rows` in all.
template <class T, class Run>
QMK_INLINE void for_each_weight(const MaxWeight<T>& max, int64_t rows, int64_t first, int64_t end, Run&& run) {
    if (max.num_weights == 1) return run(first, end, WeightAt<T>(max, 0).value);
    const int64_t rows_per_weight = rows / max.num_weights;
    while (first < end) {
        const int64_t place = first / rows_per_weight, next = (place + 1) * rows_per_weight;
        const int64_t stop = next < end ? next : end;
        run(first, stop, WeightAt<T>(max, place).value);
        first = stop;
    }
}

// The sum of a[i] * b[i], or of a[i] if b is null, in double and eight parts.
template <class T>
double sum_of_products(const T* a, const T* b, int64_t count) {
    constexpr int64_t n = 8;
    double parts[n] = {}, sum = 0;
    int64_t i = 0;
    for (; i + n <= count; i += n)
        for (int64_t j = 0; j < n; ++j) parts[j] += double(a[i + j]) * (b ? double(b[i + j]) : 1.0);
    for (; i < count; ++i) sum += double(a[i]) * (b ? double(b[i]) : 1.0);
    for (const double part : parts) sum += part;
    return sum;
}

// The gradient by each number, from `parts` of the gradients by the weights, `count` in all, in the order of the rows.
// Null if not needed.
template <class T>
void max_weight_gradient(const MaxWeight<T>& max, double scale, const T* parts, const T* factors, int64_t count,
                         T* grad) {
    if (grad == nullptr) return;
    const int64_t in_group = count / max.num_weights;
    for (int64_t place = 0; place < max.num_weights; ++place) {
        const double sum =
            sum_of_products(parts + place * in_group, factors ? factors + place * in_group : nullptr, in_group);
        grad[place] = T(scale * sum * double(WeightAt<T>(max, place).slope));
    }
}

}  // namespace

}  // namespace qmk::QMK_TARGET
