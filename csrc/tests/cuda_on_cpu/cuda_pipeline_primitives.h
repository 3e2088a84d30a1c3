// Copies to shared memory that run beside a kernel. On a GPU one may happen at any time until its thread waits for it;
// here at the first or at the last moment, drawn at random, so that a missing wait or barrier shows.
#pragma once

#include "cuda_runtime.h"

inline void __pipeline_memcpy_async(void* to, const void* from, size_t bytes) {
    if (cuda_on_cpu::next_random() % 2)
        std::memcpy(to, from, bytes);
    else
        cuda_on_cpu::fiber->copies.push_back({to, from, bytes});
}
inline void __pipeline_commit() {}
inline void __pipeline_wait_prior(size_t groups) {
    if (groups != 0) std::abort();  // no kernel leaves any
    for (const auto& copy : cuda_on_cpu::fiber->copies) std::memcpy(copy.to, copy.from, copy.bytes);
    cuda_on_cpu::fiber->copies.clear();
}
