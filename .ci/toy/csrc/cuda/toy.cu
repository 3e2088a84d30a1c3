// The toy op: a row a thread.
#include "../ops/toy.h"
#include "launch.cuh"

namespace qmk::cuda {

namespace {

constexpr int block_threads = 128;

template <class T>
__global__ void __launch_bounds__(block_threads) toy_forward_kernel(ToyForward<T> call) {
    for (int64_t row = int64_t(blockIdx.x) * block_threads + threadIdx.x; row < call.rows;
         row += int64_t(gridDim.x) * block_threads) {
        T sum = T(0);
        for (int64_t at = row * call.dim; at < (row + 1) * call.dim; ++at)
            sum += QMK_TARGET::toy_distance(call.x[at], call.y[at]);
        call.out[row] = T(call.settings.factor) * sum;
    }
}

template <class T>
__global__ void __launch_bounds__(block_threads) toy_backward_kernel(ToyBackward<T> call) {
    for (int64_t row = int64_t(blockIdx.x) * block_threads + threadIdx.x; row < call.rows;
         row += int64_t(gridDim.x) * block_threads) {
        const T grad = T(call.settings.factor) * call.grad_out[row];
        for (int64_t at = row * call.dim; at < (row + 1) * call.dim; ++at) {
            const T slope = QMK_TARGET::toy_slope(call.x[at], call.y[at], grad);
            call.grad_x[at] = slope;
            call.grad_y[at] = -slope;
        }
    }
}

}  // namespace

template <class T>
void toy_forward(const ToyForward<T>& call, Context context) {
    const DeviceGuard guard(context.device, "toy_forward");
    launch("toy_forward", toy_forward_kernel<T>, divide_up(call.rows, block_threads), block_threads, 0, context, call);
}

template <class T>
void toy_backward(const ToyBackward<T>& call, Context context) {
    const DeviceGuard guard(context.device, "toy_backward");
    launch("toy_backward", toy_backward_kernel<T>, divide_up(call.rows, block_threads), block_threads, 0, context,
           call);
}

QMK_INSTANTIATE(toy_forward, ToyForward, Context)
QMK_INSTANTIATE(toy_backward, ToyBackward, Context)

}  // namespace qmk::cuda
