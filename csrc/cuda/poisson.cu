// Poisson comparisons: one element per thread; the arithmetic is that of math/poisson.h, in double. Some 20 to 80 terms
// per element, of 6 operations each: bound by the device's double precision, not by memory.
#include "../math/poisson.h"
#include "../ops/poisson.h"
#include "launch.cuh"

namespace qmk::cuda {

namespace {

constexpr int block_threads = 128;

template <class T>
__global__ void __launch_bounds__(block_threads, 4)
    poisson_forward_kernel(const T* a, const T* b, T* out, int64_t count, PoissonComparison comparison) {
    for (int64_t n = int64_t(blockIdx.x) * block_threads + threadIdx.x; n < count;
         n += int64_t(gridDim.x) * block_threads)
        out[n] = T(QMK_TARGET::poisson_probability(double(a[n]), double(b[n]), comparison));
}

template <class T>
__global__ void __launch_bounds__(block_threads, 4)
    poisson_backward_kernel(const T* grad_out, const T* a, const T* b, T* grad_a, T* grad_b, int64_t count,
                            PoissonComparison comparison) {
    for (int64_t n = int64_t(blockIdx.x) * block_threads + threadIdx.x; n < count;
         n += int64_t(gridDim.x) * block_threads) {
        const auto derivatives = QMK_TARGET::poisson_derivatives(double(a[n]), double(b[n]), comparison);
        const double grad = double(grad_out[n]);
        grad_a[n] = T(grad * derivatives.by_a);
        grad_b[n] = T(grad * derivatives.by_b);
    }
}

}  // namespace

template <class T>
void poisson_forward(const PoissonForward<T>& call, Context context) {
    const int comparison = int(call.comparison);
    const int64_t count = call.count;
    T* out = call.out;
    const T *a = call.a, *b = call.b;
    if (count == 0) return;
    const DeviceGuard guard(context.device, "poisson_forward");
    launch("poisson_forward", poisson_forward_kernel<T>, divide_up(count, block_threads), block_threads, 0, context, a,
           b, out, count, PoissonComparison(comparison));
}

template <class T>
void poisson_backward(const PoissonBackward<T>& call, Context context) {
    const int comparison = int(call.comparison);
    const int64_t count = call.count;
    T *grad_a = call.grad_a, *grad_b = call.grad_b;
    const T *grad_out = call.grad_out, *a = call.a, *b = call.b;
    if (count == 0) return;
    const DeviceGuard guard(context.device, "poisson_backward");
    launch("poisson_backward", poisson_backward_kernel<T>, divide_up(count, block_threads), block_threads, 0, context,
           grad_out, a, b, grad_a, grad_b, count, PoissonComparison(comparison));
}

QMK_INSTANTIATE(poisson_forward, PoissonForward, Context)
QMK_INSTANTIATE(poisson_backward, PoissonBackward, Context)

}  // namespace qmk::cuda
