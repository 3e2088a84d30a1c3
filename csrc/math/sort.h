// Sorts by comparators only, so that many lanes can sort at once: Batcher's merge exchange (Knuth, The Art of Computer
// Programming 5.2.2, algorithm M), for any size, with about size * log2(size)^2 / 4 comparators.
#pragma once

#include "target.h"

namespace qmk::QMK_TARGET {

// Calls `compare(i, j)`, i < j, for every comparator of the network in order.
template <class Compare>
QMK_INLINE constexpr void merge_exchange(int size, Compare&& compare) {
    int top = 1;
    while (2 * top < size) top *= 2;
    for (int p = top; p > 0; p /= 2) {
        int distance = p, remainder = 0;
        for (int q = top;; q /= 2) {
            for (int i = 0; i < size - distance; ++i)
                if ((i & p) == remainder) compare(i, i + distance);
            if (q == p) break;
            distance = q - p;
            remainder = p;
        }
    }
}

// The network of a size known at compile time, as a list that a fold expression can unroll into registers.
template <int size>
struct MergeExchange {
    static constexpr int counted() {
        int count = 0;
        merge_exchange(size, [&](int, int) constexpr { ++count; });
        return count;
    }
    static constexpr int count = counted();
    struct List {
        int low[count > 0 ? count : 1]{}, high[count > 0 ? count : 1]{};
    };
    static constexpr List listed() {
        List list{};
        int next = 0;
        merge_exchange(size, [&](int i, int j) constexpr {
            list.low[next] = i;
            list.high[next++] = j;
        });
        return list;
    }
    static constexpr List list = listed();
};

template <class Mask, class V>
QMK_INLINE void exchange_where(Mask mask, V& a, V& b) {
    const V low = mask ? b : a;
    b = mask ? a : b;
    a = low;
}

// Puts keys[low] <= keys[high] and moves the payloads along. A NaN key stays where it is.
template <class V, class... Payload>
QMK_INLINE void compare_exchange(int low, int high, V* keys, Payload*... payloads) {
    const auto out_of_order = keys[high] < keys[low];
    exchange_where(out_of_order, keys[low], keys[high]);
    (exchange_where(out_of_order, payloads[low], payloads[high]), ...);
}

template <int... values>
struct Sequence {};
template <int size, int... values>
struct MakeSequence : MakeSequence<size - 1, size - 1, values...> {};
template <int... values>
struct MakeSequence<0, values...> {
    using type = Sequence<values...>;
};

template <int size, int... steps, class V, class... Payload>
QMK_INLINE void sort_unrolled(Sequence<steps...>, V* keys, Payload*... payloads) {
    (compare_exchange(MergeExchange<size>::list.low[steps], MergeExchange<size>::list.high[steps], keys, payloads...),
     ...);
}

// Sorts `size` keys, ascending, and moves any number of payload arrays along; unrolled, so that the arrays can be
// registers.
template <int size, class V, class... Payload>
QMK_INLINE void sort_fixed(V* keys, Payload*... payloads) {
    sort_unrolled<size>(typename MakeSequence<MergeExchange<size>::count>::type{}, keys, payloads...);
}

// The same for a size known at run time.
template <class V, class... Payload>
QMK_INLINE void sort_any(int size, V* keys, Payload*... payloads) {
    merge_exchange(size, [&](int low, int high) { compare_exchange(low, high, keys, payloads...); });
}

}  // namespace qmk::QMK_TARGET
