// Reads tensors without calling Python, through DLPack's exchange API, which torch has from 2.10 on.
#pragma once

#include "arguments.h"

namespace qmk::python {

// A tensor in the layout of DLPack's specification. Its pointers belong to the tensor.
struct TensorView {
    void* data;
    int32_t device_type, device_id;
    int32_t ndim;
    uint8_t code, bits;  // of the dtype: code 2 is floating point, 4 bfloat
    uint16_t lanes;
    int64_t *shape, *strides;
    uint64_t byte_offset;

    bool is_alike(const TensorView& other) const {
        return code == other.code && bits == other.bits && lanes == other.lanes && device_type == other.device_type &&
               device_id == other.device_id;
    }
};

// Takes the capsule of the exchange API, or None; for anything else returns false with a Python exception set.
bool connect_exchange(PyObject* capsule);
bool can_read_tensors();

// Whether it is exactly torch's Tensor or Parameter.
bool is_tensor(PyObject* object);
// Reads such a tensor; false, without a Python exception, if it has no strided memory.
bool read_tensor(PyObject* tensor, TensorView& view);
bool is_contiguous(const TensorView& view);

// Whether the tensors of a call, the values of its address slots, hold so few values that the call is small. False if
// tensors cannot be read.
bool is_small_call(const Slots& slots, PyObject* const* values);

// Takes any objects (x, y) or (x, y, size). Whether x and y are dense tensors of one float dtype and device, with the
// same last size, at least 1, or ``size``. False if tensors cannot be read.
PyObject* are_embeddings(PyObject*, PyObject* const* values, Py_ssize_t count);
// Takes any objects (x, ...). Whether they are dense tensors of one float dtype and device, of one shape (..., B, D)
// with at least one value. False if tensors cannot be read.
PyObject* are_batches(PyObject*, PyObject* const* values, Py_ssize_t count);

}  // namespace qmk::python
