// QRL's latent dynamics loss with an IQE head: its kernels' arguments. Their contents:
// qmkernels/backends/reference/latent_dynamics.py. Null if absent: max_weight and spread unless the reduction is
// maxmean, largest for reductions without a maximum.
#pragma once

#include "../math/latent_dynamics.h"
#include "../signature.h"

namespace qmk {

struct LatentDynamicsShape {
    int64_t rows, num_components;
    QMK_FIELDS(rows, num_components)
    int64_t values(int64_t dim_per_component) const { return rows * num_components * dim_per_component; }
    int64_t ends(int64_t dim_per_component) const {
        return bytes_of_ends(2 * rows * num_components, dim_per_component);
    }
};

template <class T>
struct LatentDynamicsForward {
    Stored<const T> predicted, target;
    const T* max_weight;
    T *loss, *stats, *slopes;
    uint8_t* ends;
    int32_t* largest;
    T* spread;
    void* scratch;
    LatentDynamicsShape shape;
    LatentDynamicsSettings settings;
    QMK_FIELDS(predicted, target, max_weight, loss, stats, slopes, ends, largest, spread, shape, settings)
    Sizes sizes() const {
        const int64_t values = shape.values(settings.dim_per_component);
        return {values,
                values,
                count_of_spread(settings.reduction, 1),
                1,
                2,
                2 * shape.rows,
                shape.ends(settings.dim_per_component),
                count_of_largest(settings.reduction, 2 * shape.rows),
                count_of_spread(settings.reduction, 2 * shape.rows)};
    }
};

template <class T>
struct LatentDynamicsBackward {
    const T *grad_loss, *slopes;
    const uint8_t* ends;
    const int32_t* largest;
    const T *spread, *max_weight;
    Stored<T> grad_predicted, grad_target;
    T* grad_max_weight;
    LatentDynamicsShape shape;
    int64_t dim_per_component;
    Reduction reduction;
    WeightLink weight_link;
    QMK_FIELDS(grad_loss, slopes, ends, largest, spread, max_weight, grad_predicted, grad_target, grad_max_weight,
               shape, dim_per_component, reduction, weight_link)
    Sizes sizes() const {
        const int64_t values = shape.values(dim_per_component);
        return {1,
                2 * shape.rows,
                shape.ends(dim_per_component),
                count_of_largest(reduction, 2 * shape.rows),
                count_of_spread(reduction, 2 * shape.rows),
                count_of_spread(reduction, 1),
                values,
                values,
                or_absent(count_of_spread(reduction, 1))};
    }
};

QMK_KERNEL(latent_dynamics_forward, LatentDynamicsForward)
QMK_KERNEL(latent_dynamics_backward, LatentDynamicsBackward)
using latent_dynamics_kernels = Kernels<latent_dynamics_forward_kernel, latent_dynamics_backward_kernel>;

}  // namespace qmk
