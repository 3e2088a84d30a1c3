// Numbers in half precision: float after they are loaded, and rounded to nearest, ties to even, before they are stored.
// All arithmetic is in float. The conversions are those of torch, which has the same two formats.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "../signature.h"

namespace qmk::cuda {

namespace {

template <class To, class From>
__device__ __forceinline__ To same_bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    __builtin_memcpy(&to, &from, sizeof to);
    return to;
}

struct Bfloat16 {
    uint16_t bits;

    Bfloat16() = default;
    __device__ __forceinline__ explicit Bfloat16(float number) {
#if defined(__CUDA_ARCH__)
        asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(number));
#else
        const uint32_t whole = same_bits<uint32_t>(number);
        bits = number != number ? 0x7fff : uint16_t((whole + 0x7fff + (whole >> 16 & 1)) >> 16);
#endif
    }
    __device__ __forceinline__ operator float() const { return same_bits<float>(uint32_t(bits) << 16); }
};

struct Float16 {
    uint16_t bits;

    Float16() = default;
    __device__ __forceinline__ explicit Float16(float number) {
#if defined(__CUDA_ARCH__)
        asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(number));
#else
        const uint32_t whole = same_bits<uint32_t>(number), sign = whole >> 16 & 0x8000, size = whole & 0x7fffffff;
        uint32_t rounded;
        if (size >= 0x47800000)  // 65536 and above, infinity, NaN
            rounded = size > 0x7f800000 ? 0x7fff : 0x7c00;
        else if (size < 0x38800000)  // below the normal numbers: the sum's last place is their step
            rounded = same_bits<uint32_t>(same_bits<float>(size) + 0.5f) - same_bits<uint32_t>(0.5f);
        else
            rounded = (size - 0x38000000 + 0xfff + (size >> 13 & 1)) >> 13;
        bits = uint16_t(sign | rounded);
#endif
    }
    __device__ __forceinline__ operator float() const {
#if defined(__CUDA_ARCH__)
        float number;
        asm("cvt.f32.f16 %0, %1;" : "=f"(number) : "h"(bits));
        return number;
#else
        const uint32_t size = uint32_t(bits & 0x7fff) << 13, sign = uint32_t(bits & 0x8000) << 16;
        const float number = same_bits<float>(size) * 0x1p112f;
        const bool is_finite = size < 0x0f800000;
        return same_bits<float>(sign | (is_finite ? same_bits<uint32_t>(number) : size | 0x7f800000));
#endif
    }
};

// Calls `use` with a number of the type that is stored: T, or for float one of half precision.
template <class T, class Use>
void with_storage(Storage storage, Use&& use) {
    if constexpr (sizeof(T) == sizeof(float)) {
        if (storage == Storage::bfloat16) return use(Bfloat16());
        if (storage == Storage::float16) return use(Float16());
    }
    use(T());
}

// The address as that of numbers of type S, which are stored there.
template <class S, class T>
const S* numbers_of(const Stored<const T>& stored) {
    return reinterpret_cast<const S*>(stored.address);
}
template <class S, class T>
S* numbers_of(const Stored<T>& stored) {
    return reinterpret_cast<S*>(stored.address);
}

}  // namespace

}  // namespace qmk::cuda
