// QRL's critic loss with an IQE head: its kernels' arguments. Their contents:
// qmkernels/backends/reference/qrl_critic.py. Null if absent: goal if goals are y rolled by a row, max_weight and
// spread unless the reduction is maxmean, largest for reductions without a maximum.
#pragma once

#include "../math/qrl_critic.h"
#include "../signature.h"

namespace qmk {

struct QrlCriticShape {
    int64_t rows, num_components;
    QMK_FIELDS(rows, num_components)
    int64_t values(int64_t dim_per_component) const { return rows * num_components * dim_per_component; }
    int64_t ends(int64_t dim_per_component) const {
        return bytes_of_ends(2 * rows * num_components, dim_per_component);
    }
};

template <class T>
struct QrlCriticForward {
    Stored<const T> x, y, goal;
    const T *max_weight, *raw, *cost;
    int64_t num_costs;  // 1, or one per row
    T *loss, *stats, *slopes;
    uint8_t* ends;
    int32_t* largest;
    T* spread;
    void* scratch;
    QrlCriticShape shape;
    QrlCriticSettings settings;
    QMK_FIELDS(x, y, goal, max_weight, raw, cost, num_costs, loss, stats, slopes, ends, largest, spread, shape,
               settings)
    Sizes sizes() const {
        if (num_costs != 1 && num_costs != shape.rows) return {};
        const int64_t values = shape.values(settings.dim_per_component);
        return {values,
                values,
                or_absent(values),
                count_of_spread(settings.reduction, 1),
                1,
                num_costs,
                1,
                QMK_TARGET::qrl_critic_slope_of_raw + 1,
                2 * shape.rows,
                shape.ends(settings.dim_per_component),
                count_of_largest(settings.reduction, 2 * shape.rows),
                count_of_spread(settings.reduction, 2 * shape.rows)};
    }
};

template <class T>
struct QrlCriticBackward {
    const T *grad_loss, *stats, *slopes;
    const uint8_t* ends;
    const int32_t* largest;
    const T *spread, *max_weight;
    Stored<T> grad_x, grad_y, grad_goal;
    T *grad_max_weight, *grad_raw;
    QrlCriticShape shape;
    int64_t dim_per_component;
    Reduction reduction;
    WeightLink weight_link;
    QMK_FIELDS(grad_loss, stats, slopes, ends, largest, spread, max_weight, grad_x, grad_y, grad_goal, grad_max_weight,
               grad_raw, shape, dim_per_component, reduction, weight_link)
    Sizes sizes() const {
        const int64_t values = shape.values(dim_per_component);
        return {1,
                QMK_TARGET::qrl_critic_slope_of_raw + 1,
                2 * shape.rows,
                shape.ends(dim_per_component),
                count_of_largest(reduction, 2 * shape.rows),
                count_of_spread(reduction, 2 * shape.rows),
                count_of_spread(reduction, 1),
                values,
                values,
                or_absent(values),
                or_absent(count_of_spread(reduction, 1)),
                1};
    }
};

QMK_KERNEL(qrl_critic_forward, QrlCriticForward)
QMK_KERNEL(qrl_critic_backward, QrlCriticBackward)
using qrl_critic_kernels = Kernels<qrl_critic_forward_kernel, qrl_critic_backward_kernel>;

}  // namespace qmk
