// PQE-LH between all rows of x and all rows of y: launchers; the kernels are those of pairs_forward.cuh and
// pairs_backward.cuh. Three operations a value of N * M * D forward, five backward for each side, and an exponential a
// pair and component.
#include "pairs_backward.cuh"
#include "pairs_forward.cuh"
#include "pqe.h"
#include "pqe_head.cuh"

namespace qmk::cuda {

namespace {

template <class T>
int64_t workspace_bytes(int64_t batch, int64_t num_x, int64_t num_y, int64_t num_components, int64_t size,
                        bool backward) {
    if (backward) return backward_pairs_workspace<T>(batch, num_x, num_y, num_components, num_components * size);
    const Packs packs = packs_of<T>(PqeHead<T>::segments(size), num_components, nullptr, nullptr);
    return forward_pairs_workspace<T, PqeHead<T>>(packs, batch, num_x, num_y);
}

}  // namespace

int64_t pqe_pairwise_workspace(int64_t item_size, int64_t batch, int64_t num_x, int64_t num_y, int64_t num_components,
                               int64_t dim_per_component, bool backward) {
    return item_size == sizeof(float)
               ? workspace_bytes<float>(batch, num_x, num_y, num_components, dim_per_component, backward)
               : workspace_bytes<double>(batch, num_x, num_y, num_components, dim_per_component, backward);
}

template <class T>
void pqe_pairwise_forward(const T* x, const T* y, const T* weights, T* out, void* workspace, int64_t batch,
                          int64_t num_x, int64_t num_y, int64_t num_components, int64_t dim_per_component,
                          Context context) {
    const char* op = "pqe_pairwise_forward";
    check_components(op, num_components, dim_per_component);
    check_pairs(op, batch, num_x, num_y);
    if (batch * num_x * num_y * num_components == 0) return;
    const DeviceGuard guard(context.device, op);
    launch_forward_pairs(op, PqeHead<T>(weights, dim_per_component), PqeHead<T>::segments(dim_per_component), x, y, out,
                         workspace, batch, num_x, num_y, num_components, weights == nullptr, context);
}

template <class T>
void pqe_pairwise_backward(const T* grad_out, const T* x, const T* y, const T* weights, T* grad_x, T* grad_y,
                           T* partial, void* workspace, int64_t batch, int64_t num_x, int64_t num_y,
                           int64_t num_components, int64_t dim_per_component, Context context) {
    const char* op = "pqe_pairwise_backward";
    check_components(op, num_components, dim_per_component);
    check_pairs(op, batch, num_x, num_y);
    if (batch * num_x * num_y * num_components == 0) return;
    const DeviceGuard guard(context.device, op);
    launch_backward_pairs(op, PqeHead<T>(weights, dim_per_component), PqeHead<T>::segments(dim_per_component), grad_out,
                          x, y, grad_x, grad_y, partial, workspace, batch, num_x, num_y, num_components,
                          weights == nullptr, context);
}

#define QMK_INSTANTIATE(T)                                                                                             \
    template void pqe_pairwise_forward<T>(const T*, const T*, const T*, T*, void*, int64_t, int64_t, int64_t, int64_t, \
                                          int64_t, Context);                                                           \
    template void pqe_pairwise_backward<T>(const T*, const T*, const T*, const T*, T*, T*, T*, void*, int64_t,         \
                                           int64_t, int64_t, int64_t, int64_t, Context);
QMK_INSTANTIATE(float)
QMK_INSTANTIATE(double)
#undef QMK_INSTANTIATE

}  // namespace qmk::cuda
