// The arithmetic of one MRN component: the largest of its asymmetric differences and a root of its symmetric squares.
// qmkernels/definitions/mrn.py defines the forms and the place of eps.
#pragma once

#include <math.h>

#include <cstdint>

#include "../fields.h"
#include "target.h"

namespace qmk {

QMK_ENUM(MrnAsymmetric, first, second, none)
QMK_ENUM(MrnSquares, sum, mean)
QMK_ENUM(MrnEps, add, max, difference)
QMK_ENUM(MrnReduction, none, sum, mean)

struct MrnSettings {
    int64_t num_components;
    MrnAsymmetric asymmetric;
    MrnSquares squares;
    double exponent;
    double eps;
    MrnEps eps_form;
    MrnReduction reduction;
    double scale;
    QMK_SETTINGS(num_components, asymmetric, squares, exponent, eps, eps_form, reduction, scale)
};

}  // namespace qmk

namespace qmk::QMK_TARGET {

// A run of neighbouring values of a component.
struct MrnPart {
    int64_t begin, end;
};

QMK_INLINE MrnPart mrn_asymmetric_part(const MrnSettings& settings, int64_t size) {
    if (settings.asymmetric == MrnAsymmetric::none) return {0, 0};
    return settings.asymmetric == MrnAsymmetric::first ? MrnPart{0, size / 2} : MrnPart{size / 2, size};
}

QMK_INLINE MrnPart mrn_symmetric_part(const MrnSettings& settings, int64_t size) {
    if (settings.asymmetric == MrnAsymmetric::none) return {0, size};
    return settings.asymmetric == MrnAsymmetric::first ? MrnPart{size / 2, size} : MrnPart{0, size / 2};
}

// The contribution of a component to the distance.
template <class T>
QMK_INLINE T mrn_component_weight(const MrnSettings& settings) {
    return T(settings.reduction == MrnReduction::mean ? settings.scale / double(settings.num_components)
                                                      : settings.scale);
}

// The number added to a symmetric difference before it is squared.
template <class T>
QMK_INLINE T mrn_shift(const MrnSettings& settings) {
    return settings.eps_form == MrnEps::difference ? T(settings.eps) : T(0);
}

// Roots and powers of numbers; csrc/cpu/roots.h has them for lanes, csrc/cuda/mrn_head.cuh for float on a GPU.
template <class V>
struct Roots {
    QMK_INLINE static V square_root(V value) { return sqrt(value); }
    QMK_INLINE static V over_square_root(V numerator, V value) { return numerator / sqrt(value); }
    QMK_INLINE static V power(V base, V exponent) { return pow(base, exponent); }
};

// What a component takes of its squares. Code for many sums tests it once.
enum class MrnForm { nothing, root, squares, power };

// Turns the sum of a component's squares into its symmetric part. V is T or lanes of T.
template <class T>
class MrnRoot {
  public:
    QMK_INLINE MrnRoot(const MrnSettings& settings, int64_t size)
        : share_(T(1)), added_(T(0)), least_(T(0)), exponent_(T(settings.exponent)) {
        const MrnPart part = mrn_symmetric_part(settings, size);
        exists_ = part.end > part.begin;
        if (settings.squares == MrnSquares::mean && exists_) share_ = T(1) / T(part.end - part.begin);
        if (settings.eps_form == MrnEps::add) added_ = T(settings.eps);
        if (settings.eps_form == MrnEps::max) least_ = T(settings.eps);
    }

    QMK_INLINE MrnForm form() const {
        if (!exists_) return MrnForm::nothing;
        return exponent_ == T(1) ? MrnForm::root : exponent_ == T(2) ? MrnForm::squares : MrnForm::power;
    }

    template <class V>
    QMK_INLINE V value(V sum) const {
        return value(sum, form());
    }
    template <class V>
    QMK_INLINE V value(V sum, MrnForm form) const {
        if (form == MrnForm::nothing) return V{};
        const V squares = sum * share_ + added_, least = V{} + least_;
        const V base = squares < least ? least : squares;
        if (form == MrnForm::root) return Roots<V>::square_root(base);
        return form == MrnForm::squares ? base : Roots<V>::power(base, V{} + exponent_ / 2);
    }

    // The derivative by a (shifted) difference, divided by that difference; 0 where the value does not depend on the
    // sum.
    template <class V>
    QMK_INLINE V slope(V sum) const {
        return slope(sum, form());
    }
    template <class V>
    QMK_INLINE V slope(V sum, MrnForm form) const {
        if (form == MrnForm::nothing) return V{};
        const V squares = sum * share_ + added_, all = V{} + exponent_ * share_;
        V slope = all;
        if (form == MrnForm::root)
            slope = Roots<V>::over_square_root(all, squares);
        else if (form == MrnForm::power)
            slope = all * Roots<V>::power(squares, V{} + (exponent_ / 2 - 1));
        return squares <= V{} + least_ ? V{} : slope;  // keeps NaN
    }

  private:
    T share_, added_, least_, exponent_;
    bool exists_;
};

// The largest difference so far, at least 0, NaN after a NaN difference. If all differences are known to be numbers,
// `maximum` of math/iqe.h does the same in one operation.
template <class V>
QMK_INLINE V largest_or_nan(V largest, V difference) {
    const V greater = difference > largest ? difference : largest;
    return difference != difference ? difference : greater;
}

}  // namespace qmk::QMK_TARGET
