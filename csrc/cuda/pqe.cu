// PQE-LH of rows against rows: launchers; the kernels are those of rows.cuh. About 3 operations a value and one
// exponential a component and thread, bound by memory.
//
// Precision: all arithmetic in T. The order of every sum is fixed, so the same input gives the same bits.
#include "pqe.h"
#include "pqe_head.cuh"
#include "rows.cuh"

namespace qmk::cuda {

namespace {

// Few groups are few partial sums; many fill a device.
int64_t rows_per_weight_group(int64_t rows) {
    return std::max<int64_t>(divide_up(rows, 8192), 4);
}

}  // namespace

int64_t pqe_weight_groups(int64_t rows) {
    return divide_up(rows, rows_per_weight_group(rows));
}

template <class T>
void pqe_forward(const T* x, const T* y, const T* weights, T* out, int64_t rows, int64_t num_components,
                 int64_t dim_per_component, Context context) {
    const char* op = "pqe_forward";
    check_components(op, num_components, dim_per_component);
    if (rows == 0 || num_components == 0) return;
    const DeviceGuard guard(context.device, op);
    launch_forward_rows(op, PqeHead<T>(weights, dim_per_component), PqeHead<T>::segments(dim_per_component), x, y, out,
                        rows, num_components, weights == nullptr, context);
}

template <class T>
void pqe_backward(const T* grad_out, const T* x, const T* y, const T* weights, T* grad_x, T* grad_y, T* partial,
                  int64_t rows, int64_t num_components, int64_t dim_per_component, Context context) {
    const char* op = "pqe_backward";
    check_components(op, num_components, dim_per_component);
    if (rows == 0 || num_components == 0) return;
    const DeviceGuard guard(context.device, op);
    launch_backward_rows(op, PqeHead<T>(weights, dim_per_component), PqeHead<T>::segments(dim_per_component), grad_out,
                         x, y, grad_x, grad_y, partial, rows, partial ? rows_per_weight_group(rows) : 1, num_components,
                         weights == nullptr, context);
}

#define QMK_INSTANTIATE(T)                                                                                       \
    template void pqe_forward<T>(const T*, const T*, const T*, T*, int64_t, int64_t, int64_t, Context);          \
    template void pqe_backward<T>(const T*, const T*, const T*, const T*, T*, T*, T*, int64_t, int64_t, int64_t, \
                                  Context);
QMK_INSTANTIATE(float)
QMK_INSTANTIATE(double)
#undef QMK_INSTANTIATE

}  // namespace qmk::cuda
