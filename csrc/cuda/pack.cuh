// 16 bytes of numbers, the most that one instruction per thread loads or stores.
#pragma once

namespace qmk::cuda {

template <class T>
struct alignas(16) Pack {
    static constexpr int size = 16 / sizeof(T);
    T values[size];
};

template <class T>
__device__ __forceinline__ Pack<T> load_pack(const void* from) {
    const int4 bits = *static_cast<const int4*>(from);
    Pack<T> pack;
    __builtin_memcpy(&pack, &bits, 16);
    return pack;
}

template <class T>
__device__ __forceinline__ void store_pack(void* to, const Pack<T>& pack) {
    int4 bits;
    __builtin_memcpy(&bits, &pack, 16);
    *static_cast<int4*>(to) = bits;
}

}  // namespace qmk::cuda
