// The terms of QRL's Lagrangian for one row. Source and signs: qmkernels/losses/qrl_critic.py.
#pragma once

#include <math.h>

#include "reduction.h"
#include "target.h"

namespace qmk {

QMK_ENUM(QrlCriticMultiplier, softplus, exp)

struct QrlCriticSettings {
    int64_t dim_per_component;
    Reduction reduction;
    WeightLink weight_link;
    double softplus_beta, softplus_offset;
    QrlCriticMultiplier multiplier;
    double threshold;
    QMK_SETTINGS(dim_per_component, reduction, weight_link, softplus_beta, softplus_offset, multiplier, threshold)
};

}  // namespace qmk

namespace qmk::QMK_TARGET {

// log(1 + exp(value)) and its derivative, without overflow.
template <class T>
struct Softplus {
    T value, slope;

    QMK_INLINE explicit Softplus(T at) {
        const T small = exp(at > T(0) ? -at : at);  // keeps NaN
        value = (at > T(0) ? at : T(0)) + log1p(small);
        slope = (at > T(0) ? T(1) : small) / (T(1) + small);
        if (at != at) value = slope = at;
    }
};

// A row's term in a sum, and its derivative by the row's distance.
template <class T>
struct QrlCriticTerm {
    T value, slope;
};

template <class T>
QMK_INLINE QrlCriticTerm<T> qrl_critic_push(T distance, const QrlCriticSettings& settings) {
    const T beta = T(settings.softplus_beta);
    const Softplus<T> softplus(beta * (T(settings.softplus_offset) - distance));
    return {softplus.value / beta, -softplus.slope};
}

template <class T>
QMK_INLINE QrlCriticTerm<T> qrl_critic_violation(T distance, T cost) {
    const T beyond = distance - cost;
    const T violation = beyond < T(0) ? T(0) : beyond;
    return {violation * violation, 2 * violation};
}

template <class T>
QMK_INLINE QrlCriticTerm<T> qrl_critic_multiplier(T raw, const QrlCriticSettings& settings) {
    if (settings.multiplier == QrlCriticMultiplier::exp) return {T(exp(raw)), T(exp(raw))};
    const Softplus<T> softplus(raw);
    return {softplus.value, softplus.slope};
}

// Index, among the statistics, of the derivative of the loss by the raw multiplier, which backward reads.
constexpr int qrl_critic_slope_of_raw = 5;

// Loss and statistics, from the means over all rows: push, violation, distance to the goal and to y.
template <class T>
QMK_INLINE void finish_qrl_critic(const double* means, QrlCriticTerm<T> multiplier, const QrlCriticSettings& settings,
                                  T* loss, T* stats) {
    const double excess = means[1] - settings.threshold;
    *loss = T(means[0] + double(multiplier.value) * excess);
    stats[0] = T(means[0]);
    stats[1] = T(means[1]);
    stats[2] = multiplier.value;
    stats[3] = T(means[2]);
    stats[4] = T(means[3]);
    stats[qrl_critic_slope_of_raw] = T(-double(multiplier.slope) * excess);
}

}  // namespace qmk::QMK_TARGET
