// METRA's CUDA kernels.
#include "../../cuda/metra.cu"
#include "library.h"

extern "C" {

void metra_forward(int64_t item_size, const void* phi, const void* phi_next, const void* skill,
                   const void* log_multiplier, void* loss, void* reward, void* stats, void* slopes, void* scratch,
                   int64_t rows, int64_t dim, double slack, int64_t norm) {
    with_item_type(item_size, [&](auto item) {
        using T = decltype(item);
        qmk::cuda::metra_forward<T>(in<T>(phi), in<T>(phi_next), in<T>(skill), in<T>(log_multiplier), out<T>(loss),
                                    out<T>(reward), out<T>(stats), out<T>(slopes), out<T>(scratch), {rows, dim},
                                    {slack, qmk::MetraNorm(norm)}, context);
    });
}

void metra_backward(int64_t item_size, const void* grad_loss, const void* phi, const void* phi_next, const void* skill,
                    const void* stats, const void* slopes, void* grad_phi, void* grad_next, void* grad_skill,
                    void* grad_log_multiplier, int64_t rows, int64_t dim) {
    with_item_type(item_size, [&](auto item) {
        using T = decltype(item);
        qmk::cuda::metra_backward<T>(in<T>(grad_loss), in<T>(phi), in<T>(phi_next), in<T>(skill), in<T>(stats),
                                     in<T>(slopes), out<T>(grad_phi), out<T>(grad_next), out<T>(grad_skill),
                                     out<T>(grad_log_multiplier), {rows, dim}, context);
    });
}
}
