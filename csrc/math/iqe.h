// The arithmetic of one IQE component: the length of a union of intervals taken in the order of their left ends.
//
// V is a number or a vector of lanes, one component per lane; comparing two V gives a bool or a mask of lanes, and
// `mask ? a : b` picks lane by lane. Four operations per interval for the length, and two more comparisons for the
// ends. Precision: every step is in V's own type. Lengths add up differences of neighbouring ends, so an offset common
// to all coordinates costs no accuracy beyond that of the coordinates.
#pragma once

#include "sort.h"
#include "target.h"

namespace qmk::QMK_TARGET {

template <class T>
struct Limits;
template <>
struct Limits<float> {
    static constexpr float highest = 3.40282346638528859812e+38f;
};
template <>
struct Limits<double> {
    static constexpr double highest = 1.79769313486231570815e+308;
};

// b if the two are unordered, so that a NaN coordinate makes the next difference, and so the length, NaN.
template <class V>
QMK_INLINE V maximum(V a, V b) {
    return a > b ? a : b;
}
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
// One instruction instead of a comparison and a selection; NaN if either is NaN.
template <>
QMK_INLINE float maximum<float>(float a, float b) {
    float result;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
    return result;
}
#endif

// An infinite coordinate counts as the largest finite number, so that no difference is infinity - infinity.
template <class V>
QMK_INLINE V finite_or_nan(V value, V highest) {
    value = value > highest ? highest : value;
    return value < -highest ? -highest : value;
}

struct AddDifference {
    template <class V>
    QMK_INLINE static void lengthen(V& length, V begin, V end) {
        length += end - begin;
    }
};

// The union of the intervals added so far, in ascending order of x.
// Start: furthest = the lowest finite number, length = 0; or with the first interval.
template <class V, class Addition = AddDifference>
struct IqeLength {
    V furthest;
    V length;

    QMK_INLINE void start(V x, V y) {
        furthest = maximum(x, y);
        length = furthest - x;
    }
    QMK_INLINE void add(V x, V y) {
        const V begin = maximum(furthest, x);
        furthest = maximum(begin, y);
        Addition::lengthen(length, begin, furthest);
    }
};

// The same, and which intervals hold the ends of the union's connected pieces. A mark stands for an interval: its own
// bit, so that left and right are sets of marks. An interval that extends the union and begins at or beyond all before
// it starts a new piece; the last one to extend a piece is its right end. Start: also left = right = last = 0. After
// the last interval: finish(all marks).
//
// A component with NaN, whose ends are unknown, is marked by ends that no union has: every x is a left end and no y a
// right end. Backward makes the gradients of all its coordinates NaN.
template <class V, class Mark>
struct IqeEnds {
    V furthest;
    V length;
    Mark left, right, last;

    QMK_INLINE void add(V x, V y, Mark mark) {
        const V begin = maximum(furthest, x);
        const auto extends = y > begin;
        const auto starts = extends & (x >= furthest);
        furthest = maximum(begin, y);
        AddDifference::lengthen(length, begin, furthest);
        left |= starts ? mark : Mark{};
        right |= starts ? last : Mark{};
        last = extends ? mark : last;
    }

    QMK_INLINE void finish(Mark all) {
        const auto is_nan = length != length;
        left = is_nan ? all : left;
        right = is_nan ? Mark{} : right | last;
    }
};

// Whether a component's bytes, bit k for x_k and bit size + k for y_k, mark a component with NaN.
QMK_INLINE bool marks_nan(const uint8_t* ends, int64_t size) {
    for (int64_t k = 0; k < size; ++k)
        if (!(ends[k / 8] >> (k % 8) & 1) || ends[(size + k) / 8] >> ((size + k) % 8) & 1) return false;
    return true;
}

// Only left ends: whether x is the left end of a piece. Right ends are the left ends of the mirrored intervals (-y,
// -x). Start: furthest = the lowest finite number; or with the first interval.
template <class V>
struct IqeLeftEnds {
    V furthest;

    QMK_INLINE auto start(V x, V y) {
        furthest = y;
        return y > x;
    }
    QMK_INLINE auto add(V x, V y) {
        const auto starts = (x >= furthest) & (y > x);
        furthest = maximum(furthest, y);
        return starts;
    }
};

// Left ends and the length in one scan. Start: furthest = the lowest finite number, length = 0.
template <class V, class Addition = AddDifference>
struct IqeLeftEndsAndLength {
    V furthest;
    V length;

    QMK_INLINE auto add(V x, V y) {
        const auto starts = (x >= furthest) & (y > x);
        const V begin = maximum(furthest, x);
        furthest = maximum(begin, y);
        Addition::lengthen(length, begin, furthest);
        return starts;
    }
};

}  // namespace qmk::QMK_TARGET
