// PQE-LH of all pairs of rows of x and y: launchers; the kernels are in pairs_forward.cuh and pairs_backward.cuh. Three
// operations per value of N * M * D forward, five backward for each side, and one exponential per pair and component.
// Pairs with a single row go through the kernels of matching rows.
#include "../ops/pqe.h"
#include "pairs_backward.cuh"
#include "pairs_forward.cuh"
#include "pqe_head.cuh"
#include "rows.cuh"

namespace qmk::cuda {

namespace {

// The weights' gradient is asked for per row of x: with a single x, only the tiles of all pairs add it up over y.
template <class T>
bool is_of_one_row(const PqePairwiseBackward<T>& call) {
    return has_one_row(call.shape) && !(call.partial_weights && call.shape.num_y > 1);
}

}  // namespace

template <class T>
int64_t pqe_pairwise_forward_scratch(const PqePairwiseForward<T>& call) {
    const PqePairwiseShape& shape = call.shape;
    if (has_one_row(shape)) return 0;
    const Packs packs =
        packs_of<T>(PqeHead<T>::segments(shape.dim_per_component), shape.num_components, call.x, call.y);
    return forward_pairs_workspace<T, PqeHead<T>>(packs, shape.batch, shape.num_x, shape.num_y);
}

template <class T>
void pqe_pairwise_forward(const PqePairwiseForward<T>& call, Context context) {
    const auto [batch, num_x, num_y, num_weights, num_components, dim_per_component] = call.shape;
    void* workspace = call.scratch;
    T* out = call.out;
    const T *x = call.x, *y = call.y, *weights = call.weights;
    const char* op = "pqe_pairwise_forward";
    check_components(op, num_components, dim_per_component);
    check_pairs(op, batch, num_x, num_y);
    if (batch * num_x * num_y * num_components == 0) return;
    const DeviceGuard guard(context.device, op);
    const auto segments = PqeHead<T>::segments(dim_per_component);
    if (has_one_row(call.shape)) {
        const PqeHead<T> of_rows(weights, batch * num_x * num_y, num_weights, num_components, dim_per_component);
        return launch_forward_one_row(op, of_rows, segments, x, y, out, batch, one_row_of(call.shape), num_components,
                                      weights == nullptr, context);
    }
    launch_forward_pairs(op, PqeHead<T>(weights, batch, num_weights, num_components, dim_per_component), segments, x, y,
                         out, workspace, batch, num_x, num_y, num_components, weights == nullptr, context);
}

template <class T>
int64_t pqe_pairwise_backward_scratch(const PqePairwiseBackward<T>& call) {
    const PqePairwiseShape& shape = call.shape;
    if (is_of_one_row(call))
        return sizeof(T) *
               one_row_parts<T>(one_row_of(shape), shape.batch, shape.num_components, shape.dim_per_component).values();
    return backward_pairs_workspace<T>(shape.batch, shape.num_x, shape.num_y, shape.num_components,
                                       shape.num_components * shape.dim_per_component);
}

template <class T>
void pqe_pairwise_backward(const PqePairwiseBackward<T>& call, Context context) {
    const auto [batch, num_x, num_y, num_weights, num_components, dim_per_component] = call.shape;
    void* workspace = call.scratch;
    T *grad_x = call.grad_x, *grad_y = call.grad_y, *partial = call.partial_weights;
    const T *grad_out = call.grad_out, *x = call.x, *y = call.y, *weights = call.weights;
    const char* op = "pqe_pairwise_backward";
    check_components(op, num_components, dim_per_component);
    check_pairs(op, batch, num_x, num_y);
    if (batch * num_x * num_y * num_components == 0) return;
    const DeviceGuard guard(context.device, op);
    const auto segments = PqeHead<T>::segments(dim_per_component);
    if (is_of_one_row(call)) {
        const PqeHead<T> of_rows(weights, batch * num_x * num_y, num_weights, num_components, dim_per_component);
        return launch_backward_one_row(op, of_rows, segments, grad_out, x, y, grad_x, grad_y, partial, workspace, batch,
                                       one_row_of(call.shape), num_components, weights == nullptr, context);
    }
    launch_backward_pairs(op, PqeHead<T>(weights, batch, num_weights, num_components, dim_per_component), segments,
                          grad_out, x, y, grad_x, grad_y, partial, workspace, batch, num_x, num_y, num_components,
                          weights == nullptr, context);
}

QMK_INSTANTIATE(pqe_pairwise_forward, PqePairwiseForward, Context)
QMK_INSTANTIATE_SCRATCH(pqe_pairwise_forward, PqePairwiseForward)
QMK_INSTANTIATE(pqe_pairwise_backward, PqePairwiseBackward, Context)
QMK_INSTANTIATE_SCRATCH(pqe_pairwise_backward, PqePairwiseBackward)

}  // namespace qmk::cuda
