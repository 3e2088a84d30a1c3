// iQRL's temporal consistency for one row: its cosine and the factors of its gradient, from three sums. Source:
// qmkernels/losses/temporal_consistency.py.
#pragma once

#include <math.h>

#include "target.h"

namespace qmk::QMK_TARGET {

// Sums over a row of predicted p and target t: p t, p p and t t. T is a number, or a register of them.
template <class T>
struct CosineSums {
    T dot{}, predicted{}, target{};

    QMK_INLINE void add(T p, T t) {
        dot += p * t;
        predicted += p * p;
        target += t * t;
    }
};

// The gradient by p is by_target * t + by_predicted * p.
template <class T>
struct CosineSlopes {
    T cosine, by_target, by_predicted;
};

// Norms below this count as this but keep their derivative, as in torch.
constexpr double cosine_eps = 1e-8;

// weight: of the row's loss, 1 - cosine.
template <class T>
QMK_INLINE CosineSlopes<T> cosine_slopes(const CosineSums<T>& sums, T weight) {
    const auto at_least_eps = [](T norm) { return norm < T(cosine_eps) ? T(cosine_eps) : norm; };  // keeps NaN
    const T norm = T(sqrt(sums.predicted)), length = at_least_eps(norm);
    const T lengths = length * at_least_eps(T(sqrt(sums.target)));
    const T cosine = sums.dot / lengths;
    return {cosine, -weight / lengths, norm == T(0) ? T(0) : weight * cosine / (length * norm)};
}

}  // namespace qmk::QMK_TARGET
