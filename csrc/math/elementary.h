// exp, expm1 and sqrt for a number or a vector of lanes; C++ has them for numbers alone.
//
// Exponentials are of numbers that are at most 0: x = k log 2 + r with |r| <= log(2) / 2, exp(x) = 2^k + 2^k expm1(r),
// expm1(r) = r + r^2 q(r), q fitted for the least largest error (float: 1.4e-9, double: 1.1e-16). Errors: at most about
// one unit in the last place of exp; of expm1 two, also where x, and so expm1(x), is tiny. Fifteen operations (float).
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
// Below `lowest`, 2^k is no normal number and exp counts as 0.
template <>
struct ExponentialConstants<float> {
    static constexpr float magic = 0x1.8p23f, log2_high = 0x1.62e4p-1f, log2_low = 0x1.7f7d1cp-20f, lowest = -87.0f;
    static constexpr int32_t one_bits = 0x3f800000, mantissa_bits = 23;
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
                            lowest = -708.0;
    static constexpr int64_t one_bits = 0x3ff0000000000000, mantissa_bits = 52;
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

// `Bits` is an integer, or a vector of integers, of V's size. NaN gives NaN.
template <class T, class Bits, class V>
QMK_INLINE Exponential<T, V> exponential_of_nonpositive(V x) {
    using C = ExponentialConstants<T>;
    const V zero{};
    const auto vanishes = x < C::lowest;
    const V shifted = x * T(1.44269504088896340736) + C::magic;
    const V k = shifted - C::magic;
    const V r = (x - k * C::log2_high) - k * C::log2_low;
    const V expm1 = r + r * r * C::template quotient<V>(r);
    const Bits bits = (from_bits<Bits>(shifted) << C::mantissa_bits) + C::one_bits;
    const V power = vanishes ? zero : from_bits<V>(bits);
    return {power, vanishes ? zero : power * expm1};
}

QMK_INLINE double exponential(double x) {
    return ::exp(x);
}

QMK_INLINE double square_root(double x) {
    return ::sqrt(x);
}

#if !defined(__CUDACC__)
template <class V>
QMK_INLINE V exponential(V x) {
    return exponential_of_nonpositive<double, decltype(x < x)>(x).value();
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
#endif

}  // namespace qmk::QMK_TARGET
