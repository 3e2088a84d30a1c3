// Neighbouring numbers that one instruction per thread loads or stores: 16 bytes, the most, or 8.
#pragma once

#include <type_traits>

namespace qmk::cuda {

template <class T, int count = 16 / sizeof(T)>
struct alignas(count * sizeof(T)) Pack {
    static constexpr int size = count;
    using Bits = std::conditional_t<count * sizeof(T) == 16, int4, int2>;
    T values[size];
    static_assert(sizeof(values) == sizeof(Bits));
};

template <class T, int count = Pack<T>::size>
__device__ __forceinline__ Pack<T, count> load_pack(const void* from) {
    const auto bits = *static_cast<const typename Pack<T, count>::Bits*>(from);
    Pack<T, count> pack;
    __builtin_memcpy(&pack, &bits, sizeof bits);
    return pack;
}

template <class T, int count>
__device__ __forceinline__ void store_pack(void* to, const Pack<T, count>& pack) {
    typename Pack<T, count>::Bits bits;
    __builtin_memcpy(&bits, &pack, sizeof bits);
    *static_cast<typename Pack<T, count>::Bits*>(to) = bits;
}

}  // namespace qmk::cuda
