// The Poisson comparisons' functions for Python; last come the number of threads on the CPU, device and stream on a
// GPU.
#include "../cpu/poisson.h"

#include "core.h"
#ifdef QMK_CUDA
#include "../cuda/poisson.h"
#endif

namespace qmk {

namespace {

template <class T>
const PoissonCpu<T>& poisson_cpu() {
#define X(isa) &isa::poisson_float,
    if constexpr (sizeof(T) == sizeof(float)) return in_use<PoissonCpu<T>>({QMK_ISAS});
#undef X
#define X(isa) &isa::poisson_double,
    if constexpr (sizeof(T) == sizeof(double)) return in_use<PoissonCpu<T>>({QMK_ISAS});
#undef X
}

}  // namespace

void bind_poisson(pybind11::module_& cpu, pybind11::module_* cuda) {
    using release = pybind11::call_guard<pybind11::gil_scoped_release>;

    cpu.def(
        "poisson_forward",
        [](int item_size, Pointer a, Pointer b, Pointer out, int64_t count, int comparison, int threads) {
            with_item_type(item_size, [&](auto item) {
                using T = decltype(item);
                poisson_cpu<T>().forward(as<T>(a), as<T>(b), as<T>(out), count, PoissonComparison(comparison), threads);
            });
        },
        release());
    cpu.def(
        "poisson_backward",
        [](int item_size, Pointer grad_out, Pointer a, Pointer b, Pointer grad_a, Pointer grad_b, int64_t count,
           int comparison, int threads) {
            with_item_type(item_size, [&](auto item) {
                using T = decltype(item);
                poisson_cpu<T>().backward(as<T>(grad_out), as<T>(a), as<T>(b), as<T>(grad_a), as<T>(grad_b), count,
                                          PoissonComparison(comparison), threads);
            });
        },
        release());

#ifdef QMK_CUDA
    cuda->def(
        "poisson_forward",
        [](int item_size, Pointer a, Pointer b, Pointer out, int64_t count, int comparison, int device,
           Pointer stream) {
            with_item_type(item_size, [&](auto item) {
                using T = decltype(item);
                cuda::poisson_forward<T>(as<T>(a), as<T>(b), as<T>(out), count, comparison, {device, as<void>(stream)});
            });
        },
        release());
    cuda->def(
        "poisson_backward",
        [](int item_size, Pointer grad_out, Pointer a, Pointer b, Pointer grad_a, Pointer grad_b, int64_t count,
           int comparison, int device, Pointer stream) {
            with_item_type(item_size, [&](auto item) {
                using T = decltype(item);
                cuda::poisson_backward<T>(as<T>(grad_out), as<T>(a), as<T>(b), as<T>(grad_a), as<T>(grad_b), count,
                                          comparison, {device, as<void>(stream)});
            });
        },
        release());
#else
    (void)cuda;
#endif
}

}  // namespace qmk
