// Launches without Python. A function of Python that allocates its outputs and launches one kernel does for the same
// shapes, dtypes, device and settings always the same. So it runs once and is recorded; then the launch is repeated
// with the addresses of other tensors. It saves the interpreter's share of a call, which for small batches is most of
// it.
//
// Where tensors cannot be read (exchange.h) nothing is recorded.
#pragma once

#include "exchange.h"

namespace qmk::python {

// A kernel's call that is about to be launched: its struct, and from which arguments its fields were read.
struct Launch {
    const void* call;
    std::size_t size;
    void (*run)(void* call, PyObject* tensor, bool is_small);  // `tensor`, one of the call's, says on which device
    bool is_small;
    const Slots& slots;
    PyObject* const* values;
};

constexpr std::size_t largest_call = 1024;

// Notes a launch of the function that this thread is recording, if it is.
void note(const Launch& launch);

// (function) to a function of the same positional arguments: tensors, None, numbers, strings and tuples of those.
PyObject* replayed(PyObject*, PyObject* function);

}  // namespace qmk::python
