#include "exchange.h"

#include <algorithm>

namespace qmk::python {

namespace {

// Version 1 of the API.
struct Exchange {
    struct {
        uint32_t major, minor;
        void* previous;
    } header;
    void *allocate, *managed_from_object, *object_from_managed;
    int (*tensor_from_object)(void* object, TensorView* out);
    void* current_work_stream;
};

const Exchange* exchange = nullptr;

constexpr uint8_t floating_point = 2, bfloat = 4;

// Whether the object is a dense tensor of a float dtype; reads it if so.
bool read_floats(PyObject* object, TensorView& view) {
    if (!is_tensor(object) || !read_tensor(object, view) || view.lanes != 1) return false;
    if (view.code == bfloat) return view.bits == 16;
    return view.code == floating_point && (view.bits == 16 || view.bits == 32 || view.bits == 64);
}

}  // namespace

bool connect_exchange(PyObject* capsule) {
    exchange = nullptr;
    if (capsule == Py_None) return true;
    const void* pointer = PyCapsule_GetPointer(capsule, "dlpack_exchange_api");
    if (pointer == nullptr) return false;
    const auto* given = static_cast<const Exchange*>(pointer);
    if (given->header.major == 1 && given->tensor_from_object != nullptr) exchange = given;
    return true;
}

bool can_read_tensors() {
    return exchange != nullptr;
}

bool is_tensor(PyObject* object) {
    PyObject* type = reinterpret_cast<PyObject*>(Py_TYPE(object));
    return type == python.tensor || type == python.parameter;
}

bool read_tensor(PyObject* tensor, TensorView& view) {
    if (exchange->tensor_from_object(tensor, &view) != 0) {
        PyErr_Clear();
        return false;
    }
    view.data = static_cast<char*>(view.data) + view.byte_offset;
    return true;
}

bool is_contiguous(const TensorView& view) {
    int64_t expected = 1;
    for (int d = view.ndim - 1; d >= 0; --d) {
        if (view.strides && view.shape[d] != 1 && view.strides[d] != expected) return false;
        expected *= view.shape[d];
    }
    return true;
}

bool is_small_call(const Slots& slots, PyObject* const* values) {
    if (exchange == nullptr) return false;
    int64_t total = 0;
    for (int field = 0; field < slots.count; ++field) {
        TensorView view;
        if (slots.slots[field].kind != Kind::address || values[field] == Py_None) continue;
        if (!is_tensor(values[field]) || !read_tensor(values[field], view)) return false;
        int64_t count = 1;
        for (int d = 0; d < view.ndim; ++d) count *= view.shape[d];
        total += count;
    }
    return total <= most_small_values;
}

PyObject* are_embeddings(PyObject*, PyObject* const* values, Py_ssize_t count) {
    TensorView x, y;
    bool are = exchange != nullptr && count >= 2 && read_floats(values[0], x) && read_floats(values[1], y) &&
               x.is_alike(y) && x.ndim > 0 && y.ndim > 0 && x.shape[x.ndim - 1] == y.shape[y.ndim - 1] &&
               x.shape[x.ndim - 1] > 0;
    if (are && count == 3) {
        are = PyLong_AsLongLong(values[2]) == x.shape[x.ndim - 1];
        if (PyErr_Occurred()) return nullptr;
    }
    return Py_NewRef(are ? Py_True : Py_False);
}

PyObject* are_batches(PyObject*, PyObject* const* values, Py_ssize_t count) {
    TensorView x, y;
    bool are = exchange != nullptr && count > 0 && read_floats(values[0], x) && x.ndim > 1 &&
               std::find(x.shape, x.shape + x.ndim, 0) == x.shape + x.ndim;
    for (Py_ssize_t i = 1; are && i < count; ++i)
        are = read_floats(values[i], y) && y.is_alike(x) && y.ndim == x.ndim &&
              std::equal(x.shape, x.shape + x.ndim, y.shape);
    return Py_NewRef(are ? Py_True : Py_False);
}

}  // namespace qmk::python
