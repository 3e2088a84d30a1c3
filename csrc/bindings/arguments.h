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
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "../signature.h"

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
    PyObject* dtypes[5];                               // torch's, in the order of Dtype
    PyObject* num_threads = nullptr;                   // () -> number of threads of a CPU kernel
    PyObject* stream = nullptr;                        // (device) -> address of its current stream
    PyObject* scratch = nullptr;                       // (bytes, device) -> tensor of that size
    PyObject* materialised = nullptr;                  // tensor without memory -> one with memory, or a TypeError
    PyObject *tensor = nullptr, *parameter = nullptr;  // the types
    PyObject* prototype = nullptr;                     // tensor -> one of its shape without its memory
    PyObject* empty = nullptr;                         // prototype -> uninitialised tensor like it
};
extern Python python;

enum class Dtype : int { float32, float64, uint8, int32, int64 };
enum class Kind : int { address, whole, number, boolean, choice, wholes };

// One field of a call: its kind and its location.
struct Slot {
    Kind kind;
    Dtype dtype;        // of an address
    bool is_item;       // an address of T
    int size;           // of a whole number: its bytes; of wholes: their largest count
    const char* names;  // of a choice
    void* field;
};

template <class T>
constexpr Dtype dtype_of() {
    using Item = std::remove_const_t<T>;
    if (std::is_same_v<Item, float>) return Dtype::float32;
    if (std::is_same_v<Item, double>) return Dtype::float64;
    if (std::is_same_v<Item, uint8_t>) return Dtype::uint8;
    if (std::is_same_v<Item, int32_t>) return Dtype::int32;
    static_assert(std::is_floating_point_v<Item> || std::is_integral_v<Item>);
    return Dtype::int64;
}

template <class Item>
Slot slot_of(Item*& field) {
    return {Kind::address, dtype_of<Item>(), std::is_floating_point_v<Item>, 0, nullptr, &field};
}
inline Slot slot_of(int64_t& field) {
    return {Kind::whole, {}, false, sizeof(int64_t), nullptr, &field};
}
inline Slot slot_of(int& field) {
    return {Kind::whole, {}, false, sizeof(int), nullptr, &field};
}
inline Slot slot_of(double& field) {
    return {Kind::number, {}, false, 0, nullptr, &field};
}
inline Slot slot_of(bool& field) {
    return {Kind::boolean, {}, false, 0, nullptr, &field};
}
template <int most>
Slot slot_of(Integers<most>& field) {
    return {Kind::wholes, {}, false, most, nullptr, &field};
}
template <class Choice, class = std::enable_if_t<std::is_enum_v<Choice>>>
Slot slot_of(Choice& field) {
    return {Kind::choice, {}, false, 0, names_of(Choice{}), &field};
}

template <class Field, class = void>
constexpr bool is_struct_of_fields = false;
template <class Field>
constexpr bool is_struct_of_fields<Field, std::void_t<decltype(Field::field_names)>> = true;

template <class Field, class = void>
constexpr bool is_settings = false;
template <class Field>
constexpr bool is_settings<Field, std::void_t<decltype(Field::is_settings)>> = true;

// Calls add(name, slot, tuple) for every field of a call; `tuple` is the name of the settings it belongs to, or null.
template <class Call, class Add>
void for_each_field(Call& call, Add&& add, const char* tuple = nullptr) {
    const char* names = Call::field_names;
    const auto visit = [&](auto& field) {
        using Field = std::decay_t<decltype(field)>;
        if constexpr (is_struct_of_fields<Field>)
            for_each_field(field, add, is_settings<Field> ? names : tuple);
        else
            add(names, slot_of(field), tuple);
        while (*names && *names != ',') ++names;
        while (*names == ',' || *names == ' ') ++names;
    };
    std::apply([&](auto&... field) { (visit(field), ...); }, call.fields());
}

constexpr int most_fields = 40;

struct Slots {
    Slot slots[most_fields];
    int count = 0;

    template <class Call>
    explicit Slots(Call& call) {
        for_each_field(call, [&](const char*, const Slot& slot, const char*) { slots[count++] = slot; });
    }
};

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
    void* address(int field, PyObject* value, const Slot& slot, std::vector<Object>& kept) const;
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
bool is_on_gpu(PyObject* tensor);
int device_index(PyObject* tensor);
int num_threads();
void* current_stream(PyObject* tensor);
void* address_of(PyObject* tensor);

// Memory for one call. A small call on a CPU uses this thread's, which is kept for the next call, because fresh memory
// costs a page fault every 4 KiB, which can take as long as the kernel. Other calls use a tensor's.
class Scratch {
  public:
    void* take(int64_t bytes, PyObject* like, bool is_on_gpu);

  private:
    Object tensor_{nullptr};
};

}  // namespace qmk::python
