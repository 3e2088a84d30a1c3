// Pr[X <= Y] and Pr[X > Y] of independent Poisson counts X, Y of rates a, b >= 0, and for their derivatives
// Pr[X = Y] = e^-(a+b) I_0(z) and Pr[X = Y + 1] = e^-(a+b) sqrt(a/b) I_1(z), z = 2 sqrt(ab). Always in double.
//
//     double poisson_probability(double a, double b, PoissonComparison form);
//     PoissonDerivatives poisson_derivatives(double a, double b, PoissonComparison form);    {by_a, by_b}
//
// and, for lanes, poisson_series. All use PoissonParts: with w = (sqrt a - sqrt b)^2, each of the three is e^-w times a
// number of moderate size, so ratios and logarithms do not underflow. Of Pr[X > Y] and Pr[X <= Y] only the one that can
// be small is computed; the other, always above 0.13, is 1 minus it. Relative error below 1e-12 for w < 700.
//
// z <= 30 (in lanes 120), the series: I_k(z) = (z/2)^k / k! c_k with c_{k-1} = c_k + ab / (k (k+1)) c_{k+1}, which runs
// downwards from c = 1 at large k (Miller's method; all terms positive, nothing overflows). The same loop computes by
// Horner's rule sum_{k>=1} a^k/k! c_k for Pr[X > Y], or sum_{k>=0} b^k/k! c_k for Pr[X <= Y], and their scale
// e^z = c_0 + 2 sum_{k>=1} (z/2)^k/k! c_k. Six operations per term, 8 + 10.5 sqrt(max(z/2, rate)) terms.
//
// z > 30, asymptotic (Gil, Segura, Temme 2014, "The asymptotic and numerical inversion of the Marcum Q-function", for
// large xi = z): with rho = sqrt(a/b) and s = w / z,
//     Pr[X <= Y] = 1/2 integral_z^inf e^{-st} (rho I_0(t) - I_1(t)) e^{-t} dt for a > b,
// and Pr[X > Y] for a < b is minus that. The expansions of I_0 and I_1 for large t give terms in g_n = e^w
// E_{n+1/2}(w), where (n - 1/2) g_n = 1 - w g_{n-1}: upwards from erfc for w < 28, where w < z keeps it stable, and
// otherwise downwards from a continued fraction.
#pragma once

#include "../fields.h"
#include "elementary.h"
#include "target.h"

namespace qmk {

// Pr[X <= Y], Pr[X > Y], log Pr[X <= Y].
QMK_ENUM(PoissonComparison, le, gt, log_le)

}  // namespace qmk

namespace qmk::QMK_TARGET {

// The largest ab = (z/2)^2 of the series: z = 30 for a single pair. Pairs in lanes use it up to z = 120, where the
// series of all lanes together is still faster than asymptotic terms one by one.
constexpr double largest_series_product = 225.0, largest_product_in_lanes = 3600.0;

// 1/k for every k that the series reaches. A division takes as long as the rest of a term, so CPUs read a table.
struct Reciprocals {
    double of[96]{};
    constexpr Reciprocals() {
        for (int k = 1; k < 96; ++k) of[k] = 1.0 / k;
    }
};
constexpr Reciprocals reciprocals;

QMK_INLINE double reciprocal(int k) {
#if defined(__CUDA_ARCH__)
    return 1.0 / k;
#else
    return reciprocals.of[k];
#endif
}

// tail, equal and one_more times exp(-exponent) = scale are Pr[X > Y] (if tail_is_gt(a, b), else Pr[X <= Y]), Pr[X = Y]
// and Pr[X = Y + 1].
template <class V>
struct PoissonParts {
    V exponent, scale, tail, equal, one_more;
};

struct PoissonDerivatives {
    double by_a, by_b;
};

template <class V>
QMK_INLINE auto tail_is_gt(V a, V b) {
    return (a <= b) | (a <= 2.0);
}

// Determines the number of terms: the larger of z/2 and of the rate whose powers are summed.
template <class V>
QMK_INLINE V poisson_size(V a, V b, V half_z) {
    const V rate = tail_is_gt(a, b) ? a : b;
    return rate > half_z ? rate : half_z;
}

QMK_INLINE int poisson_terms(double size) {
    return 8 + int(10.5 * square_root(size));
}

// `count` independent pairs at once, which hides the latency of a term. a, b >= 0, ab <= largest_product_in_lanes;
// half_z = sqrt(ab).
template <int count, class V>
QMK_INLINE void poisson_series(const V* a, const V* b, const V* half_z, int terms, PoissonParts<V>* parts) {
    const V one = 1.0 - V{};
    V rate[count], product[count];
    // At the start of each round: c_k, c_{k+1} and, without their factors, the sums from k on.
    V c[count], above[count], powers[count], exponential_series[count];
    for (int i = 0; i < count; ++i) {
        rate[i] = tail_is_gt(a[i], b[i]) ? a[i] : b[i];
        product[i] = a[i] * b[i];
        c[i] = above[i] = powers[i] = exponential_series[i] = one;
    }
    double next = reciprocal(terms + 1);
    for (int k = terms; k >= 2; --k) {
        const double own = reciprocal(k), both = own * next;
        next = own;
        for (int i = 0; i < count; ++i) {
            const V below = c[i] + product[i] * both * above[i];
            above[i] = c[i];
            c[i] = below;
            powers[i] = below + rate[i] * own * powers[i];
            exponential_series[i] = below + half_z[i] * own * exponential_series[i];
        }
    }
    for (int i = 0; i < count; ++i) {
        const V c_0 = c[i] + product[i] * 0.5 * above[i], tail = rate[i] * powers[i];
        const V share = 1.0 / (c_0 + 2.0 * half_z[i] * exponential_series[i]);
        // (sqrt a - sqrt b)^2 without cancellation, and 0 for a = b = 0.
        const V difference = a[i] - b[i], rates = a[i] + b[i] + 2.0 * half_z[i];
        const V exponent = difference * (difference / (rates > 0.0 ? rates : one));
        parts[i] = {exponent, exponential(-exponent), (tail_is_gt(a[i], b[i]) ? tail : tail + c_0) * share, c_0 * share,
                    a[i] * c[i] * share};
    }
}

// a, b > 0, ab > largest_series_product.
QMK_INLINE PoissonParts<double> poisson_asymptotic(double a, double b) {
    constexpr int order = 14;
    constexpr double pi = 3.14159265358979323846;
    const double root_a = square_root(a), root_b = square_root(b), z = 2.0 * root_a * root_b, rho = root_a / root_b;
    const double difference = (a - b) / (root_a + root_b), w = difference * difference;
    const double size = difference < 0.0 ? -difference : difference, sign = a > b ? 1.0 : -1.0;

    double g[order + 1];
    double sum;  // initially the term n = 0, |rho - 1| g_0
    if (w < 28.0) {
        const double scaled_erfc = ::exp(w) * ::erfc(size);
        sum = square_root(pi) / root_b * scaled_erfc;
        g[1] = 2.0 * (1.0 - square_root(pi) * size * scaled_erfc);
        for (int n = 2; n <= order; ++n) g[n] = (1.0 - w * g[n - 1]) * (2.0 * reciprocal(2 * n - 1));
    } else {
        constexpr int depth = 14;
        const double p = order + 0.5;
        double fraction = w + p + 2.0 * depth;
        for (int j = depth; j >= 1; --j) fraction = w + p + 2.0 * (j - 1) - j * (p + j - 1) / fraction;
        g[order] = 1.0 / fraction;
        const double share = 1.0 / w;
        for (int n = order; n >= 1; --n) g[n - 1] = (1.0 - (n - 0.5) * g[n]) * share;
        sum = size / root_b * g[0];
    }
    // e^-t I_m(t) sqrt(2 pi t) = sum_n i_m[n] t^-n.
    const double eighth = 0.125 / z;
    double i_0 = 1.0, i_1 = 1.0, sum_i_0 = 1.0, sum_i_1 = 1.0;
    for (int n = 1; n <= order; ++n) {
        const double odd = 2 * n - 1, step = eighth * reciprocal(n);
        i_0 *= odd * odd * step;
        i_1 *= (odd * odd - 4.0) * step;
        sum_i_0 += i_0;
        sum_i_1 += i_1;
        sum += sign * (rho * i_0 - i_1) * g[n];
    }
    const double factor = 1.0 / square_root(2.0 * pi * z);
    return {w, ::exp(-w), 0.5 * z * factor * sum, factor * sum_i_0, factor * rho * sum_i_1};
}

// a, b >= 0 and finite.
QMK_INLINE PoissonParts<double> poisson_parts(double a, double b) {
    if (a * b > largest_series_product) return poisson_asymptotic(a, b);
    const double half_z = square_root(a * b);
    PoissonParts<double> parts;
    poisson_series<1>(&a, &b, &half_z, poisson_terms(poisson_size(a, b, half_z)), &parts);
    return parts;
}

QMK_INLINE bool is_finite_rate(double rate) {
    return rate >= 0.0 && rate <= 1.79769313486231570815e+308;
}

QMK_INLINE double not_a_number() {
    return __builtin_nan("");
}

// Both rates infinite, or one negative or NaN: the result is undefined.
QMK_INLINE bool is_undefined(double a, double b) {
    return !(a >= 0.0 && b >= 0.0) || (!is_finite_rate(a) && !is_finite_rate(b));
}

template <class V, class Mask>
QMK_INLINE V poisson_probability(PoissonParts<V> parts, Mask of_gt, PoissonComparison comparison) {
    const V tail = parts.scale * parts.tail;
    if (comparison == PoissonComparison::log_le)
        return of_gt ? log_one_plus(-tail) : logarithm(parts.tail) - parts.exponent;
    const V rest = 1.0 - tail;
    return comparison == PoissonComparison::gt ? (of_gt ? tail : rest) : (of_gt ? rest : tail);
}

QMK_INLINE double poisson_probability(double a, double b, PoissonComparison comparison) {
    if (is_undefined(a, b)) return not_a_number();
    if (is_finite_rate(a) && is_finite_rate(b))
        return poisson_probability(poisson_parts(a, b), tail_is_gt(a, b), comparison);
    const bool le = is_finite_rate(a);
    if (comparison == PoissonComparison::log_le) return le ? 0.0 : -__builtin_huge_val();
    return le == (comparison == PoissonComparison::le) ? 1.0 : 0.0;
}

// The factor of Pr[X = Y] and Pr[X = Y + 1] in the derivatives: by_a = -factor * equal, by_b = factor * one_more.
template <class V, class Mask>
QMK_INLINE V poisson_derivative_factor(PoissonParts<V> parts, Mask of_gt, PoissonComparison comparison) {
    if (comparison == PoissonComparison::log_le)
        return of_gt ? parts.scale / (1.0 - parts.scale * parts.tail) : 1.0 / parts.tail;
    return comparison == PoissonComparison::gt ? -parts.scale : parts.scale;
}

QMK_INLINE PoissonDerivatives poisson_derivatives(double a, double b, PoissonComparison comparison) {
    if (is_undefined(a, b)) return {not_a_number(), not_a_number()};
    if (is_finite_rate(a) && is_finite_rate(b)) {
        const auto parts = poisson_parts(a, b);
        const double factor = poisson_derivative_factor(parts, tail_is_gt(a, b), comparison);
        return {-factor * parts.equal, factor * parts.one_more};
    }
    // As a goes to infinity, log Pr[X <= Y] = -(sqrt a - sqrt b)^2.
    if (comparison == PoissonComparison::log_le && is_finite_rate(b)) return {-1.0, __builtin_huge_val()};
    return {0.0, 0.0};
}

}  // namespace qmk::QMK_TARGET
