// Tensors read without calls of Python, through DLPack's exchange API, which torch has from 2.10 on.
#pragma once

#include "arguments.h"

namespace qmk::python {

// A tensor as DLPack's specification lays it out. What it points to belongs to the tensor.
struct TensorView {
    void* data;
    int32_t device_type, device_id;
    int32_t ndim;
    uint8_t code, bits;  // of the dtype: code 2 is floating point
    uint16_t lanes;
    int64_t *shape, *strides;
    uint64_t byte_offset;

    bool is_alike(const TensorView& other) const {
        return code == other.code && bits == other.bits && lanes == other.lanes && device_type == other.device_type &&
               device_id == other.device_id;
    }
};

// Takes the capsule of the exchange API, or None; false with a Python exception set where it is something else.
bool connect_exchange(PyObject* capsule);
bool can_read_tensors();

// Whether it is exactly torch's Tensor or Parameter.
bool is_tensor(PyObject* object);
// Of such a tensor; false where it has no strided memory. No Python exception is set then.
bool read_tensor(PyObject* tensor, TensorView& view);
bool is_contiguous(const TensorView& view);

// (x, y) or (x, y, size) of any objects: whether x and y are dense tensors of one dtype, float32 or float64, on one
// device, with the same last size, at least 1, or ``size``. False where tensors cannot be read.
PyObject* are_embeddings(PyObject*, PyObject* const* values, Py_ssize_t count);
// (x, ...) of any objects: whether they are dense tensors of one dtype, float32 or float64, on one device, of one shape
// (..., B, D) with at least one value. False where tensors cannot be read.
PyObject* are_batches(PyObject*, PyObject* const* values, Py_ssize_t count);

}  // namespace qmk::python
