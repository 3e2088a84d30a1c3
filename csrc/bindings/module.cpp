// The Python module qmkernels._core: a description of the build, and a function for every kernel of every op.
#include "ops.h"  // made by the build from csrc/ops.cmake
#include "replay.h"
#if !defined(QMK_CUDA_ON_CPU)
#include "../xla/handlers.h"
#endif

namespace qmk::python {

namespace {

class WithoutTheGil {
  public:
    WithoutTheGil() : state_(PyEval_SaveThread()) {}
    ~WithoutTheGil() { PyEval_RestoreThread(state_); }
    WithoutTheGil(const WithoutTheGil&) = delete;
    WithoutTheGil& operator=(const WithoutTheGil&) = delete;

  private:
    PyThreadState* state_;
};

// Launches a kernel on the device of `tensor`. On a CPU, a small call ends before other threads, or one that waits for
// the GIL, could do anything.
template <class Kernel, class T>
void launch(void* memory, PyObject* tensor, [[maybe_unused]] bool is_small) {
    using Call = typename Kernel::template Arguments<T>;
    Call& call = *static_cast<Call*>(memory);
    [[maybe_unused]] Scratch scratch;
#if defined(QMK_CUDA_ON_CPU)
    if constexpr (needs_scratch<Call>)
        call.scratch = scratch.take(Kernel::template scratch_on_gpu<T>(call), tensor, true);
    Kernel::template run_on_gpu<T>(call, cuda::Context{0, nullptr});
#else
    if (is_on_gpu(tensor)) {
#if defined(QMK_CUDA)
        if constexpr (needs_scratch<Call>)
            call.scratch = scratch.take(Kernel::template scratch_on_gpu<T>(call), tensor, true);
        const cuda::Context context{device_index(tensor), current_stream(tensor)};
        const WithoutTheGil without;
        Kernel::template run_on_gpu<T>(call, context);
#else
        fail(PyExc_RuntimeError, std::string(Kernel::name) + ": the core was built without CUDA kernels.");
#endif
    } else {
        const Isa isa = is_small ? isa_of_small_calls() : qmk::isa_in_use();
        if constexpr (needs_scratch<Call>)
            call.scratch = scratch.take(Kernel::template scratch_on_cpu<T>(call, isa), tensor, false);
        if (is_small) return Kernel::template run_on_cpu<T>(call, 1, isa);
        const int threads = num_threads();
        const WithoutTheGil without;
        Kernel::template run_on_cpu<T>(call, threads, isa);
    }
#endif
}

template <class Kernel, class T>
void run(const Signature& signature, PyObject* const* values, PyObject* tensor) {
    using Call = typename Kernel::template Arguments<T>;
    static_assert(sizeof(Call) <= largest_call && std::is_trivially_copyable_v<Call>);
    Call call{};
    std::vector<Object> kept;
    const Slots slots(call);
    signature.read(values, slots, kept);
    const bool is_small = is_small_call(slots, values);
    note({&call, sizeof(Call), launch<Kernel, T>, is_small, slots, values});
    launch<Kernel, T>(&call, tensor, is_small);
}

template <class Kernel>
PyObject* function(PyObject*, PyObject* const* values, Py_ssize_t num_positional, PyObject* keywords) {
    try {
        static Signature signature(Kernel::name, typename Kernel::template Arguments<float>{});
        PyObject* matched[most_fields];
        signature.match(values, num_positional, keywords, matched);
        const int field = signature.first_item(matched);
        PyObject* tensor = matched[field];
        switch (dtype_of_tensor(tensor)) {
            case int(Dtype::float32):
            case int(Dtype::bfloat16):
            case int(Dtype::float16):
                run<Kernel, float>(signature, matched, tensor);
                break;
            case int(Dtype::float64):
                run<Kernel, double>(signature, matched, tensor);
                break;
            default:
                fail(PyExc_TypeError, std::string(signature.function()) + ": " + signature.name(field) +
                                          " must be a tensor of float32 or float64.");
        }
        return Py_NewRef(Py_None);
    } catch (...) {
        return translated_error();
    }
}

template <class Kernel>
PyMethodDef method() {
    void (*pointer)() = reinterpret_cast<void (*)()>(function<Kernel>);
    return {Kernel::name, reinterpret_cast<PyCFunction>(pointer), METH_FASTCALL | METH_KEYWORDS,
            Kernel::template Arguments<float>::field_names};
}

template <class... Kernel>
PyMethodDef* methods_of(Kernels<Kernel...>) {
    static PyMethodDef methods[] = {method<Kernel>()..., {nullptr, nullptr, 0, nullptr}};
    return methods;
}

PyObject* connect(PyObject*, PyObject* arguments) {
    PyObject* dtypes[num_dtypes];
    PyObject *num_threads, *stream, *scratch, *materialised, *exchange, *tensor, *parameter, *prototype, *empty;
    if (!PyArg_ParseTuple(arguments, "(OOOOOOO)OOOO(OOOOO)", &dtypes[0], &dtypes[1], &dtypes[2], &dtypes[3], &dtypes[4],
                          &dtypes[5], &dtypes[6], &num_threads, &stream, &scratch, &materialised, &exchange, &tensor,
                          &parameter, &prototype, &empty) ||
        !connect_exchange(exchange))
        return nullptr;
    for (int i = 0; i < num_dtypes; ++i) python.dtypes[i] = Py_NewRef(dtypes[i]);
    python.num_threads = Py_NewRef(num_threads);
    python.stream = Py_NewRef(stream);
    python.scratch = Py_NewRef(scratch);
    python.materialised = Py_NewRef(materialised);
    python.tensor = Py_NewRef(tensor);
    python.parameter = Py_NewRef(parameter);
    python.prototype = Py_NewRef(prototype);
    python.empty = Py_NewRef(empty);
    return Py_NewRef(Py_None);
}

#if !defined(QMK_CUDA_ON_CPU)

PyObject* isa_in_use(PyObject*, PyObject*) {
    try {
        return PyUnicode_FromString(name_of(qmk::isa_in_use()));
    } catch (...) {
        return translated_error();
    }
}

PyObject* build_info(PyObject*, PyObject*) {
    static constexpr const char* isas[] = {
#define QMK_NAME(isa, ...) #isa,
        QMK_FOR_EACH_ISA(QMK_NAME, )
#undef QMK_NAME
    };
    Object names(PyList_New(0));
    for (const char* isa : isas) {
        const Object name(PyUnicode_FromString(isa));
        PyList_Append(names.get(), name.get());
    }
#ifdef QMK_OPENMP
    PyObject* openmp = Py_True;
#else
    PyObject* openmp = Py_False;
#endif
#ifdef QMK_CUDA
    const char* architectures = QMK_CUDA_ARCHITECTURES;
#else
    const char* architectures = nullptr;
#endif
    return Py_BuildValue("{s:s,s:s,s:O,s:O,s:z}", "version", QMK_VERSION, "compiler", __VERSION__, "isas", names.get(),
                         "openmp", openmp, "cuda_architectures", architectures);
}

PyObject* xla_targets(PyObject*, PyObject*) {
    Object all(PyDict_New());
    for (const auto& target : xla::targets()) {
        const Object name(PyUnicode_FromString(target.name));
        PyObject* platforms = PyDict_GetItem(all.get(), name.get());
        if (platforms == nullptr) {
            const Object none(PyDict_New());
            PyDict_SetItem(all.get(), name.get(), none.get());
            platforms = none.get();
        }
        const Object handler(PyCapsule_New(reinterpret_cast<void*>(target.handler), nullptr, nullptr));
        PyDict_SetItemString(platforms, target.platform, handler.get());
    }
    return Py_NewRef(all.get());
}

#endif

PyMethodDef module_methods[] = {
    {"connect", connect, METH_VARARGS,
     "(float32, float64, uint8, int32, int64, bfloat16, float16), num_threads, stream, scratch, materialised, "
     "(exchange API, Tensor, Parameter, prototype, empty)"},
    {"are_embeddings", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(are_embeddings)), METH_FASTCALL,
     "Whether x and y are float tensors that a kernel compares."},
    {"are_batches", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(are_batches)), METH_FASTCALL,
     "Whether all are float tensors of one shape, rows in a batch."},
    {"replayed", replayed, METH_O, "(function) to one that is recorded and repeated."},
#if !defined(QMK_CUDA_ON_CPU)
    {"isa_in_use", isa_in_use, METH_NOARGS, "The instruction set of the CPU kernels."},
    {"build_info", build_info, METH_NOARGS, "What the core was built with."},
    {"xla_targets", xla_targets, METH_NOARGS, "{kernel: {platform: capsule of its handler for XLA's typed FFI}}"},
#endif
    {nullptr, nullptr, 0, nullptr}};

PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_core", nullptr, -1, module_methods, nullptr, nullptr, nullptr, nullptr};
PyModuleDef definition_of_kernels = {
    PyModuleDef_HEAD_INIT, "kernels", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};

PyObject* made() {
    PyObject* module = PyModule_Create(&definition);
    if (module == nullptr) return nullptr;
    PyObject* kernels = PyModule_Create(&definition_of_kernels);
    if (kernels == nullptr || PyModule_AddFunctions(kernels, methods_of(all_kernels)) < 0 ||
        PyModule_AddObject(module, "kernels", kernels) < 0)
        return nullptr;
    Object ops(PyList_New(0));
    for (const char* op : op_names) {
        const Object name(PyUnicode_FromString(op));
        PyList_Append(ops.get(), name.get());
    }
    PyModule_AddObject(module, "ops", PyList_AsTuple(ops.get()));
#if defined(QMK_CUDA)
    PyModule_AddIntConstant(module, "has_cuda", 1);
#else
    PyModule_AddIntConstant(module, "has_cuda", 0);
#endif
    return module;
}

}  // namespace

}  // namespace qmk::python

PyMODINIT_FUNC PyInit__core() {
    return qmk::python::made();
}
