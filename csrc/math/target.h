// The basis of every header in math/: how its functions are inlined, and their namespace.
//
// A header compiled once per instruction set must not leave one weak symbol per function: the linker would keep one
// copy, perhaps the AVX-512 one, for all. So everything is inside namespace qmk::QMK_TARGET, named after the target
// (baseline, avx2, avx512, cuda), and always inlined.
//
// The precision of every op: an item (a component, a distance, a row's term) is computed in the tensors' type T. Losses
// and their statistics, which are sums over all rows or pairs, are summed in double, after at most a few hundred terms
// in T. Gradients that are sums over rows or over the other side of a matrix are summed in parts: each part in T, the
// parts of a parameter's gradient in double. The terms of a part depend only on the sizes and the instruction set,
// never on the number of threads.
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
