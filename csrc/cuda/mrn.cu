// MRN of matching rows: launchers; the kernels are in rows.cuh. About 6 operations per value, bound by memory.
//
// Precision: all arithmetic in T; x, y and their gradients may be stored in half precision. The order of every sum is
// fixed, so the same input gives the same bits.
#include "../ops/mrn.h"
#include "half.cuh"
#include "mrn_head.cuh"
#include "rows.cuh"

namespace qmk::cuda {

template <class T>
void mrn_forward(const MrnForward<T>& call, Context context) {
    const int64_t rows = call.rows, dim = call.dim;
    const MrnSettings& settings = call.settings;
    const char* op = "mrn_forward";
    check_components(op, settings.num_components, dim / settings.num_components);
    if (rows == 0 || dim == 0) return;
    const DeviceGuard guard(context.device, op);
    const int64_t size = dim / settings.num_components;
    using Head = MrnHead<T>;
    with_storage<T>(call.x.storage, [&](auto number) {
        using S = decltype(number);
        launch_forward_rows(op, Head(settings, size), Head::segments(settings, size), numbers_of<S>(call.x),
                            numbers_of<S>(call.y), call.out, rows, settings.num_components,
                            settings.reduction == MrnReduction::none, context);
    });
}

template <class T>
void mrn_backward(const MrnBackward<T>& call, Context context) {
    const int64_t rows = call.rows, dim = call.dim;
    const MrnSettings& settings = call.settings;
    const char* op = "mrn_backward";
    check_components(op, settings.num_components, dim / settings.num_components);
    if (rows == 0 || dim == 0) return;
    const DeviceGuard guard(context.device, op);
    const int64_t size = dim / settings.num_components;
    using Head = MrnHead<T>;
    with_storage<T>(call.x.storage, [&](auto number) {
        using S = decltype(number);
        launch_backward_rows(op, Head(settings, size), Head::segments(settings, size), call.grad_out,
                             numbers_of<S>(call.x), numbers_of<S>(call.y), numbers_of<S>(call.grad_x),
                             numbers_of<S>(call.grad_y), static_cast<T*>(nullptr), rows, 1, 1, settings.num_components,
                             settings.reduction == MrnReduction::none, context);
    });
}

QMK_INSTANTIATE(mrn_forward, MrnForward, Context)
QMK_INSTANTIATE(mrn_backward, MrnBackward, Context)

}  // namespace qmk::cuda
