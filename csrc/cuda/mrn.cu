// MRN of matching rows: launchers; the kernels are in rows.cuh. About 6 operations per value, bound by memory.
//
// Precision: all arithmetic in T. The order of every sum is fixed, so the same input gives the same bits.
#include "../ops/mrn.h"
#include "mrn_head.cuh"
#include "rows.cuh"

namespace qmk::cuda {

template <class T>
void mrn_forward(const MrnForward<T>& call, Context context) {
    const int64_t rows = call.rows, dim = call.dim;
    T* out = call.out;
    const T *x = call.x, *y = call.y;
    const MrnSettings& settings = call.settings;
    const char* op = "mrn_forward";
    check_components(op, settings.num_components, dim / settings.num_components);
    if (rows == 0 || dim == 0) return;
    const DeviceGuard guard(context.device, op);
    const int64_t size = dim / settings.num_components;
    using Head = MrnHead<T>;
    launch_forward_rows(op, Head(settings, size), Head::segments(settings, size), x, y, out, rows,
                        settings.num_components, settings.reduction == MrnReduction::none, context);
}

template <class T>
void mrn_backward(const MrnBackward<T>& call, Context context) {
    const int64_t rows = call.rows, dim = call.dim;
    T *grad_x = call.grad_x, *grad_y = call.grad_y;
    const T *grad_out = call.grad_out, *x = call.x, *y = call.y;
    const MrnSettings& settings = call.settings;
    const char* op = "mrn_backward";
    check_components(op, settings.num_components, dim / settings.num_components);
    if (rows == 0 || dim == 0) return;
    const DeviceGuard guard(context.device, op);
    const int64_t size = dim / settings.num_components;
    using Head = MrnHead<T>;
    launch_backward_rows(op, Head(settings, size), Head::segments(settings, size), grad_out, x, y, grad_x, grad_y,
                         static_cast<T*>(nullptr), rows, 1, 1, settings.num_components,
                         settings.reduction == MrnReduction::none, context);
}

QMK_INSTANTIATE(mrn_forward, MrnForward, Context)
QMK_INSTANTIATE(mrn_backward, MrnBackward, Context)

}  // namespace qmk::cuda
