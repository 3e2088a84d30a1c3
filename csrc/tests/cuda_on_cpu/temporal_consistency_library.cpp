// The CUDA kernels of iQRL's temporal consistency.
#include "../../cuda/temporal_consistency.cu"
#include "library.h"

extern "C" {

void temporal_consistency_forward(int64_t item_size, const void* predicted, const void* target, const void* mask,
                                  void* loss, void* similarity, void* slopes, void* scratch, int64_t steps,
                                  int64_t batch, int64_t size, double discount) {
    with_item_type(item_size, [&](auto item) {
        using T = decltype(item);
        qmk::cuda::temporal_consistency_forward<T>(in<T>(predicted), in<T>(target), in<T>(mask), out<T>(loss),
                                                   out<T>(similarity), out<T>(slopes), out<T>(scratch), steps, batch,
                                                   size, discount, context);
    });
}

void temporal_consistency_backward(int64_t item_size, const void* grad_loss, const void* slopes, const void* predicted,
                                   const void* target, void* grad_predicted, int64_t rows, int64_t size) {
    with_item_type(item_size, [&](auto item) {
        using T = decltype(item);
        qmk::cuda::temporal_consistency_backward<T>(in<T>(grad_loss), in<T>(slopes), in<T>(predicted), in<T>(target),
                                                    out<T>(grad_predicted), rows, size, context);
    });
}
}
