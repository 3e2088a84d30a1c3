// The arguments of a kernel's call, read from Python by name and type. Uses only the C API that every Python from 3.10
// on has, so that one build serves them all.
#pragma once

#define PY_SSIZE_T_CLEAN
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030A0000
#endif
#include <Python.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "../slots.h"

namespace qmk::python {

// Thrown when a Python exception has been set.
struct ErrorIsSet {};

[[noreturn]] void fail(PyObject* kind, const std::string& message);
// Sets a Python exception for the C++ exception being handled; returns null.
PyObject* translated_error();

// An owned reference.
class Object {
  public:
    explicit Object(PyObject* owned) : object_(owned) {}
    ~Object() { Py_XDECREF(object_); }
    Object(Object&& other) noexcept : object_(other.object_) { other.object_ = nullptr; }
    Object& operator=(Object&& other) noexcept {
        std::swap(object_, other.object_);
        return *this;
    }
    PyObject* get() const { return object_; }

  private:
    PyObject* object_;
};

// What the core needs from Python; set once, by `connect`.
struct Python {
    PyObject* dtypes[num_dtypes];                      // torch's, in the order of Dtype
    PyObject* num_threads = nullptr;                   // () -> number of threads of a CPU kernel
    PyObject* stream = nullptr;                        // (device) -> address of its current stream
    PyObject* scratch = nullptr;                       // (bytes, device) -> tensor of that size
    PyObject* materialised = nullptr;                  // tensor without memory -> one with memory, or a TypeError
    PyObject *tensor = nullptr, *parameter = nullptr;  // the types
    PyObject* prototype = nullptr;                     // tensor -> one of its shape without its memory
    PyObject* empty = nullptr;                         // prototype -> uninitialised tensor like it
};
extern Python python;

// A kernel's name and arguments, made once. It remembers the order in which its caller last named them.
class Signature {
  public:
    template <class Call>
    Signature(const char* function, Call call) : function_(function) {
        for_each_field(call, [&](const char* name, const Slot& slot, const char* tuple) { add(name, slot, tuple); });
    }

    const char* function() const { return function_; }
    const char* name(int field) const { return fields_[field].name.c_str(); }

    // Finds the value of each field of a call from Python, in the order of the fields.
    void match(PyObject* const* values, Py_ssize_t num_positional, PyObject* keywords, PyObject** matched);
    // The first tensor of T.
    int first_item(PyObject* const* matched) const;
    // Reads the values into the slots. `kept` owns tensors that were made in doing so.
    void read(PyObject* const* matched, const Slots& slots, std::vector<Object>& kept) const;

  private:
    struct Field {
        std::string name;
        bool is_item;
        std::vector<PyObject*> choices;
    };
    // One keyword: a field, or several as a named tuple.
    struct Argument {
        PyObject* name;
        int first, count;
        bool is_tuple;
        PyObject* type;  // of the named tuple last given, whose fields have been compared
    };

    void add(const char* name, const Slot& slot, const char* tuple);
    void find_order(PyObject* keywords);
    void check_tuple(Argument& argument, PyObject* value) const;
    void* address(int field, PyObject* value, Dtype wanted, std::vector<Object>& kept) const;
    int choice(int field, PyObject* value) const;
    [[noreturn]] void wrong(int field, const std::string& wanted, PyObject* value) const;

    const char* function_;
    std::vector<Field> fields_;
    std::vector<Argument> arguments_;
    PyObject* keywords_ = nullptr;  // of the last call, held so that its address is not used again
    int order_[most_fields];
};

// The dtype of a tensor, or -1 if Dtype lacks it.
int dtype_of_tensor(PyObject* tensor);
// Whether a kernel for a GPU takes the tensor.
bool runs_on_gpu(PyObject* tensor);
bool is_on_gpu(PyObject* tensor);
int device_index(PyObject* tensor);
int num_threads();
void* current_stream(PyObject* tensor);
void* address_of(PyObject* tensor);

// Memory for one call. A small call on a CPU uses this thread's, which is kept for the next call (call_memory.h). Other
// calls use a tensor's.
class Scratch {
  public:
    void* take(int64_t bytes, PyObject* like, bool is_on_gpu);

  private:
    Object tensor_{nullptr};
};

}  // namespace qmk::python
