// A kernel's signature, written once. The CPU kernels, the CUDA launchers, the Python function and the tests' CUDA
// kernels on a CPU all follow from the struct that holds a kernel's arguments:
//
//     template <class T>                   // T: float or double, one for all tensors of a call
//     struct FooForward {
//         const T *x, *y;                  // contiguous tensors; null where Python gives None, or an empty tensor
//         T* out;
//         FooShape shape;                  // a struct with QMK_FIELDS of its own: these are arguments too
//         FooSettings settings;            // a struct with QMK_SETTINGS: one argument, a named tuple
//         void* scratch;                   // only if the kernel needs it, see below; not among the fields
//         QMK_FIELDS(x, y, out, shape, settings)
//         Sizes sizes() const { return {shape.rows * shape.dim, shape.rows * shape.dim, shape.rows}; }
//     };
//     QMK_KERNEL(foo_forward, FooForward)  // in namespace qmk
//     using foo_kernels = Kernels<foo_forward_kernel>;
//
// A kernel is then a function of the same name in the namespace of every instruction set, and in qmk::cuda:
//
//     template <class T> void foo_forward(const FooForward<T>& call, int threads);                  // csrc/cpu/foo.cpp
//     template <class T> void foo_forward(const FooForward<T>& call, Context context);              // csrc/cuda/foo.cu
//
// made for float and double by QMK_INSTANTIATE. If a call has a field `scratch`, the caller allocates, aligned to 64,
// as many bytes as `template <class T> int64_t foo_forward_scratch(const FooForward<T>& call)` returns, which stands
// beside each kernel. It is a template over T like the kernel, and made by QMK_INSTANTIATE_SCRATCH.
//
// `sizes` says how many items each address points to, in the order of the fields, for callers that know the sizes of
// what they pass (csrc/xla).
//
// A field `Stored<const T> x` is a tensor that Python may give in half precision where T is float and the kernel runs
// on a GPU; all such fields of a call have one dtype. To a CPU kernel it is a `const T*`.
//
// From Python: `kernels.foo_forward(x=x, y=y, out=out, rows=3, dim=8, settings=settings)`. An argument that is missing,
// unknown, or of another dtype is a TypeError.
#pragma once

#include <cstdint>
#include <type_traits>
#include <vector>

#include "fields.h"
#include "isa.h"

#define QMK_DECLARE_ON_CPU(isa, function, Call)      \
    namespace isa {                                  \
    template <class T>                               \
    void function(const Call<T>& call, int threads); \
    template <class T>                               \
    int64_t function##_scratch(const Call<T>& call); \
    }
#define QMK_FUNCTION_OF(isa, function) isa::function<T>,

#define QMK_KERNEL(function, Call)                                                                                     \
    QMK_FOR_EACH_ISA(QMK_DECLARE_ON_CPU, function, Call)                                                               \
    namespace cuda {                                                                                                   \
    template <class T>                                                                                                 \
    void function(const Call<T>& call, Context context);                                                               \
    template <class T>                                                                                                 \
    int64_t function##_scratch(const Call<T>& call);                                                                   \
    }                                                                                                                  \
    struct function##_kernel {                                                                                         \
        static constexpr const char* name = #function;                                                                 \
        template <class T>                                                                                             \
        using Arguments = Call<T>;                                                                                     \
        template <class T>                                                                                             \
        static void run_on_cpu(const Call<T>& call, int threads, Isa isa) {                                            \
            static constexpr void (*functions[])(const Call<T>&, int) = {QMK_FOR_EACH_ISA(QMK_FUNCTION_OF, function)}; \
            functions[int(isa)](call, threads);                                                                        \
        }                                                                                                              \
        template <class T>                                                                                             \
        static int64_t scratch_on_cpu(const Call<T>& call, Isa isa) {                                                  \
            static constexpr int64_t (*functions[])(const Call<T>&) = {                                                \
                QMK_FOR_EACH_ISA(QMK_FUNCTION_OF, function##_scratch)};                                                \
            return functions[int(isa)](call);                                                                          \
        }                                                                                                              \
        template <class T>                                                                                             \
        static void run_on_gpu(const Call<T>& call, cuda::Context context) {                                           \
            cuda::function<T>(call, context);                                                                          \
        }                                                                                                              \
        template <class T>                                                                                             \
        static int64_t scratch_on_gpu(const Call<T>& call) {                                                           \
            return cuda::function##_scratch<T>(call);                                                                  \
        }                                                                                                              \
    };

// Instantiates a kernel for float and double where it is defined. Where: `int` in csrc/cpu/<op>.cpp, `Context` in
// csrc/cuda/<op>.cu.
#define QMK_INSTANTIATE(function, Call, Where)         \
    template void function(const Call<float>&, Where); \
    template void function(const Call<double>&, Where);
#define QMK_INSTANTIATE_SCRATCH(function, Call)              \
    template int64_t function##_scratch(const Call<float>&); \
    template int64_t function##_scratch(const Call<double>&);

namespace qmk {

// How the numbers behind an address are stored: in the call's T, or in half precision.
enum class Storage : int { own, bfloat16, float16 };

// An address whose numbers may be stored in half precision (cuda/half.cuh).
template <class T>
struct Stored {
    T* address;
    Storage storage;

    constexpr Stored(T* address = nullptr, Storage storage = Storage::own) : address(address), storage(storage) {}
    constexpr operator T*() const { return address; }
};

// The number of items behind an address of a call.
struct Items {
    int64_t count;
    bool may_be_absent;  // then the address is null

    Items(int64_t count, bool may_be_absent = false) : count(count), may_be_absent(may_be_absent) {}
};
inline Items or_absent(int64_t count) {
    return {count, true};
}

// Of every address of a call; empty if the call's whole numbers do not fit each other.
using Sizes = std::vector<Items>;

// The kernels of an op.
template <class... Kernel>
struct Kernels {};

template <class... A, class... B>
constexpr Kernels<A..., B...> operator+(Kernels<A...>, Kernels<B...>) {
    return {};
}

template <class Call, class = void>
constexpr bool needs_scratch = false;
template <class Call>
constexpr bool needs_scratch<Call, std::void_t<decltype(Call::scratch)>> = true;

// Up to `most` whole numbers, given as a sequence.
template <int most>
struct Integers {
    int64_t count;
    int64_t values[most];
};

namespace cuda {

// Where a launch goes. Kernels run in the order of the stream; a launcher neither waits for them nor allocates.
struct Context {
    int device;
    void* stream;
};

}  // namespace cuda

}  // namespace qmk
