// Finite scalar quantisation for Python, on CPUs and GPUs. The levels are in the memory of the CPU for both; last come
// the number of threads on the CPU, device and stream on a GPU.
#include "../cpu/fsq.h"

#include "core.h"
#ifdef QMK_CUDA
#include "../cuda/fsq.h"
#endif

namespace qmk {

namespace {

template <class T>
const FsqCpu<T>& fsq_cpu() {
#define X(isa) &isa::fsq_float,
    if constexpr (sizeof(T) == sizeof(float)) return in_use<FsqCpu<T>>({QMK_ISAS});
#undef X
#define X(isa) &isa::fsq_double,
    if constexpr (sizeof(T) == sizeof(double)) return in_use<FsqCpu<T>>({QMK_ISAS});
#undef X
}

}  // namespace

void bind_fsq(pybind11::module_& cpu, pybind11::module_* cuda) {
    using release = pybind11::call_guard<pybind11::gil_scoped_release>;

    cpu.def(
        "fsq_forward",
        [](int item_size, Pointer z, Pointer codes, Pointer indices, int64_t groups, Pointer levels, int n,
           int threads) {
            with_item_type(item_size, [&](auto item) {
                using T = decltype(item);
                fsq_cpu<T>().forward(as<T>(z), as<T>(codes), as<int64_t>(indices), groups, as<int64_t>(levels), n,
                                     threads);
            });
        },
        release());
    cpu.def(
        "fsq_backward",
        [](int item_size, Pointer grad_codes, Pointer z, Pointer grad_z, int64_t groups, Pointer levels, int n,
           int threads) {
            with_item_type(item_size, [&](auto item) {
                using T = decltype(item);
                fsq_cpu<T>().backward(as<T>(grad_codes), as<T>(z), as<T>(grad_z), groups, as<int64_t>(levels), n,
                                      threads);
            });
        },
        release());

#ifdef QMK_CUDA
    cuda->def(
        "fsq_forward",
        [](int item_size, Pointer z, Pointer codes, Pointer indices, int64_t groups, Pointer levels, int n, int device,
           Pointer stream) {
            with_item_type(item_size, [&](auto item) {
                using T = decltype(item);
                cuda::fsq_forward<T>(as<T>(z), as<T>(codes), as<int64_t>(indices), groups, as<int64_t>(levels), n,
                                     {device, as<void>(stream)});
            });
        },
        release());
    cuda->def(
        "fsq_backward",
        [](int item_size, Pointer grad_codes, Pointer z, Pointer grad_z, int64_t groups, Pointer levels, int n,
           int device, Pointer stream) {
            with_item_type(item_size, [&](auto item) {
                using T = decltype(item);
                cuda::fsq_backward<T>(as<T>(grad_codes), as<T>(z), as<T>(grad_z), groups, as<int64_t>(levels), n,
                                      {device, as<void>(stream)});
            });
        },
        release());
#else
    (void)cuda;
#endif
}

}  // namespace qmk
