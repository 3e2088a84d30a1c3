// MRN between all rows of x and all rows of y: launchers; the kernels are those of pairs_forward.cuh and
// pairs_backward.cuh. Two operations a value of N * M * D forward; backward twice that and as many for the slopes, for
// each side, and two more for the place of the largest difference.
#include "mrn.h"
#include "mrn_head.cuh"
#include "pairs_backward.cuh"
#include "pairs_forward.cuh"

namespace qmk::cuda {

namespace {

// A form that needs the most memory: only the sizes of its halves matter.
template <class T>
int64_t workspace_bytes(int64_t batch, int64_t num_x, int64_t num_y, int64_t dim, int64_t num_components,
                        bool backward) {
    if (backward) return backward_pairs_workspace<T>(batch, num_x, num_y, num_components, dim);
    int64_t most = 0;
    for (const auto asymmetric : {MrnAsymmetric::first, MrnAsymmetric::none}) {
        MrnSettings settings{};
        settings.asymmetric = asymmetric;
        const Segments segments = MrnHead<T>::segments(settings, dim / num_components);
        const Packs packs = packs_of<T>(segments, num_components, nullptr, nullptr);
        most = std::max(most, forward_pairs_workspace<T, MrnHead<T>>(packs, batch, num_x, num_y));
    }
    return most;
}

}  // namespace

int64_t mrn_pairwise_workspace(int64_t item_size, int64_t batch, int64_t num_x, int64_t num_y, int64_t dim,
                               int64_t num_components, bool backward) {
    return item_size == sizeof(float) ? workspace_bytes<float>(batch, num_x, num_y, dim, num_components, backward)
                                      : workspace_bytes<double>(batch, num_x, num_y, dim, num_components, backward);
}

template <class T>
void mrn_pairwise_forward(const T* x, const T* y, T* out, void* workspace, int64_t batch, int64_t num_x, int64_t num_y,
                          int64_t dim, MrnSettings settings, Context context) {
    const char* op = "mrn_pairwise_forward";
    check_components(op, settings.num_components, dim / settings.num_components);
    check_pairs(op, batch, num_x, num_y);
    if (batch * num_x * num_y * dim == 0) return;
    const DeviceGuard guard(context.device, op);
    const int64_t size = dim / settings.num_components;
    using Head = MrnHead<T>;
    launch_forward_pairs(op, Head(settings, size), Head::segments(settings, size), x, y, out, workspace, batch, num_x,
                         num_y, settings.num_components, settings.reduction == MrnReduction::none, context);
}

template <class T>
void mrn_pairwise_backward(const T* grad_out, const T* x, const T* y, T* grad_x, T* grad_y, void* workspace,
                           int64_t batch, int64_t num_x, int64_t num_y, int64_t dim, MrnSettings settings,
                           Context context) {
    const char* op = "mrn_pairwise_backward";
    check_components(op, settings.num_components, dim / settings.num_components);
    check_pairs(op, batch, num_x, num_y);
    if (batch * num_x * num_y * dim == 0) return;
    const DeviceGuard guard(context.device, op);
    const int64_t size = dim / settings.num_components;
    using Head = MrnHead<T>;
    launch_backward_pairs(op, Head(settings, size), Head::segments(settings, size), grad_out, x, y, grad_x, grad_y,
                          static_cast<T*>(nullptr), workspace, batch, num_x, num_y, settings.num_components,
                          settings.reduction == MrnReduction::none, context);
}

#define QMK_INSTANTIATE(T)                                                                                         \
    template void mrn_pairwise_forward<T>(const T*, const T*, T*, void*, int64_t, int64_t, int64_t, int64_t,       \
                                          MrnSettings, Context);                                                   \
    template void mrn_pairwise_backward<T>(const T*, const T*, const T*, T*, T*, void*, int64_t, int64_t, int64_t, \
                                           int64_t, MrnSettings, Context);
QMK_INSTANTIATE(float)
QMK_INSTANTIATE(double)
#undef QMK_INSTANTIATE

}  // namespace qmk::cuda
