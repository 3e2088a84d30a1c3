// The sorting network of math/sort.h on a GPU: by one thread in registers, or by a warp in shared memory.
#pragma once

#include <type_traits>
#include <utility>

#include "../math/sort.h"

namespace qmk::cuda {

// Comparator `step` of the network. Its indices are template arguments: device code has no address for the list itself.
template <int size, int step, class V, class... Payload>
__device__ __forceinline__ void compare_exchange_at(V* keys, Payload*... payloads) {
    using Network = QMK_TARGET::MergeExchange<size>;
    using Low = std::integral_constant<int, Network::list.low[step]>;
    using High = std::integral_constant<int, Network::list.high[step]>;
    QMK_TARGET::compare_exchange(Low::value, High::value, keys, payloads...);
}

template <int size, int... steps, class V, class... Payload>
__device__ __forceinline__ void sort_unrolled(std::integer_sequence<int, steps...>, V* keys, Payload*... payloads) {
    (compare_exchange_at<size, steps>(keys, payloads...), ...);
}

// Sorts `size` keys, ascending, and moves the payloads along; unrolled, so that the arrays are registers.
template <int size, class V, class... Payload>
__device__ __forceinline__ void sort_in_registers(V* keys, Payload*... payloads) {
    sort_unrolled<size>(std::make_integer_sequence<int, QMK_TARGET::MergeExchange<size>::count>{}, keys, payloads...);
}

// Sorts `size` keys in shared memory, ascending, and moves the payloads along, by the comparators of math/sort.h's
// merge_exchange. Those of one (p, q) touch every key at most once, so the threads share them.
template <class T, class... Payload>
__device__ __forceinline__ void sort_by_warp(int size, int lane, T* keys, Payload*... payloads) {
    int top = 1;
    while (2 * top < size) top *= 2;
    for (int p = size > 1 ? top : 0; p > 0; p /= 2) {
        int distance = p, remainder = 0;
        for (int q = top;; q /= 2) {
            for (int n = lane;; n += 32) {
                const int i = 2 * (n & ~(p - 1)) + (n & (p - 1)) + remainder;  // the n-th i with (i & p) == remainder
                if (i >= size - distance) break;
                QMK_TARGET::compare_exchange(i, i + distance, keys, payloads...);
            }
            __syncwarp();
            if (q == p) break;
            distance = q - p;
            remainder = p;
        }
    }
}

}  // namespace qmk::cuda
