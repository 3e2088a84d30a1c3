// IQE's CUDA kernels: with PAIRWISE those of the pairwise functions, else the others.
#ifdef PAIRWISE
#include "../../cuda/iqe_pairwise_backward.cu"
#include "../../cuda/iqe_pairwise_forward.cu"
#else
#include "../../cuda/iqe.cu"
#endif
#include "library.h"

namespace qmk::cuda {
namespace {
CUDA_ON_CPU_DYNAMIC_SHARED
}
}  // namespace qmk::cuda

extern "C" {

#ifdef PAIRWISE

int64_t iqe_pairwise_workspace(int item_size, int64_t batch, int64_t num_x, int64_t num_y, int64_t num_components,
                               int64_t dim_per_component, int, bool backward) {
    return qmk::cuda::iqe_pairwise_workspace(item_size, batch, num_x, num_y, num_components, dim_per_component,
                                             backward);
}

void iqe_pairwise_forward(int item_size, const void* x, const void* y, const void* max_weight, void* result,
                          void* largest, void* workspace, int64_t batch, int64_t num_x, int64_t num_y,
                          int64_t num_components, int64_t dim_per_component, int reduction) {
    with_item_type(item_size, [&](auto item) {
        using T = decltype(item);
        qmk::cuda::iqe_pairwise_forward<T>(in<T>(x), in<T>(y), in<T>(max_weight), out<T>(result), out<int32_t>(largest),
                                           workspace, batch, num_x, num_y, num_components, dim_per_component,
                                           qmk::Reduction(reduction), context);
    });
}

void iqe_pairwise_backward(int item_size, const void* grad_out, const void* x, const void* y, const void* largest,
                           const void* max_weight, void* grad_x, void* grad_y, void* grad_max_weight, void* workspace,
                           int64_t batch, int64_t num_x, int64_t num_y, int64_t num_components,
                           int64_t dim_per_component, int reduction) {
    with_item_type(item_size, [&](auto item) {
        using T = decltype(item);
        qmk::cuda::iqe_pairwise_backward<T>(in<T>(grad_out), in<T>(x), in<T>(y), in<int32_t>(largest),
                                            in<T>(max_weight), out<T>(grad_x), out<T>(grad_y), out<T>(grad_max_weight),
                                            workspace, batch, num_x, num_y, num_components, dim_per_component,
                                            qmk::Reduction(reduction), context);
    });
}

#else

void iqe_forward(int item_size, const void* x, const void* y, const void* max_weight, void* result, void* ends,
                 void* largest, void* spread, int64_t rows, int64_t num_components, int64_t dim_per_component,
                 int reduction) {
    with_item_type(item_size, [&](auto item) {
        using T = decltype(item);
        qmk::cuda::iqe_forward<T>(in<T>(x), in<T>(y), in<T>(max_weight), out<T>(result), out<uint8_t>(ends),
                                  out<int32_t>(largest), out<T>(spread), rows, num_components, dim_per_component,
                                  qmk::Reduction(reduction), context);
    });
}

void iqe_backward(int item_size, const void* grad_out, const void* ends, const void* largest, const void* max_weight,
                  void* grad_x, void* grad_y, int64_t rows, int64_t num_components, int64_t dim_per_component,
                  int reduction) {
    with_item_type(item_size, [&](auto item) {
        using T = decltype(item);
        qmk::cuda::iqe_backward<T>(in<T>(grad_out), in<uint8_t>(ends), in<int32_t>(largest), in<T>(max_weight),
                                   out<T>(grad_x), out<T>(grad_y), rows, num_components, dim_per_component,
                                   qmk::Reduction(reduction), context);
    });
}

#endif
}
