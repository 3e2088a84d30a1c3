// Pr[X <= Y] and Pr[X > Y] of independent Poisson counts X, Y of rates a, b >= 0, and what their derivatives are made of,
// Pr[X = Y] = e^-(a+b) I_0(z) and Pr[X = Y + 1] = e^-(a+b) sqrt(a/b) I_1(z), z = 2 sqrt(ab). Always in double.
//
//     double poisson_probability(double a, double b, PoissonForm form);
//     PoissonDerivatives poisson_derivatives(double a, double b, PoissonForm form);    {by_a, by_b}
//
// and, for lanes, poisson_series. All come from PoissonParts: with w = (sqrt a - sqrt b)^2, each of the three is e^-w
// times a number of moderate size, so ratios and logarithms do not underflow. Only one of Pr[X > Y] and Pr[X <= Y] is
// computed, the one that can be small; the other, always above 0.13, is 1 minus it. Relative error below 1e-12 where
// w < 700.
//
// z <= 30, the series: I_k(z) = (z/2)^k / k! c_k with c_{k-1} = c_k + ab / (k (k+1)) c_{k+1}, which runs downwards from
// c = 1 at large k (Miller's method; all terms positive, nothing overflows). In the same loop by Horner's rule
// sum_{k>=1} a^k/k! c_k for Pr[X > Y], or sum_{k>=0} b^k/k! c_k for Pr[X <= Y], and e^z = c_0 + 2 sum_{k>=1} (z/2)^k/k! c_k,
// which scales them. Six operations a term, 8 + 10.5 sqrt(max(z/2, rate)) terms.
//
// z > 30, asymptotic (Gil, Segura, Temme 2014, "The asymptotic and numerical inversion of the Marcum Q-function", for
// large xi = z): with rho = sqrt(a/b) and s = w / z, Pr[X <= Y] = 1/2 integral_z^inf e^{-st} (rho I_0 - I_1)(t) e^{-t} dt
// for a > b, minus that for Pr[X > Y] and a < b. The expansions of I_0 and I_1 for large t give terms in
// g_n = e^w E_{n+1/2}(w), where (n - 1/2) g_n = 1 - w g_{n-1}: upwards from erfc for w < 28, where w < z keeps it stable,
// and downwards from a continued fraction beyond.
#pragma once

#include "elementary.h"
#include "target.h"

namespace qmk {

// The order is that of reference/poisson.py's FORMS: Pr[X <= Y], Pr[X > Y], log Pr[X <= Y].
enum class PoissonForm : int { le, gt, log_le };

}  // namespace qmk

namespace qmk::QMK_TARGET {

constexpr double largest_series_argument = 30.0;

// 1/k for every k that the series reaches. A division takes as long as all else of a term, so CPUs read a table.
struct Reciprocals {
    double of[64]{};
    constexpr Reciprocals() {
        for (int k = 1; k < 64; ++k) of[k] = 1.0 / k;
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

// tail, equal and one_more times exp(-exponent) = scale: Pr[X > Y] (where tail_is_gt(a, b), else Pr[X <= Y]), Pr[X = Y]
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

// sqrt(a) - sqrt(b) without cancellation; `sum` is sqrt(a) + sqrt(b).
template <class V>
QMK_INLINE V difference_of_roots(V a, V b, V sum) {
    return (a - b) / (sum > 0.0 ? sum : sum + 1.0);
}

// What decides the number of terms: the larger of z/2 and of the rate whose powers are summed.
template <class V>
QMK_INLINE V poisson_size(V a, V b, V half_z) {
    const V rate = tail_is_gt(a, b) ? a : b;
    return rate > half_z ? rate : half_z;
}

QMK_INLINE int poisson_terms(double size) {
    return 8 + int(10.5 * square_root(size));
}

// a, b >= 0, 2 sqrt(ab) <= largest_series_argument; half_z = sqrt(a) sqrt(b), sum = sqrt(a) + sqrt(b).
template <class V>
QMK_INLINE PoissonParts<V> poisson_series(V a, V b, V half_z, V sum, int terms) {
    const auto of_gt = tail_is_gt(a, b);
    const V rate = of_gt ? a : b, product = a * b, one = 1.0 - V{};
    // At the head of the loop: c_k, c_{k+1} and, each without its factor, the sums from k on.
    V c = one, above = one, powers = one, exponential_series = one;
    for (int k = terms; k >= 2; --k) {
        const V below = c + product * (reciprocal(k) * reciprocal(k + 1)) * above;
        above = c;
        c = below;
        powers = c + rate * reciprocal(k) * powers;
        exponential_series = c + half_z * reciprocal(k) * exponential_series;
    }
    const V c_0 = c + product * 0.5 * above;
    const V tail = rate * powers, total = c_0 + 2.0 * half_z * exponential_series;
    const V difference = difference_of_roots(a, b, sum), exponent = difference * difference;
    const V share = 1.0 / total;
    return {exponent, exponential(-exponent), (of_gt ? tail : tail + c_0) * share, c_0 * share, a * c * share};
}

// a, b > 0, 2 sqrt(ab) > largest_series_argument.
QMK_INLINE PoissonParts<double> poisson_asymptotic(double a, double b) {
    constexpr int order = 14;
    constexpr double pi = 3.14159265358979323846;
    const double root_a = square_root(a), root_b = square_root(b), z = 2.0 * root_a * root_b, rho = root_a / root_b;
    const double difference = difference_of_roots(a, b, root_a + root_b), w = difference * difference;
    const double size = difference < 0.0 ? -difference : difference, sign = a > b ? 1.0 : -1.0;

    double g[order + 1];
    double sum;  // at first the term n = 0, |rho - 1| g_0
    if (w < 28.0) {
        const double scaled_erfc = ::exp(w) * ::erfc(size);
        sum = square_root(pi) / root_b * scaled_erfc;
        g[1] = 2.0 * (1.0 - square_root(pi) * size * scaled_erfc);
        for (int n = 2; n <= order; ++n) g[n] = (1.0 - w * g[n - 1]) / (n - 0.5);
    } else {
        constexpr int depth = 14;
        const double p = order + 0.5;
        double fraction = w + p + 2.0 * depth;
        for (int j = depth; j >= 1; --j) fraction = w + p + 2.0 * (j - 1) - j * (p + j - 1) / fraction;
        g[order] = 1.0 / fraction;
        for (int n = order; n >= 1; --n) g[n - 1] = (1.0 - (n - 0.5) * g[n]) / w;
        sum = size / root_b * g[0];
    }
    // e^-t I_m(t) sqrt(2 pi t) = sum_n i_m[n] t^-n.
    double i_0 = 1.0, i_1 = 1.0, sum_i_0 = 1.0, sum_i_1 = 1.0;
    for (int n = 1; n <= order; ++n) {
        const double odd = 2 * n - 1, divisor = 1.0 / (8 * n * z);
        i_0 *= odd * odd * divisor;
        i_1 *= (odd * odd - 4.0) * divisor;
        sum_i_0 += i_0;
        sum_i_1 += i_1;
        sum += sign * (rho * i_0 - i_1) * g[n];
    }
    const double factor = 1.0 / square_root(2.0 * pi * z);
    return {w, ::exp(-w), 0.5 * z * factor * sum, factor * sum_i_0, factor * rho * sum_i_1};
}

QMK_INLINE PoissonParts<double> poisson_parts(double a, double b) {
    const double root_a = square_root(a), root_b = square_root(b), half_z = root_a * root_b;
    if (2.0 * half_z > largest_series_argument) return poisson_asymptotic(a, b);
    return poisson_series(a, b, half_z, root_a + root_b, poisson_terms(poisson_size(a, b, half_z)));
}

// Rates that are finite and at least 0: everything but what poisson_probability and poisson_derivatives treat apart.
template <class V>
QMK_INLINE auto is_finite_rate(V rate) {
    return (rate >= 0.0) & (rate <= 1.79769313486231570815e+308);
}

QMK_INLINE double not_a_number() {
    return __builtin_nan("");
}

// Both rates infinite, or one negative or NaN: nothing can be said.
QMK_INLINE bool is_undefined(double a, double b) {
    return !(a >= 0.0 && b >= 0.0) || (!is_finite_rate(a) && !is_finite_rate(b));
}

QMK_INLINE double poisson_probability(PoissonParts<double> parts, bool of_gt, PoissonForm form) {
    const double tail = parts.scale * parts.tail;
    if (form == PoissonForm::log_le) return of_gt ? ::log1p(-tail) : ::log(parts.tail) - parts.exponent;
    return of_gt == (form == PoissonForm::gt) ? tail : 1.0 - tail;
}

QMK_INLINE double poisson_probability(double a, double b, PoissonForm form) {
    if (is_undefined(a, b)) return not_a_number();
    if (is_finite_rate(a) && is_finite_rate(b))
        return poisson_probability(poisson_parts(a, b), tail_is_gt(a, b), form);
    const bool le = is_finite_rate(a);
    if (form == PoissonForm::log_le) return le ? 0.0 : -__builtin_huge_val();
    return le == (form == PoissonForm::le) ? 1.0 : 0.0;
}

// By how much Pr[X = Y] and Pr[X = Y + 1] count in the derivatives: by_a = -factor * equal, by_b = factor * one_more.
template <class V, class Mask>
QMK_INLINE V poisson_derivative_factor(PoissonParts<V> parts, Mask of_gt, PoissonForm form) {
    if (form == PoissonForm::log_le)
        return of_gt ? parts.scale / (1.0 - parts.scale * parts.tail) : 1.0 / parts.tail;
    return form == PoissonForm::gt ? -parts.scale : parts.scale;
}

QMK_INLINE PoissonDerivatives poisson_derivatives(double a, double b, PoissonForm form) {
    if (is_undefined(a, b)) return {not_a_number(), not_a_number()};
    if (is_finite_rate(a) && is_finite_rate(b)) {
        const auto parts = poisson_parts(a, b);
        const double factor = poisson_derivative_factor(parts, tail_is_gt(a, b), form);
        return {-factor * parts.equal, factor * parts.one_more};
    }
    // In the limit log Pr[X <= Y] = -(sqrt a - sqrt b)^2 where a is infinite.
    if (form == PoissonForm::log_le && is_finite_rate(b)) return {-1.0, __builtin_huge_val()};
    return {0.0, 0.0};
}

}  // namespace qmk::QMK_TARGET
