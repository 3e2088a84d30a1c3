// What every header in math/ starts from: how its functions are inlined and which namespace they live in.
//
// A header compiled once per instruction set must not leave one weak symbol per function: the linker would keep one
// copy, perhaps the AVX-512 one, for all. So everything here is inside namespace qmk::QMK_TARGET, named after the
// target (baseline, avx2, avx512, cuda), and always inlined.
//
// The precision of every op: an item (a component, a distance, a row's term) in the tensors' type T. Losses and their
// statistics, which are sums over all rows or pairs, in double, after at most a few hundred terms in T. Gradients that
// are sums over rows or over the other side of a matrix: parts of a sum in T, the parts of a sum by a parameter in
// double. Which terms a part has depends on the sizes and the instruction set alone, never on the number of threads.
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
