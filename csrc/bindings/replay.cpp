#include "replay.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>

namespace qmk::python {

namespace {

// --- Recordings.

// A tensor's dtype, device and shape, or an argument that is not a tensor.
class Pattern {
  public:
    explicit Pattern(PyObject* value) : value_(Py_NewRef(value)) {}
    Pattern(const TensorView& view) : value_(nullptr), view_(view), shape_(view.shape, view.shape + view.ndim) {}

    bool is_tensor() const { return value_.get() == nullptr; }

    bool fits(const TensorView& view) const {
        return view.is_alike(view_) && view.ndim == view_.ndim && std::equal(shape_.begin(), shape_.end(), view.shape);
    }

    bool fits(PyObject* value) const {
        if (value == value_.get()) return true;
        if (Py_TYPE(value) != Py_TYPE(value_.get()) || value == Py_None) return false;
        const int equal = PyObject_RichCompareBool(value, value_.get(), Py_EQ);
        if (equal < 0) PyErr_Clear();
        return equal == 1;
    }

  private:
    Object value_;
    TensorView view_{};
    std::vector<int64_t> shape_;
};

// Where in a call's struct an address goes, and whose it is: an argument's, or after those an output's.
struct Address {
    std::size_t offset;
    int source;
};

struct Plan {
    std::vector<Pattern> arguments;
    std::vector<Object> prototypes;  // of the outputs; null for None
    bool is_tuple;
    std::vector<Address> addresses;
    alignas(std::max_align_t) unsigned char call[largest_call];
    std::size_t size;
    void (*run)(void* call, PyObject* tensor, bool is_small);
    bool is_small;
};

// The launches of one run of a function.
struct Recording {
    int num_launches = 0;
    Plan plan;
    std::vector<std::pair<std::size_t, Object>> tensors;
};

thread_local Recording* recording = nullptr;

class Recorder {
  public:
    explicit Recorder(Recording& now) : before_(recording) { recording = &now; }
    ~Recorder() { recording = before_; }

  private:
    Recording* before_;
};

constexpr int most_arguments = 32, most_plans = 16;
// A recording costs as much as several calls, so functions whose shapes never repeat stop recording.
constexpr int credit_of_recording = 8, first_credit = 256, most_credit = 4096;

struct Function {
    explicit Function(PyObject* function) : run(Py_NewRef(function)) {}

    Object run;
    std::vector<std::shared_ptr<const Plan>> plans;
    std::size_t next = 0;
    int credit = first_credit;
    PyMethodDef method;
};

void free_function(PyObject* capsule) {
    delete static_cast<Function*>(PyCapsule_GetPointer(capsule, nullptr));
}

using Views = TensorView[most_arguments];

bool fits(const Plan& plan, PyObject* const* values, Py_ssize_t count, const Views& views) {
    if (Py_ssize_t(plan.arguments.size()) != count) return false;
    for (Py_ssize_t i = 0; i < count; ++i) {
        const Pattern& pattern = plan.arguments[i];
        if (is_tensor(values[i]) ? !(pattern.is_tensor() && pattern.fits(views[i]))
                                 : pattern.is_tensor() || !pattern.fits(values[i]))
            return false;
    }
    return true;
}

PyObject* replay(const Plan& plan, PyObject* const* values, Py_ssize_t count, const Views& views) {
    alignas(std::max_align_t) unsigned char call[largest_call];
    std::memcpy(call, plan.call, plan.size);
    const int num_outputs = int(plan.prototypes.size());
    Object outputs(PyTuple_New(num_outputs));
    if (outputs.get() == nullptr) throw ErrorIsSet();
    void* of_outputs[most_arguments];
    for (int i = 0; i < num_outputs; ++i) {
        PyObject* prototype = plan.prototypes[i].get();
        PyObject* output =
            prototype ? PyObject_CallFunctionObjArgs(python.empty, prototype, nullptr) : Py_NewRef(Py_None);
        if (output == nullptr) throw ErrorIsSet();
        PyTuple_SetItem(outputs.get(), i, output);
        if (prototype == nullptr) continue;
        TensorView view;
        if (!read_tensor(output, view) || !is_contiguous(view))
            fail(PyExc_RuntimeError, "an output could not be allocated.");
        of_outputs[i] = view.data;
    }
    for (const Address& address : plan.addresses) {
        void* data = address.source < count ? views[address.source].data : of_outputs[address.source - count];
        std::memcpy(call + address.offset, &data, sizeof data);
    }
    PyObject* tensor = nullptr;
    for (Py_ssize_t i = 0; tensor == nullptr; ++i)
        if (is_tensor(values[i])) tensor = values[i];
    plan.run(call, tensor, plan.is_small);
    if (plan.is_tuple) return Py_NewRef(outputs.get());
    return Py_NewRef(PyTuple_GetItem(outputs.get(), 0));
}

// Completes the plan of a run that returned `result`; false if it cannot be repeated because it did not launch exactly
// one kernel, used memory of neither an argument nor an output, or used a tensor in two places.
bool complete(Recording& now, PyObject* const* values, Py_ssize_t count, const Views& views, PyObject* result) {
    Plan& plan = now.plan;
    plan.is_tuple = PyTuple_Check(result);
    if (now.num_launches != 1 || (plan.is_tuple && !PyTuple_CheckExact(result))) return false;
    std::vector<PyObject*> sources(values, values + count);
    const Py_ssize_t num_outputs = plan.is_tuple ? PyTuple_Size(result) : 1;
    for (Py_ssize_t i = 0; i < num_outputs; ++i) sources.push_back(plan.is_tuple ? PyTuple_GetItem(result, i) : result);
    if (num_outputs > most_arguments) return false;
    std::vector<void*> data;
    for (std::size_t i = 0; i < sources.size(); ++i) {
        TensorView view{};
        if (is_tensor(sources[i])) {
            if (!read_tensor(sources[i], view) || !is_contiguous(view)) return false;
            if (std::find(sources.begin(), sources.begin() + i, sources[i]) != sources.begin() + i) return false;
        } else if (Py_ssize_t(i) >= count && sources[i] != Py_None) {
            return false;
        }
        data.push_back(view.data);
    }
    for (const auto& [offset, tensor] : now.tensors) {
        const auto at = std::find(sources.begin(), sources.end(), tensor.get());
        void* address;
        std::memcpy(&address, plan.call + offset, sizeof address);
        if (at == sources.end() || address != data[at - sources.begin()]) return false;
        plan.addresses.push_back({offset, int(at - sources.begin())});
    }
    for (Py_ssize_t i = 0; i < count; ++i) {
        if (is_tensor(values[i]))
            plan.arguments.emplace_back(views[i]);
        else
            plan.arguments.emplace_back(values[i]);
    }
    for (std::size_t i = count; i < sources.size(); ++i) {
        PyObject* prototype = nullptr;
        if (sources[i] != Py_None) {
            prototype = PyObject_CallFunctionObjArgs(python.prototype, sources[i], nullptr);
            if (prototype == nullptr) throw ErrorIsSet();
        }
        plan.prototypes.emplace_back(prototype);
    }
    return true;
}

PyObject* run(Function& function, PyObject* const* values, Py_ssize_t count) {
    Object arguments(PyTuple_New(count));
    if (arguments.get() == nullptr) throw ErrorIsSet();
    for (Py_ssize_t i = 0; i < count; ++i) PyTuple_SetItem(arguments.get(), i, Py_NewRef(values[i]));
    PyObject* result = PyObject_CallObject(function.run.get(), arguments.get());
    if (result == nullptr) throw ErrorIsSet();
    return result;
}

PyObject* call(Function& function, PyObject* const* values, Py_ssize_t count) {
    Views views;
    bool can_replay = count <= most_arguments, has_tensor = false;
    for (Py_ssize_t i = 0; can_replay && i < count; ++i)
        if (is_tensor(values[i])) {
            has_tensor = true;
            can_replay = read_tensor(values[i], views[i]) && views[i].data && is_contiguous(views[i]);
        }
    if (!can_replay || !has_tensor) return run(function, values, count);
    for (const auto& each : function.plans)
        if (fits(*each, values, count, views)) {
            const std::shared_ptr<const Plan> plan = each;  // another thread may replace it meanwhile
            function.credit = std::min(function.credit + 1, most_credit);
            return replay(*plan, values, count, views);
        }
    if (function.credit < credit_of_recording) return run(function, values, count);
    function.credit -= credit_of_recording;
    Recording now;
    Object result(nullptr);
    {
        const Recorder here(now);
        result = Object(run(function, values, count));
    }
    if (complete(now, values, count, views, result.get())) {
        auto plan = std::make_shared<const Plan>(std::move(now.plan));
        if (function.plans.size() < most_plans)
            function.plans.push_back(std::move(plan));
        else
            function.plans[function.next++ % most_plans] = std::move(plan);
    }
    return Py_NewRef(result.get());
}

PyObject* call_replayed(PyObject* capsule, PyObject* const* values, Py_ssize_t count) {
    try {
        return call(*static_cast<Function*>(PyCapsule_GetPointer(capsule, nullptr)), values, count);
    } catch (...) {
        return translated_error();
    }
}

}  // namespace

void note(const Launch& launch) {
    if (recording == nullptr || ++recording->num_launches > 1) return;
    Plan& plan = recording->plan;
    std::memcpy(plan.call, launch.call, launch.size);
    plan.size = launch.size;
    plan.run = launch.run;
    plan.is_small = launch.is_small;
    for (int field = 0; field < launch.slots.count; ++field) {
        const Slot& slot = launch.slots.slots[field];
        if (slot.kind != Kind::address || launch.values[field] == Py_None) continue;
        const auto offset = static_cast<const char*>(slot.field) - static_cast<const char*>(launch.call);
        recording->tensors.emplace_back(std::size_t(offset), Object(Py_NewRef(launch.values[field])));
    }
}

PyObject* replayed(PyObject*, PyObject* function) {
    if (!can_read_tensors()) return Py_NewRef(function);
    auto owned = std::make_unique<Function>(function);
    void (*pointer)() = reinterpret_cast<void (*)()>(call_replayed);
    owned->method = {"replayed", reinterpret_cast<PyCFunction>(pointer), METH_FASTCALL, nullptr};
    PyMethodDef* method = &owned->method;
    const Object capsule(PyCapsule_New(owned.get(), nullptr, free_function));
    if (capsule.get() == nullptr) return nullptr;
    owned.release();
    return PyCFunction_NewEx(method, capsule.get(), nullptr);
}

}  // namespace qmk::python
