#include "arguments.h"

#include <cstring>
#include <exception>
#include <new>
#include <stdexcept>

#include "../call_memory.h"

namespace qmk::python {

Python python;

namespace {

// Names that are looked up on every call.
PyObject* interned(const char* text) {
    PyObject* name = PyUnicode_InternFromString(text);
    if (name == nullptr) throw ErrorIsSet();
    return name;
}

Object attribute(PyObject* object, const char* name_text, PyObject*& name) {
    if (name == nullptr) name = interned(name_text);
    return Object(PyObject_GetAttr(object, name));
}

Object called(PyObject* object, const char* method_text, PyObject*& method) {
    if (method == nullptr) method = interned(method_text);
    Object result(PyObject_CallMethodObjArgs(object, method, nullptr));
    if (result.get() == nullptr) throw ErrorIsSet();
    return result;
}

PyObject *name_of_dtype, *name_of_data_ptr, *name_of_is_cuda, *name_of_get_device, *name_of_device, *name_of_numel;

std::string text_of(PyObject* object) {
    Object text(PyObject_Str(object));
    Py_ssize_t size = 0;
    const char* bytes = text.get() ? PyUnicode_AsUTF8AndSize(text.get(), &size) : nullptr;
    if (bytes == nullptr) PyErr_Clear();
    return bytes ? std::string(bytes, size) : std::string("?");
}

std::string type_of(PyObject* object) {
    static PyObject* name = nullptr;
    const Object type_name = attribute(reinterpret_cast<PyObject*>(Py_TYPE(object)), "__name__", name);
    return type_name.get() ? text_of(type_name.get()) : "?";
}

const char* dtype_names[] = {"float32", "float64", "uint8", "int32", "int64", "bfloat16", "float16"};

Dtype half_dtype(Storage storage) {
    return storage == Storage::bfloat16 ? Dtype::bfloat16 : Dtype::float16;
}

// How the numbers of a tensor are stored, where it may be in half precision: on a GPU, in a call of float.
Storage storage_of(PyObject* tensor, Dtype own) {
    if (own != Dtype::float32) return Storage::own;
    for (const Storage half : {Storage::bfloat16, Storage::float16})
        if (dtype_of_tensor(tensor) == int(half_dtype(half)) && runs_on_gpu(tensor)) return half;
    return Storage::own;
}

int64_t whole(PyObject* value) {
    const long long number = PyLong_AsLongLong(value);
    if (number == -1 && PyErr_Occurred()) throw ErrorIsSet();
    return number;
}

}  // namespace

void fail(PyObject* kind, const std::string& message) {
    PyErr_SetString(kind, message.c_str());
    throw ErrorIsSet();
}

PyObject* translated_error() {
    try {
        throw;
    } catch (const ErrorIsSet&) {
    } catch (const std::bad_alloc&) {
        PyErr_NoMemory();
    } catch (const std::invalid_argument& error) {
        PyErr_SetString(PyExc_ValueError, error.what());
    } catch (const std::exception& error) {
        PyErr_SetString(PyExc_RuntimeError, error.what());
    }
    return nullptr;
}

void Signature::add(const char* name, const Slot& slot, const char* tuple) {
    const auto word = [](const char* text) { return std::string(text, std::strcspn(text, ", ")); };
    if (fields_.size() == most_fields) fail(PyExc_SystemError, std::string(function_) + ": too many arguments");
    const int field = int(fields_.size());
    fields_.push_back({word(name), slot.is_item, {}});
    if (slot.kind == Kind::choice)
        for (const char* at = slot.names; *at; at += std::strspn(at, ", ")) {
            fields_.back().choices.push_back(interned(word(at).c_str()));
            at += std::strcspn(at, ", ");
        }
    PyObject* keyword = interned(word(tuple ? tuple : name).c_str());
    if (tuple && !arguments_.empty() && arguments_.back().name == keyword)
        ++arguments_.back().count;
    else
        arguments_.push_back({keyword, field, 1, tuple != nullptr, nullptr});
}

void Signature::find_order(PyObject* keywords) {
    const Py_ssize_t given = keywords ? PyTuple_Size(keywords) : 0;
    std::vector<int> place(arguments_.size(), -1);
    for (Py_ssize_t i = 0; i < given; ++i) {
        PyObject* keyword = PyTuple_GetItem(keywords, i);
        std::size_t k = 0;
        while (k < arguments_.size() && PyUnicode_Compare(keyword, arguments_[k].name) != 0) ++k;
        if (k == arguments_.size())
            fail(PyExc_TypeError, std::string(function_) + ": there is no argument '" + text_of(keyword) + "'.");
        place[k] = int(i);
    }
    for (std::size_t k = 0; k < arguments_.size(); ++k) {
        if (place[k] < 0)
            fail(PyExc_TypeError,
                 std::string(function_) + ": the argument '" + text_of(arguments_[k].name) + "' is missing.");
        order_[k] = place[k];
    }
    Py_XINCREF(keywords);
    Py_XDECREF(keywords_);
    keywords_ = keywords;
}

void Signature::check_tuple(Argument& argument, PyObject* value) const {
    PyObject* type = reinterpret_cast<PyObject*>(Py_TYPE(value));
    static PyObject* name = nullptr;
    const Object names = attribute(type, "_fields", name);
    bool fits = PyTuple_Check(value) && names.get() && PyTuple_Check(names.get()) &&
                PyTuple_Size(names.get()) == argument.count;
    for (int i = 0; fits && i < argument.count; ++i)
        fits = text_of(PyTuple_GetItem(names.get(), i)) == fields_[argument.first + i].name;
    if (!fits) {
        std::string wanted;
        for (int i = 0; i < argument.count; ++i) wanted += (i ? ", " : "") + fields_[argument.first + i].name;
        PyErr_Clear();
        fail(PyExc_TypeError, std::string(function_) + ": " + text_of(argument.name) + " must be a named tuple of " +
                                  wanted + ", got " + type_of(value) + ".");
    }
    Py_INCREF(type);
    Py_XDECREF(argument.type);
    argument.type = type;
}

void Signature::match(PyObject* const* values, Py_ssize_t num_positional, PyObject* keywords, PyObject** matched) {
    if (num_positional != 0) fail(PyExc_TypeError, std::string(function_) + ": arguments are given by name.");
    if (keywords_ == nullptr || keywords != keywords_) find_order(keywords);
    for (std::size_t k = 0; k < arguments_.size(); ++k) {
        Argument& argument = arguments_[k];
        PyObject* value = values[order_[k]];
        if (!argument.is_tuple) {
            matched[argument.first] = value;
            continue;
        }
        if (reinterpret_cast<PyObject*>(Py_TYPE(value)) != argument.type) check_tuple(argument, value);
        for (int i = 0; i < argument.count; ++i) matched[argument.first + i] = PyTuple_GetItem(value, i);
    }
}

int Signature::first_item(PyObject* const* matched) const {
    for (std::size_t field = 0; field < fields_.size(); ++field)
        if (fields_[field].is_item && matched[field] != Py_None) return int(field);
    fail(PyExc_TypeError, std::string(function_) + ": there is no float tensor among the arguments.");
}

void Signature::wrong(int field, const std::string& wanted, PyObject* value) const {
    PyErr_Clear();
    fail(PyExc_TypeError,
         std::string(function_) + ": " + fields_[field].name + " must be " + wanted + ", got " + type_of(value) + ".");
}

void* Signature::address(int field, PyObject* value, Dtype wanted, std::vector<Object>& kept) const {
    if (value == Py_None) return nullptr;
    const Object dtype = attribute(value, "dtype", name_of_dtype);
    const std::string missed = dtype.get() == python.dtypes[int(wanted)] ? "" : dtype_names[int(wanted)];
    if (dtype.get() == nullptr) wrong(field, "a tensor of " + missed + " or None", value);
    if (!missed.empty() && whole(called(value, "numel", name_of_numel).get()) == 0) return nullptr;
    if (!missed.empty())
        fail(PyExc_TypeError, std::string(function_) + ": " + fields_[field].name + " must be a tensor of " + missed +
                                  ", got one of " + text_of(dtype.get()) + ".");
    void* address = address_of(value);
    if (address != nullptr || whole(called(value, "numel", name_of_numel).get()) == 0) return address;
    // Zeros without memory, which autograd makes for zero tangents.
    kept.emplace_back(PyObject_CallFunctionObjArgs(python.materialised, value, nullptr));
    if (kept.back().get() == nullptr) throw ErrorIsSet();
    return address_of(kept.back().get());
}

int Signature::choice(int field, PyObject* value) const {
    const auto& names = fields_[field].choices;
    for (std::size_t i = 0; i < names.size(); ++i)
        if (names[i] == value) return int(i);
    std::string all;
    for (std::size_t i = 0; i < names.size(); ++i) {
        if (PyUnicode_Check(value) && PyUnicode_Compare(names[i], value) == 0) return int(i);
        all += (i ? ", " : "") + text_of(names[i]);
    }
    fail(PyExc_ValueError, std::string(function_) + ": " + fields_[field].name + " must be one of " + all + ", got " +
                               text_of(value) + ".");
}

void Signature::read(PyObject* const* matched, const Slots& slots, std::vector<Object>& kept) const {
    Storage storage = Storage::own;
    bool is_storage_known = false;
    for (int field = 0; field < slots.count; ++field) {
        const Slot& slot = slots.slots[field];
        PyObject* value = matched[field];
        switch (slot.kind) {
            case Kind::address: {
                Dtype wanted = slot.dtype;
                if (slot.storage && value != Py_None) {
                    if (!is_storage_known) storage = storage_of(value, slot.dtype);
                    is_storage_known = true;
                    *slot.storage = storage;
                    if (storage != Storage::own) wanted = half_dtype(storage);
                }
                *static_cast<void**>(slot.field) = address(field, value, wanted, kept);
                break;
            }
            case Kind::whole:
                if (!PyLong_Check(value)) wrong(field, "an int", value);
                if (slot.size == sizeof(int64_t))
                    *static_cast<int64_t*>(slot.field) = whole(value);
                else
                    *static_cast<int*>(slot.field) = int(whole(value));
                break;
            case Kind::number: {
                const double number = PyFloat_AsDouble(value);
                if (number == -1 && PyErr_Occurred()) wrong(field, "a number", value);
                *static_cast<double*>(slot.field) = number;
                break;
            }
            case Kind::boolean:
                if (!PyBool_Check(value)) wrong(field, "a bool", value);
                *static_cast<bool*>(slot.field) = value == Py_True;
                break;
            case Kind::choice:
                *static_cast<int*>(slot.field) = choice(field, value);
                break;
            case Kind::wholes: {
                const Py_ssize_t count = PySequence_Size(value);
                if (count < 0 || count > slot.size) wrong(field, "a short sequence of ints", value);
                auto* numbers = static_cast<int64_t*>(slot.field);
                *numbers++ = count;
                for (Py_ssize_t i = 0; i < count; ++i) {
                    const Object number(PySequence_GetItem(value, i));
                    if (number.get() == nullptr) throw ErrorIsSet();
                    *numbers++ = whole(number.get());
                }
                break;
            }
        }
    }
}

int dtype_of_tensor(PyObject* tensor) {
    const Object dtype = attribute(tensor, "dtype", name_of_dtype);
    if (dtype.get() == nullptr) PyErr_Clear();
    for (int i = 0; i < num_dtypes; ++i)
        if (dtype.get() && dtype.get() == python.dtypes[i]) return i;
    return -1;
}

bool runs_on_gpu(PyObject* tensor) {
#if defined(QMK_CUDA_ON_CPU)
    return true;
#else
    return is_on_gpu(tensor);
#endif
}

bool is_on_gpu(PyObject* tensor) {
    const Object answer = attribute(tensor, "is_cuda", name_of_is_cuda);
    if (answer.get() == nullptr) throw ErrorIsSet();
    return answer.get() == Py_True;
}

int device_index(PyObject* tensor) {
    return int(whole(called(tensor, "get_device", name_of_get_device).get()));
}

int num_threads() {
    const Object number(PyObject_CallNoArgs(python.num_threads));
    if (number.get() == nullptr) throw ErrorIsSet();
    return int(whole(number.get()));
}

void* current_stream(PyObject* tensor) {
    const Object device = attribute(tensor, "device", name_of_device);
    if (device.get() == nullptr) throw ErrorIsSet();
    const Object stream(PyObject_CallFunctionObjArgs(python.stream, device.get(), nullptr));
    if (stream.get() == nullptr) throw ErrorIsSet();
    void* address = PyLong_AsVoidPtr(stream.get());
    if (address == nullptr && PyErr_Occurred()) throw ErrorIsSet();
    return address;
}

void* address_of(PyObject* tensor) {
    const Object number = called(tensor, "data_ptr", name_of_data_ptr);
    void* address = PyLong_AsVoidPtr(number.get());
    if (address == nullptr && PyErr_Occurred()) throw ErrorIsSet();
    return address;
}

void* Scratch::take(int64_t bytes, PyObject* like, bool is_on_gpu) {
    if (bytes <= 0) return nullptr;
    if (!is_on_gpu && bytes <= most_kept_bytes) return kept_memory(bytes);
    const Object device = attribute(like, "device", name_of_device), size(PyLong_FromLongLong(bytes));
    if (device.get() == nullptr || size.get() == nullptr) throw ErrorIsSet();
    PyObject* tensor = PyObject_CallFunctionObjArgs(python.scratch, size.get(), device.get(), nullptr);
    if (tensor == nullptr) throw ErrorIsSet();
    tensor_.~Object();
    new (&tensor_) Object(tensor);
    return address_of(tensor);
}

}  // namespace qmk::python
