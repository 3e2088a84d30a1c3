// The Poisson comparisons' CUDA kernels.
#include "../../cuda/poisson.cu"
#include "library.h"

extern "C" {

void poisson_forward(int64_t item_size, const void* a, const void* b, void* result, int64_t count, int64_t comparison) {
    with_item_type(item_size, [&](auto item) {
        using T = decltype(item);
        qmk::cuda::poisson_forward<T>(in<T>(a), in<T>(b), out<T>(result), count, int(comparison), context);
    });
}

void poisson_backward(int64_t item_size, const void* grad_out, const void* a, const void* b, void* grad_a, void* grad_b,
                      int64_t count, int64_t comparison) {
    with_item_type(item_size, [&](auto item) {
        using T = decltype(item);
        qmk::cuda::poisson_backward<T>(in<T>(grad_out), in<T>(a), in<T>(b), out<T>(grad_a), out<T>(grad_b), count,
                                       int(comparison), context);
    });
}
}
