// MRN of all pairs of rows of x and y: launchers; the kernels are in pairs_forward.cuh and pairs_backward.cuh. Two
// operations per value of N * M * D forward; backward, per side, those again, a comparison for every 16 bytes of the
// asymmetric half, whose derivative each pair adds to one value only, and two more per value of the symmetric half.
// Pairs with a single row go through the kernels of matching rows.
#include "../ops/mrn.h"
#include "mrn_head.cuh"
#include "pairs_backward.cuh"
#include "pairs_forward.cuh"
#include "rows.cuh"

namespace qmk::cuda {

namespace {

template <class T>
Segments segments_of(const MrnSettings& settings, const MrnPairwiseShape& shape) {
    return MrnHead<T>::segments(settings, shape.dim / settings.num_components);
}

}  // namespace

template <class T>
int64_t mrn_pairwise_forward_scratch(const MrnPairwiseForward<T>& call) {
    const MrnPairwiseShape& shape = call.shape;
    if (has_one_row(shape)) return 0;
    const Packs packs = packs_of<T>(segments_of<T>(call.settings, shape), call.settings.num_components, call.x, call.y);
    return forward_pairs_workspace<T, MrnHead<T>>(packs, shape.batch, shape.num_x, shape.num_y);
}

template <class T>
void mrn_pairwise_forward(const MrnPairwiseForward<T>& call, Context context) {
    const int64_t batch = call.shape.batch, num_x = call.shape.num_x, num_y = call.shape.num_y, dim = call.shape.dim;
    void* workspace = call.scratch;
    T* out = call.out;
    const T *x = call.x, *y = call.y;
    const MrnSettings& settings = call.settings;
    const char* op = "mrn_pairwise_forward";
    check_components(op, settings.num_components, dim / settings.num_components);
    check_pairs(op, batch, num_x, num_y);
    if (batch * num_x * num_y * dim == 0) return;
    const DeviceGuard guard(context.device, op);
    const int64_t size = dim / settings.num_components;
    using Head = MrnHead<T>;
    const bool by_component = settings.reduction == MrnReduction::none;
    if (has_one_row(call.shape))
        return launch_forward_one_row(op, Head(settings, size), Head::segments(settings, size), x, y, out, batch,
                                      one_row_of(call.shape), settings.num_components, by_component, context);
    launch_forward_pairs(op, Head(settings, size), Head::segments(settings, size), x, y, out, workspace, batch, num_x,
                         num_y, settings.num_components, by_component, context);
}

template <class T>
int64_t mrn_pairwise_backward_scratch(const MrnPairwiseBackward<T>& call) {
    const MrnPairwiseShape& shape = call.shape;
    const int64_t num_components = call.settings.num_components;
    if (has_one_row(shape))
        return sizeof(T) *
               one_row_parts<T>(one_row_of(shape), shape.batch, num_components, shape.dim / num_components).values();
    return backward_pairs_workspace<T>(shape.batch, shape.num_x, shape.num_y, num_components, shape.dim);
}

template <class T>
void mrn_pairwise_backward(const MrnPairwiseBackward<T>& call, Context context) {
    const int64_t batch = call.shape.batch, num_x = call.shape.num_x, num_y = call.shape.num_y, dim = call.shape.dim;
    void* workspace = call.scratch;
    T *grad_x = call.grad_x, *grad_y = call.grad_y;
    const T *grad_out = call.grad_out, *x = call.x, *y = call.y;
    const MrnSettings& settings = call.settings;
    const char* op = "mrn_pairwise_backward";
    check_components(op, settings.num_components, dim / settings.num_components);
    check_pairs(op, batch, num_x, num_y);
    if (batch * num_x * num_y * dim == 0) return;
    const DeviceGuard guard(context.device, op);
    const int64_t size = dim / settings.num_components;
    using Head = MrnHead<T>;
    const bool by_component = settings.reduction == MrnReduction::none;
    T* const no_weights = nullptr;
    if (has_one_row(call.shape))
        return launch_backward_one_row(op, Head(settings, size), Head::segments(settings, size), grad_out, x, y, grad_x,
                                       grad_y, no_weights, workspace, batch, one_row_of(call.shape),
                                       settings.num_components, by_component, context);
    launch_backward_pairs(op, Head(settings, size), Head::segments(settings, size), grad_out, x, y, grad_x, grad_y,
                          no_weights, workspace, batch, num_x, num_y, settings.num_components, by_component, context);
}

QMK_INSTANTIATE(mrn_pairwise_forward, MrnPairwiseForward, Context)
QMK_INSTANTIATE_SCRATCH(mrn_pairwise_forward, MrnPairwiseForward)
QMK_INSTANTIATE(mrn_pairwise_backward, MrnPairwiseBackward, Context)
QMK_INSTANTIATE_SCRATCH(mrn_pairwise_backward, MrnPairwiseBackward)

}  // namespace qmk::cuda
