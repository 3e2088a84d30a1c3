// Every kernel as a function that XLA calls, by the kernel's name, for CPUs and, where built, for CUDA.
#pragma once

#include <vector>

#include "c_api.h"

namespace qmk::xla {

struct Target {
    const char* name;
    const char* platform;  // as JAX names it
    Handler* handler;
};

const std::vector<Target>& targets();

}  // namespace qmk::xla
