// METRA's constraint for one row, or for a vector of rows. Source and signs: qmkernels/losses/metra.py.
#pragma once

#include <math.h>

#include "../fields.h"
#include "target.h"

namespace qmk {

QMK_ENUM(MetraNorm, sum, mean)

struct MetraSettings {
    double slack;
    MetraNorm norm;
    QMK_SETTINGS(slack, norm)
};

struct MetraShape {
    int64_t rows, dim;
    QMK_FIELDS(rows, dim)
};

}  // namespace qmk

namespace qmk::QMK_TARGET {

template <class V>
struct MetraTerm {
    V squared, constraint, slope;
};

// The constants shared by all rows. `slope` is that of a row whose constraint is below the slack.
template <class T>
struct MetraConstraint {
    T slack, divisor, multiplier, slope;

    QMK_INLINE MetraConstraint(T log_multiplier, MetraShape shape, MetraSettings settings)
        : slack(T(settings.slack)),
          divisor(settings.norm == MetraNorm::mean ? T(shape.dim) : T(1)),
          multiplier(T(exp(log_multiplier))),
          slope(T(2) * multiplier / (T(shape.rows) * divisor)) {}

    // Keeps NaN, which has no slope.
    template <class V>
    QMK_INLINE MetraTerm<V> operator()(V sum_of_squares) const {
        const V squared = sum_of_squares / divisor, room = T(1) - squared, zero{};
        const auto has_slope = room <= slack;
        const auto is_room = has_slope | (room != room);
        return {squared, is_room ? room : slack - zero, has_slope ? slope - zero : zero};
    }

    // The loss, from the means over all rows.
    QMK_INLINE T loss(double reward, double constraint, T log_multiplier) const {
        return T(-reward - double(multiplier) * constraint + double(log_multiplier) * constraint);
    }
};

// The derivatives of the loss by phi_next, which is minus that by phi, and by the skill, at one coordinate.
template <class V>
struct MetraGradient {
    V next, skill;
};

// `slope` is the row's and `share` 1 / rows, both times the gradient of the loss.
template <class V, class T>
QMK_INLINE MetraGradient<V> metra_gradient(V phi, V phi_next, V skill, T slope, T share) {
    const V step = phi_next - phi;
    return {slope * step - share * skill, -share * step};
}

}  // namespace qmk::QMK_TARGET
