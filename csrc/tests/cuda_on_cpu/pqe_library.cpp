// PQE-LH's CUDA kernels.
#include "../../cuda/pqe.cu"
#include "../../cuda/pqe_pairwise.cu"
#include "library.h"

namespace qmk::cuda {
namespace {
CUDA_ON_CPU_DYNAMIC_SHARED
}
}  // namespace qmk::cuda

extern "C" {

void pqe_forward(int64_t item_size, const void* x, const void* y, const void* weights, void* result, int64_t rows,
                 int64_t num_components, int64_t dim_per_component) {
    with_item_type(item_size, [&](auto item) {
        using T = decltype(item);
        qmk::cuda::pqe_forward<T>(in<T>(x), in<T>(y), in<T>(weights), out<T>(result), rows, num_components,
                                  dim_per_component, context);
    });
}

int64_t pqe_weight_groups(int64_t rows) {
    return qmk::cuda::pqe_weight_groups(rows);
}

void pqe_backward(int64_t item_size, const void* grad_out, const void* x, const void* y, const void* weights,
                  void* grad_x, void* grad_y, void* partial, int64_t rows, int64_t num_components,
                  int64_t dim_per_component) {
    with_item_type(item_size, [&](auto item) {
        using T = decltype(item);
        qmk::cuda::pqe_backward<T>(in<T>(grad_out), in<T>(x), in<T>(y), in<T>(weights), out<T>(grad_x), out<T>(grad_y),
                                   out<T>(partial), rows, num_components, dim_per_component, context);
    });
}

int64_t pqe_pairwise_workspace(int64_t item_size, int64_t batch, int64_t num_x, int64_t num_y, int64_t num_components,
                               int64_t dim_per_component, int64_t backward) {
    return qmk::cuda::pqe_pairwise_workspace(item_size, batch, num_x, num_y, num_components, dim_per_component,
                                             backward != 0);
}

void pqe_pairwise_forward(int64_t item_size, const void* x, const void* y, const void* weights, void* result,
                          void* workspace, int64_t batch, int64_t num_x, int64_t num_y, int64_t num_components,
                          int64_t dim_per_component) {
    with_item_type(item_size, [&](auto item) {
        using T = decltype(item);
        qmk::cuda::pqe_pairwise_forward<T>(in<T>(x), in<T>(y), in<T>(weights), out<T>(result), workspace, batch, num_x,
                                           num_y, num_components, dim_per_component, context);
    });
}

void pqe_pairwise_backward(int64_t item_size, const void* grad_out, const void* x, const void* y, const void* weights,
                           void* grad_x, void* grad_y, void* partial, void* workspace, int64_t batch, int64_t num_x,
                           int64_t num_y, int64_t num_components, int64_t dim_per_component) {
    with_item_type(item_size, [&](auto item) {
        using T = decltype(item);
        qmk::cuda::pqe_pairwise_backward<T>(in<T>(grad_out), in<T>(x), in<T>(y), in<T>(weights), out<T>(grad_x),
                                            out<T>(grad_y), out<T>(partial), workspace, batch, num_x, num_y,
                                            num_components, dim_per_component, context);
    });
}
}
