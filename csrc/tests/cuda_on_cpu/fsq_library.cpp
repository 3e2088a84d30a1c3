// The CUDA kernels of finite scalar quantisation.
#include "../../cuda/fsq.cu"
#include "library.h"

extern "C" {

void fsq_forward(int64_t item_size, const void* z, void* codes, void* indices, int64_t groups, const void* levels,
                 int64_t n) {
    with_item_type(item_size, [&](auto item) {
        using T = decltype(item);
        qmk::cuda::fsq_forward<T>(in<T>(z), out<T>(codes), out<int64_t>(indices), groups, in<int64_t>(levels), int(n),
                                  context);
    });
}

void fsq_backward(int64_t item_size, const void* grad_codes, const void* z, void* grad_z, int64_t groups,
                  const void* levels, int64_t n) {
    with_item_type(item_size, [&](auto item) {
        using T = decltype(item);
        qmk::cuda::fsq_backward<T>(in<T>(grad_codes), in<T>(z), out<T>(grad_z), groups, in<int64_t>(levels), int(n),
                                   context);
    });
}
}
