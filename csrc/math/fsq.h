// Finite scalar quantisation of one value, or of a vector of lanes: the digit is tanh(z + shift) * half - offset,
// rounded half to even; the code is digit / width. `Bits` is a signed integer, or a vector of them, of V's size.
//
// tanh |u| = (1 - e) / (1 + e) with e = exp(-2 |u|), to some three units in the last place; its derivative is
// 4 e / (1 + e)^2, with the same relative accuracy however small. About forty operations, two of them divisions.
#pragma once

#include "elementary.h"

namespace qmk {

// The product of the levels, each at least 2, is below 2^63.
constexpr int most_fsq_levels = 62;

}  // namespace qmk

namespace qmk::QMK_TARGET {

template <class V>
struct FsqConstants {
    V shift, half, offset, width;
};

// The constants of a value with `count` levels, 2 to 1000: with more, the outermost would round to a missing level.
template <class T>
QMK_INLINE FsqConstants<T> fsq_constants(int64_t count) {
    const double half = double(count - 1) * (1.0 + 1e-3) / 2.0, offset = count % 2 == 0 ? 0.5 : 0.0;
    return {T(::atanh(offset / half)), T(half), T(offset), T(double(count / 2))};
}

// A level is the digit counted from 0; -1 for NaN, whose code is NaN.
template <class V, class Bits>
struct FsqResult {
    V code;
    Bits level;
};

template <class T, class V>
QMK_INLINE Exponential<T, V> fsq_exponential(V u) {
    return exponential_of_nonpositive<T>(u < V{} ? u + u : -(u + u));
}

template <class T, class Bits, class V>
QMK_INLINE FsqResult<V, Bits> fsq_quantised(V z, FsqConstants<V> constants) {
    const V u = z + constants.shift;
    const auto e = fsq_exponential<T>(u);
    const V size = e.one_minus() / (T(1) + e.value());
    const V bounded = (u < V{} ? -size : size) * constants.half - constants.offset;
    // magic + k holds the integer k in its lowest bits, and the addition rounds half to even.
    const V magic = ExponentialConstants<T>::magic - V{}, shifted = bounded + magic;
    const Bits level = from_bits<Bits>(V(shifted + constants.width)) - from_bits<Bits>(magic);
    return {(shifted - magic) / constants.width, bounded == bounded ? level : Bits{} - 1};
}

// d code / d z, with the rounding treated as the identity.
template <class T, class V>
QMK_INLINE V fsq_slope(V z, FsqConstants<V> constants) {
    const V e = fsq_exponential<T>(V(z + constants.shift)).value(), sum = T(1) + e;
    return T(4) * constants.half * e / (constants.width * sum * sum);
}

}  // namespace qmk::QMK_TARGET
