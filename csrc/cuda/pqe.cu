// PQE-LH of matching rows: launchers; the kernels are in rows.cuh. About 3 operations per value and one exponential per
// component and thread, bound by memory.
//
// Precision: all arithmetic in T; x, y and their gradients may be stored in half precision. The order of every sum is
// fixed, so the same input gives the same bits.
#include "../ops/pqe.h"
#include "half.cuh"
#include "pqe_head.cuh"
#include "rows.cuh"

namespace qmk::cuda {

template <class T>
void pqe_forward(const PqeForward<T>& call, Context context) {
    const auto [rows, num_weights, num_components, dim_per_component] = call.shape;
    const char* op = "pqe_forward";
    check_components(op, num_components, dim_per_component);
    if (rows == 0 || num_components == 0) return;
    const DeviceGuard guard(context.device, op);
    const PqeHead<T> head(call.weights, rows, num_weights, num_components, dim_per_component);
    with_storage<T>(call.x.storage, [&](auto number) {
        using S = decltype(number);
        launch_forward_rows(op, head, head.segments(call.shape.dim_per_component), numbers_of<S>(call.x),
                            numbers_of<S>(call.y), call.out, call.shape.rows, call.shape.num_components,
                            call.weights == nullptr, context);
    });
}

template <class T>
void pqe_backward(const PqeBackward<T>& call, Context context) {
    const auto [rows, num_weights, num_components, dim_per_component] = call.shape;
    const char* op = "pqe_backward";
    check_components(op, num_components, dim_per_component);
    if (rows == 0 || num_components == 0) return;
    const DeviceGuard guard(context.device, op);
    const PqeHead<T> head(call.weights, rows, num_weights, num_components, dim_per_component);
    const int64_t rows_per_group = call.partial_weights ? call.rows_per_group : 1;
    with_storage<T>(call.x.storage, [&](auto number) {
        using S = decltype(number);
        launch_backward_rows(op, head, head.segments(call.shape.dim_per_component), call.grad_out,
                             numbers_of<S>(call.x), numbers_of<S>(call.y), numbers_of<S>(call.grad_x),
                             numbers_of<S>(call.grad_y), call.partial_weights, call.shape.rows, call.shape.num_weights,
                             rows_per_group, call.shape.num_components, call.weights == nullptr, context);
    });
}

QMK_INSTANTIATE(pqe_forward, PqeForward, Context)
QMK_INSTANTIATE(pqe_backward, PqeBackward, Context)

}  // namespace qmk::cuda
