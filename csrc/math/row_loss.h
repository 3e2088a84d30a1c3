// The term of one row in a loss of distances and targets, and its derivative by the distance. Source:
// qmkernels/definitions/row_loss.py.
#pragma once

#include <math.h>

#include <cstdint>

#include "../fields.h"
#include "target.h"

namespace qmk {

QMK_ENUM(RowLossForm, smooth_l1, squared, relative, upper, apart, expectile)

struct RowLossSettings {
    RowLossForm form;
    double beta, power, expectile, huber_delta;
    QMK_SETTINGS(form, beta, power, expectile, huber_delta)
};

}  // namespace qmk

namespace qmk::QMK_TARGET {

template <class T>
struct RowLossTerm {
    T value, slope;
};

// 1 or -1; 0 and NaN are themselves.
template <class T>
QMK_INLINE T sign_of(T error) {
    return error > T(0) ? T(1) : error < T(0) ? T(-1) : error;
}

// The target of a row, NaN if the form does not take it.
template <class T>
QMK_INLINE T valid_row_target(T target, RowLossForm form) {
    return target < T(0) || (target == T(0) && form == RowLossForm::relative) ? T(__builtin_nan("")) : target;
}

// NaN in either number gives NaN in both results.
template <class T>
QMK_INLINE RowLossTerm<T> row_loss_term(T distance, T target, const RowLossSettings& settings) {
    const T error = distance - target, size = fabs(error);
    switch (settings.form) {
        case RowLossForm::smooth_l1: {
            const T beta = T(settings.beta);
            if (size < beta) return {T(0.5) * error * error / beta, error / beta};
            return {size - T(0.5) * beta, sign_of(error)};
        }
        case RowLossForm::squared:
            return {error * error, 2 * error};
        case RowLossForm::relative: {
            const T ratio = distance / target - T(1);
            return {ratio * ratio, 2 * ratio / target};
        }
        case RowLossForm::upper: {
            const T beyond = error < T(0) ? T(0) : error;
            return {beyond * beyond, 2 * beyond};
        }
        case RowLossForm::apart: {
            const T short_of = error > T(0) ? T(0) : -error, power = T(settings.power);
            if (power == T(1)) return {short_of, -sign_of(short_of)};
            if (power == T(2)) return {short_of * short_of, -2 * short_of};
            return {T(pow(short_of, power)), -power * T(pow(short_of, power - T(1)))};
        }
        default: {
            const T weight = T(fabs(settings.expectile - (target > distance ? 1.0 : 0.0)));
            const T delta = T(settings.huber_delta);
            if (!(delta > T(0))) return {weight * error * error, 2 * weight * error};
            if (size <= delta) return {weight * T(0.5) * error * error, weight * error};
            return {weight * delta * (size - T(0.5) * delta), weight * delta * sign_of(error)};
        }
    }
}

// Sums over the rows kept: of weighted terms, distances, targets, and distances below their target.
constexpr int num_row_loss_sums = 4;

// Adds one of `count` rows to the sums; returns the derivative of the loss by its distance.
template <class T>
QMK_INLINE T add_row(T distance, T target, T weight, double count, const RowLossSettings& settings, double* sums) {
    target = valid_row_target(target, settings.form);
    const RowLossTerm<T> term = row_loss_term(distance, target, settings);
    sums[0] += double(term.value * weight);
    sums[1] += double(distance);
    sums[2] += double(target);
    sums[3] += distance < target ? 1 : 0;
    return term.slope * weight / T(count);
}

// Loss and statistics from these sums.
template <class T>
QMK_INLINE void finish_row_loss(const double* sums, double count, T* loss, T* stats) {
    *loss = T(sums[0] / count);
    for (int i = 1; i < num_row_loss_sums; ++i) stats[i - 1] = T(sums[i] / count);
}

}  // namespace qmk::QMK_TARGET
