// MRN of rows against rows: launchers; the kernels are those of rows.cuh. About 6 operations a value, bound by memory.
//
// Precision: all arithmetic in T. The order of every sum is fixed, so the same input gives the same bits.
#include "mrn.h"
#include "mrn_head.cuh"
#include "rows.cuh"

namespace qmk::cuda {

template <class T>
void mrn_forward(const T* x, const T* y, T* out, int64_t rows, int64_t dim, MrnSettings settings, Context context) {
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
void mrn_backward(const T* grad_out, const T* x, const T* y, T* grad_x, T* grad_y, int64_t rows, int64_t dim,
                  MrnSettings settings, Context context) {
    const char* op = "mrn_backward";
    check_components(op, settings.num_components, dim / settings.num_components);
    if (rows == 0 || dim == 0) return;
    const DeviceGuard guard(context.device, op);
    const int64_t size = dim / settings.num_components;
    using Head = MrnHead<T>;
    launch_backward_rows(op, Head(settings, size), Head::segments(settings, size), grad_out, x, y, grad_x, grad_y,
                         static_cast<T*>(nullptr), rows, 1, settings.num_components,
                         settings.reduction == MrnReduction::none, context);
}

#define QMK_INSTANTIATE(T)                                                                        \
    template void mrn_forward<T>(const T*, const T*, T*, int64_t, int64_t, MrnSettings, Context); \
    template void mrn_backward<T>(const T*, const T*, const T*, T*, T*, int64_t, int64_t, MrnSettings, Context);
QMK_INSTANTIATE(float)
QMK_INSTANTIATE(double)
#undef QMK_INSTANTIATE

}  // namespace qmk::cuda
