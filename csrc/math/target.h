// What every header in math/ starts from: how its functions are inlined and which namespace they live in.
//
// A header compiled once per instruction set must not leave one weak symbol per function: the linker would keep one
// copy, perhaps the AVX-512 one, for all. So everything here is inside namespace qmk::QMK_TARGET, named after the
// target (baseline, avx2, avx512, cuda), and always inlined.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define QMK_INLINE __host__ __device__ __forceinline__
#ifndef QMK_TARGET
#define QMK_TARGET cuda
#endif
#else
#define QMK_INLINE inline __attribute__((always_inline))
#ifndef QMK_TARGET
#define QMK_TARGET baseline
#endif
#endif
