// What the libraries of this folder share: an op's CUDA kernels as C functions that run them on a CPU. They take the
// arguments of csrc/bindings less device and stream, integers as int64_t; python_tests/cuda_on_cpu.py calls them.
#pragma once

#include <cstdint>

#include "../../cuda/context.h"

namespace {

constexpr qmk::cuda::Context context{0, nullptr};

template <class T>
const T* in(const void* pointer) {
    return static_cast<const T*>(pointer);
}
template <class T>
T* out(void* pointer) {
    return static_cast<T*>(pointer);
}

template <class Function>
void with_item_type(int64_t item_size, Function&& function) {
    item_size == 4 ? function(float{}) : function(double{});
}

}  // namespace
