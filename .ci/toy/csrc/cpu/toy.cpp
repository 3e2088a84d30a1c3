// The toy op on CPUs, for one instruction set: lanes run along a row.
#include "../ops/toy.h"

#include "lanes.h"
#include "parallel.h"

namespace qmk::QMK_TARGET {

namespace {

constexpr int64_t values_per_task = 1 << 14;

// Calls run(row).
template <class Run>
QMK_INLINE void for_each_row(int64_t rows, int64_t dim, int threads, Run&& run) {
    const int64_t step = values_per_task / dim + 1;
    parallel_for((rows + step - 1) / step, threads_for(rows * dim, values_per_task, threads), [&](int64_t task) {
        for (int64_t row = task * step; row < (task + 1) * step && row < rows; ++row) run(row);
    });
}

}  // namespace

template <class T>
void toy_forward(const ToyForward<T>& call, int threads) {
    const int64_t dim = call.dim;
    for_each_row(call.rows, dim, threads, [&](int64_t row) {
        const T *x = call.x + row * dim, *y = call.y + row * dim;
        Lanes<T> sums{};
        int64_t d = 0;
        for (; d + num_lanes<T> <= dim; d += num_lanes<T>)
            sums += toy_distance(load<Lanes<T>>(x + d), load<Lanes<T>>(y + d));
        T sum = sum_of_lanes<T>(sums);
        for (; d < dim; ++d) sum += toy_distance(x[d], y[d]);
        call.out[row] = T(call.settings.factor) * sum;
    });
}

template <class T>
void toy_backward(const ToyBackward<T>& call, int threads) {
    const int64_t dim = call.dim;
    for_each_row(call.rows, dim, threads, [&](int64_t row) {
        const T grad = T(call.settings.factor) * call.grad_out[row];
        const auto put = [&](auto vector, int64_t at) {
            using V = decltype(vector);
            const V slope = toy_slope(load<V>(call.x + at), load<V>(call.y + at), grad - V{});
            store(call.grad_x + at, slope);
            store(call.grad_y + at, -slope);
        };
        int64_t at = row * dim;
        const int64_t end = at + dim;
        for (; at + num_lanes<T> <= end; at += num_lanes<T>) put(Lanes<T>{}, at);
        for (; at < end; ++at) put(T(0), at);
    });
}

QMK_INSTANTIATE(toy_forward, ToyForward, int)
QMK_INSTANTIATE(toy_backward, ToyBackward, int)

}  // namespace qmk::QMK_TARGET
