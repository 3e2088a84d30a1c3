// IQE: its kernels' arguments. Their contents: qmkernels/backends/reference/iqe.py. Null if absent or not needed: ends,
// largest and spread if nothing is kept, max_weight unless the reduction is maxmean, largest for reductions without a
// maximum, grad_max_weight.
#pragma once

#include "../math/reduction.h"
#include "../signature.h"

namespace qmk {

// rows distances of num_components components of dim_per_component values.
struct IqeShape {
    int64_t rows, num_components, dim_per_component;
    QMK_FIELDS(rows, num_components, dim_per_component)
    int64_t values() const { return rows * num_components * dim_per_component; }
    int64_t ends() const { return bytes_of_ends(rows * num_components, dim_per_component); }
    int64_t distances(Reduction reduction) const { return reduction == Reduction::none ? rows * num_components : rows; }
};

// batch matrices of num_x by num_y distances.
struct IqePairwiseShape {
    int64_t batch, num_x, num_y, num_components, dim_per_component;
    QMK_FIELDS(batch, num_x, num_y, num_components, dim_per_component)
    int64_t x_values() const { return batch * num_x * num_components * dim_per_component; }
    int64_t y_values() const { return batch * num_y * num_components * dim_per_component; }
    int64_t pairs() const { return batch * num_x * num_y; }
    int64_t distances(Reduction reduction) const {
        return reduction == Reduction::none ? pairs() * num_components : pairs();
    }
};

template <class T>
struct IqeForward {
    Stored<const T> x, y;
    MaxWeight<T> max;
    T* out;
    uint8_t* ends;
    int32_t* largest;
    T* spread;
    IqeShape shape;
    Reduction reduction;
    QMK_FIELDS(x, y, max, out, ends, largest, spread, shape, reduction)
    Sizes sizes() const {
        if (!max.fits(reduction, shape.rows)) return {};
        return {shape.values(),
                shape.values(),
                max.count(reduction),
                shape.distances(reduction),
                or_absent(shape.ends()),
                ends ? count_of_largest(reduction, shape.rows) : 0,
                ends ? count_of_spread(reduction, shape.rows) : 0};
    }
};

template <class T>
struct IqeBackward {
    const T* grad_out;
    const uint8_t* ends;
    const int32_t* largest;
    const T* spread;
    MaxWeight<T> max;
    Stored<T> grad_x, grad_y;
    T* grad_max_weight;
    IqeShape shape;
    Reduction reduction;
    QMK_FIELDS(grad_out, ends, largest, spread, max, grad_x, grad_y, grad_max_weight, shape, reduction)
    Sizes sizes() const {
        if (!max.fits(reduction, shape.rows)) return {};
        return {shape.distances(reduction),
                shape.ends(),
                count_of_largest(reduction, shape.rows),
                count_of_spread(reduction, shape.rows),
                max.count(reduction),
                shape.values(),
                shape.values(),
                or_absent(max.count(reduction))};
    }
};

template <class T>
struct IqePairwiseForward {
    const T *x, *y;
    MaxWeight<T> max;
    T* out;
    int32_t* largest;
    void* scratch;
    IqePairwiseShape shape;
    Reduction reduction;
    QMK_FIELDS(x, y, max, out, largest, shape, reduction)
    Sizes sizes() const {
        if (!max.fits(reduction, shape.batch)) return {};
        return {shape.x_values(), shape.y_values(), max.count(reduction), shape.distances(reduction),
                or_absent(count_of_largest(reduction, shape.pairs()))};
    }
};

template <class T>
struct IqePairwiseBackward {
    const T *grad_out, *x, *y;
    const int32_t* largest;
    MaxWeight<T> max;
    T *grad_x, *grad_y, *grad_max_weight;
    void* scratch;
    IqePairwiseShape shape;
    Reduction reduction;
    QMK_FIELDS(grad_out, x, y, largest, max, grad_x, grad_y, grad_max_weight, shape, reduction)
    Sizes sizes() const {
        if (!max.fits(reduction, shape.batch)) return {};
        return {
            shape.distances(reduction), shape.x_values(), shape.y_values(), count_of_largest(reduction, shape.pairs()),
            max.count(reduction),       shape.x_values(), shape.y_values(), or_absent(max.count(reduction))};
    }
};

QMK_KERNEL(iqe_forward, IqeForward)
QMK_KERNEL(iqe_backward, IqeBackward)
QMK_KERNEL(iqe_pairwise_forward, IqePairwiseForward)
QMK_KERNEL(iqe_pairwise_backward, IqePairwiseBackward)
using iqe_kernels =
    Kernels<iqe_forward_kernel, iqe_backward_kernel, iqe_pairwise_forward_kernel, iqe_pairwise_backward_kernel>;

}  // namespace qmk
