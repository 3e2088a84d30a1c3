// PQE-LH of matching rows: launchers; the kernels are in rows.cuh. About 3 operations per value and one exponential per
// component and thread, bound by memory.
//
// Precision: all arithmetic in T. The order of every sum is fixed, so the same input gives the same bits.
#include "../ops/pqe.h"
#include "pqe_head.cuh"
#include "rows.cuh"

namespace qmk::cuda {

template <class T>
void pqe_forward(const PqeForward<T>& call, Context context) {
    const auto [rows, num_weights, num_components, dim_per_component] = call.shape;
    T* out = call.out;
    const T *x = call.x, *y = call.y, *weights = call.weights;
    const char* op = "pqe_forward";
    check_components(op, num_components, dim_per_component);
    if (rows == 0 || num_components == 0) return;
    const DeviceGuard guard(context.device, op);
    launch_forward_rows(op, PqeHead<T>(weights, rows, num_weights, num_components, dim_per_component),
                        PqeHead<T>::segments(dim_per_component), x, y, out, rows, num_components, weights == nullptr,
                        context);
}

template <class T>
void pqe_backward(const PqeBackward<T>& call, Context context) {
    const auto [rows, num_weights, num_components, dim_per_component] = call.shape;
    T *grad_x = call.grad_x, *grad_y = call.grad_y, *partial = call.partial_weights;
    const T *grad_out = call.grad_out, *x = call.x, *y = call.y, *weights = call.weights;
    const char* op = "pqe_backward";
    check_components(op, num_components, dim_per_component);
    if (rows == 0 || num_components == 0) return;
    const DeviceGuard guard(context.device, op);
    launch_backward_rows(op, PqeHead<T>(weights, rows, num_weights, num_components, dim_per_component),
                         PqeHead<T>::segments(dim_per_component), grad_out, x, y, grad_x, grad_y, partial, rows,
                         num_weights, partial ? call.rows_per_group : 1, num_components, weights == nullptr, context);
}

QMK_INSTANTIATE(pqe_forward, PqeForward, Context)
QMK_INSTANTIATE(pqe_backward, PqeBackward, Context)

}  // namespace qmk::cuda
