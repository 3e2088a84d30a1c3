// exp, expm1, log, log1p and sqrt for a number or a vector of lanes; C++ has them only for numbers.
//
// All exponentials but one take numbers of at most 0: x = k log 2 + r with |r| <= log(2) / 2, exp(x) = 2^k +
// 2^k expm1(r), expm1(r) = r + r^2 q(r), with q fitted for the smallest maximum error (float: 1.4e-9, double: 1.1e-16).
// Errors are at most about one unit in the last place for exp, and two for expm1, even where x, and so expm1(x), is
// tiny. Fifteen operations (float).
//
// Logarithms, in double, are those of fdlibm: x = 2^k (1 + f), log(1 + f) from powers of (f / (2 + f))^2.
#pragma once

#include "target.h"

#if !defined(__CUDACC__)
#include <cmath>
#if defined(__x86_64__)
#include <immintrin.h>
#endif
#endif

namespace qmk::QMK_TARGET {

template <class T>
struct ExponentialConstants;

// log_2 = high + low; high has so few bits that k * high is exact. magic + k holds the integer k in its lowest bits.
// Below `lowest`, 2^k is not a normal number and exp counts as 0; at `highest`, exp exceeds the largest number.
template <>
struct ExponentialConstants<float> {
    static constexpr float magic = 0x1.8p23f, log2_high = 0x1.62e4p-1f, log2_low = 0x1.7f7d1cp-20f, lowest = -87.33f,
                           highest = 88.8f;
    using Word = uint32_t;
    static constexpr Word one_bits = 0x3f800000;
    static constexpr int mantissa_bits = 23;
    template <class V>
    QMK_INLINE static V quotient(V r) {
        V q = r * 0.00019891010f + 0.0013933669f;
        q = q * r + 0.0083333109f;
        q = q * r + 0.041666465f;
        q = q * r + 0.16666667f;
        return q * r + 0.5f;
    }
};
template <>
struct ExponentialConstants<double> {
    static constexpr double magic = 0x1.8p52, log2_high = 0x1.62e42fee00000p-1, log2_low = 1.9082149292705877e-10,
                            lowest = -708.39, highest = 709.8;
    using Word = uint64_t;
    static constexpr Word one_bits = 0x3ff0000000000000;
    static constexpr int mantissa_bits = 52;
    template <class V>
    QMK_INLINE static V quotient(V r) {
        V q = r * 2.5100405504139374e-8 + 2.7620114464068776e-7;
        q = q * r + 2.7557268417923026e-6;
        q = q * r + 2.4801521241242649e-5;
        q = q * r + 1.9841269863080701e-4;
        q = q * r + 1.3888888917248935e-3;
        q = q * r + 8.3333333333300564e-3;
        q = q * r + 4.1666666666624057e-2;
        q = q * r + 1.6666666666666667e-1;
        return q * r + 0.5;
    }
};

// exp(x) = power + rest. T is the type of V's numbers.
template <class T, class V>
struct Exponential {
    V power, rest;

    QMK_INLINE V value() const { return power + rest; }
    // 1 - exp(x), exactly 0 for x = 0.
    QMK_INLINE V one_minus() const { return (T(1) - power) - rest; }
};

template <class V, class Bits>
QMK_INLINE V from_bits(Bits bits) {
    V value;
    __builtin_memcpy(&value, &bits, sizeof(V));
    return value;
}

// The bits of a V as an unsigned integer, or a vector of them, so that arithmetic on unused results wraps around.
template <class T, class V>
struct Words;
template <class T>
struct Words<T, T> {
    using Type = typename ExponentialConstants<T>::Word;
};
#if !defined(__CUDACC__)
template <class T, class V>
struct Words {
    typedef typename ExponentialConstants<T>::Word Type __attribute__((vector_size(sizeof(V))));
};
#endif

// NaN gives NaN. With `halvings`, the exponential is halved that many times.
template <class T, int halvings = 0, class V>
QMK_INLINE Exponential<T, V> exponential_of_nonpositive(V x) {
    using C = ExponentialConstants<T>;
    const V zero{};
    const auto vanishes = x < C::lowest;
    const V shifted = x * T(1.44269504088896340736) + C::magic;
    const V k = shifted - C::magic;
    const V r = (x - k * C::log2_high) - k * C::log2_low;
    const V expm1 = r + r * r * C::template quotient<V>(r);
    using Bits = typename Words<T, V>::Type;
    const Bits bits = (from_bits<Bits>(shifted) << C::mantissa_bits) +
                      (C::one_bits - (typename C::Word(halvings) << C::mantissa_bits));
    const V power = vanishes ? zero : from_bits<V>(bits);
    return {power, vanishes ? zero : power * expm1};
}

// The exponential of any number, infinity if too large. It computes half of it first, because 2^k may overflow earlier.
template <class T, class V>
QMK_INLINE V exponential_of_any(V x) {
    const V most = ExponentialConstants<T>::highest - V{};
    return 2 * exponential_of_nonpositive<T, 1>(x > most ? most : x).value();
}

QMK_INLINE double exponential(double x) {
    return ::exp(x);
}

QMK_INLINE double square_root(double x) {
    return ::sqrt(x);
}

QMK_INLINE double logarithm(double x) {
    return ::log(x);
}

QMK_INLINE double log_one_plus(double x) {
    return ::log1p(x);
}

#if !defined(__CUDACC__)
template <class V>
QMK_INLINE V exponential(V x) {
    return exponential_of_nonpositive<double>(x).value();
}

template <class V>
QMK_INLINE V square_root(V x) {
#if defined(__AVX512F__)
    if constexpr (sizeof(V) == 64) return (V)_mm512_maskz_sqrt_pd(0xff, (__m512d)x);
#endif
#if defined(__AVX__)
    if constexpr (sizeof(V) == 32) return (V)_mm256_sqrt_pd((__m256d)x);
#endif
#if defined(__SSE2__)
    if constexpr (sizeof(V) == 16) return (V)_mm_sqrt_pd((__m128d)x);
#endif
    for (unsigned lane = 0; lane < sizeof(V) / sizeof(double); ++lane) x[lane] = __builtin_sqrt(x[lane]);
    return x;
}

// The logarithm of normal positive numbers.
template <class V>
QMK_INLINE V logarithm(V x) {
    using Bits = typename Words<double, V>::Type;
    // The bits of sqrt(1/2), chosen so that removing the exponent leaves 1 + f in [sqrt(1/2), sqrt(2)).
    const Bits bits = from_bits<Bits>(x), root_half = 0x3fe6a09e667f3bcd - Bits{};
    const Bits exponent = from_bits<Bits>(from_bits<decltype(x < x)>(bits - root_half) >> 52);  // keeps the sign
    const V f = from_bits<V>(bits - (exponent << 52)) - 1.0;
    // exponent + magic through bits, because conversions of 64-bit integers need AVX-512.
    const V magic = 0x1.8p52 - V{};
    const V k = from_bits<V>(from_bits<Bits>(magic) + exponent) - magic;
    const V s = f / (2.0 + f), z = s * s, half_square = 0.5 * f * f;
    V r = z * 0.14798198605116586 + 0.15313837699209373;
    r = r * z + 0.1818357216161805;
    r = r * z + 0.22222198432149784;
    r = r * z + 0.2857142874366239;
    r = r * z + 0.3999999999940942;
    r = (r * z + 0.6666666666666735) * z;
    using C = ExponentialConstants<double>;
    return k * C::log2_high - ((half_square - (s * (half_square + r) + k * C::log2_low)) - f);
}

// log(1 + x) for normal numbers above -1, and 0.
template <class V>
QMK_INLINE V log_one_plus(V x) {
    const V sum = 1.0 + x;
    return logarithm(sum) + (x - (sum - 1.0)) / sum;
}
#endif

}  // namespace qmk::QMK_TARGET
