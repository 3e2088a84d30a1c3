// Launches without Python. A Python function that allocates its outputs and launches one kernel does the same for the
// same shapes, dtypes, device and settings. So its first run is recorded, and then the launch is repeated with the
// addresses of other tensors. This saves the interpreter's share of a call, which dominates for small batches.
//
// If tensors cannot be read (exchange.h), nothing is recorded.
#pragma once

#include "exchange.h"

namespace qmk::python {

// A kernel's call about to be launched: its struct, and the arguments from which its fields were read.
struct Launch {
    const void* call;
    std::size_t size;
    void (*run)(void* call, PyObject* tensor, bool is_small);  // `tensor`, one of the call's, gives the device
    bool is_small;
    const Slots& slots;
    PyObject* const* values;
};

constexpr std::size_t largest_call = 1024;

// Notes a launch of the function that this thread is recording, if it is.
void note(const Launch& launch);

// Wraps a function of positional arguments, which are tensors, None, numbers, strings and tuples of those.
PyObject* replayed(PyObject*, PyObject* function);

}  // namespace qmk::python
