// MRN's CUDA kernels.
#include "../../cuda/mrn.cu"
#include "../../cuda/mrn_pairwise.cu"
#include "library.h"

namespace qmk::cuda {
namespace {
CUDA_ON_CPU_DYNAMIC_SHARED
}
}  // namespace qmk::cuda

#define FORM_PARAMETERS                                                                               \
    int64_t num_components, int64_t asymmetric, int64_t mean_of_squares, double exponent, double eps, \
        int64_t eps_form, int64_t reduction, double scale
#define FORM                                                                                                        \
    qmk::MrnSettings {                                                                                              \
        num_components, qmk::MrnAsymmetric(asymmetric), mean_of_squares != 0, exponent, eps, qmk::MrnEps(eps_form), \
            qmk::MrnReduction(reduction), scale                                                                     \
    }

extern "C" {

void mrn_forward(int64_t item_size, const void* x, const void* y, void* result, int64_t rows, int64_t dim,
                 FORM_PARAMETERS) {
    with_item_type(item_size, [&](auto item) {
        using T = decltype(item);
        qmk::cuda::mrn_forward<T>(in<T>(x), in<T>(y), out<T>(result), rows, dim, FORM, context);
    });
}

void mrn_backward(int64_t item_size, const void* grad_out, const void* x, const void* y, void* grad_x, void* grad_y,
                  int64_t rows, int64_t dim, FORM_PARAMETERS) {
    with_item_type(item_size, [&](auto item) {
        using T = decltype(item);
        qmk::cuda::mrn_backward<T>(in<T>(grad_out), in<T>(x), in<T>(y), out<T>(grad_x), out<T>(grad_y), rows, dim, FORM,
                                   context);
    });
}

int64_t mrn_pairwise_workspace(int64_t item_size, int64_t batch, int64_t num_x, int64_t num_y, int64_t dim,
                               int64_t num_components, int64_t backward) {
    return qmk::cuda::mrn_pairwise_workspace(item_size, batch, num_x, num_y, dim, num_components, backward != 0);
}

void mrn_pairwise_forward(int64_t item_size, const void* x, const void* y, void* result, void* workspace, int64_t batch,
                          int64_t num_x, int64_t num_y, int64_t dim, FORM_PARAMETERS) {
    with_item_type(item_size, [&](auto item) {
        using T = decltype(item);
        qmk::cuda::mrn_pairwise_forward<T>(in<T>(x), in<T>(y), out<T>(result), workspace, batch, num_x, num_y, dim,
                                           FORM, context);
    });
}

void mrn_pairwise_backward(int64_t item_size, const void* grad_out, const void* x, const void* y, void* grad_x,
                           void* grad_y, void* workspace, int64_t batch, int64_t num_x, int64_t num_y, int64_t dim,
                           FORM_PARAMETERS) {
    with_item_type(item_size, [&](auto item) {
        using T = decltype(item);
        qmk::cuda::mrn_pairwise_backward<T>(in<T>(grad_out), in<T>(x), in<T>(y), out<T>(grad_x), out<T>(grad_y),
                                            workspace, batch, num_x, num_y, dim, FORM, context);
    });
}
}
