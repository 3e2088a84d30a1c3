// MRN: its kernels' arguments. Their contents: qmkernels/backends/reference/mrn.py.
#pragma once

#include "../math/mrn.h"
#include "../signature.h"

namespace qmk {

// batch matrices of num_x by num_y distances between rows of dim values.
struct MrnPairwiseShape {
    int64_t batch, num_x, num_y, dim;
    QMK_FIELDS(batch, num_x, num_y, dim)
};

inline bool fits(const MrnSettings& settings, int64_t dim) {
    return settings.num_components > 0 && dim % settings.num_components == 0;
}
inline int64_t count_of_distances(const MrnSettings& settings, int64_t rows) {
    return settings.reduction == MrnReduction::none ? rows * settings.num_components : rows;
}

template <class T>
struct MrnForward {
    Stored<const T> x, y;
    T* out;
    int64_t rows, dim;
    MrnSettings settings;
    QMK_FIELDS(x, y, out, rows, dim, settings)
    Sizes sizes() const {
        if (!fits(settings, dim)) return {};
        return {rows * dim, rows * dim, count_of_distances(settings, rows)};
    }
};

template <class T>
struct MrnBackward {
    const T* grad_out;
    Stored<const T> x, y;
    Stored<T> grad_x, grad_y;
    int64_t rows, dim;
    MrnSettings settings;
    QMK_FIELDS(grad_out, x, y, grad_x, grad_y, rows, dim, settings)
    Sizes sizes() const {
        if (!fits(settings, dim)) return {};
        return {count_of_distances(settings, rows), rows * dim, rows * dim, rows * dim, rows * dim};
    }
};

template <class T>
struct MrnPairwiseForward {
    const T *x, *y;
    T* out;
    void* scratch;
    MrnPairwiseShape shape;
    MrnSettings settings;
    QMK_FIELDS(x, y, out, shape, settings)
    Sizes sizes() const {
        if (!fits(settings, shape.dim)) return {};
        return {shape.batch * shape.num_x * shape.dim, shape.batch * shape.num_y * shape.dim,
                count_of_distances(settings, shape.batch * shape.num_x * shape.num_y)};
    }
};

template <class T>
struct MrnPairwiseBackward {
    const T *grad_out, *x, *y;
    T *grad_x, *grad_y;
    void* scratch;
    MrnPairwiseShape shape;
    MrnSettings settings;
    QMK_FIELDS(grad_out, x, y, grad_x, grad_y, shape, settings)
    Sizes sizes() const {
        if (!fits(settings, shape.dim)) return {};
        const int64_t x_values = shape.batch * shape.num_x * shape.dim;
        const int64_t y_values = shape.batch * shape.num_y * shape.dim;
        return {count_of_distances(settings, shape.batch * shape.num_x * shape.num_y), x_values, y_values, x_values,
                y_values};
    }
};

QMK_KERNEL(mrn_forward, MrnForward)
QMK_KERNEL(mrn_backward, MrnBackward)
QMK_KERNEL(mrn_pairwise_forward, MrnPairwiseForward)
QMK_KERNEL(mrn_pairwise_backward, MrnPairwiseBackward)
using mrn_kernels =
    Kernels<mrn_forward_kernel, mrn_backward_kernel, mrn_pairwise_forward_kernel, mrn_pairwise_backward_kernel>;

}  // namespace qmk
