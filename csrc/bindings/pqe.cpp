// PQE-LH's functions for Python: the same arguments for `cpu` and `cuda`, but for what comes last: the number of
// threads on the CPU, the device and the stream on a GPU.
#include "../cpu/pqe.h"

#include "core.h"
#ifdef QMK_CUDA
#include "../cuda/pqe.h"
#endif

namespace qmk {

namespace {

template <class T>
const PqeCpu<T>& pqe_cpu() {
#define X(isa) &isa::pqe_float,
    if constexpr (sizeof(T) == sizeof(float)) return in_use<PqeCpu<T>>({QMK_ISAS});
#undef X
#define X(isa) &isa::pqe_double,
    if constexpr (sizeof(T) == sizeof(double)) return in_use<PqeCpu<T>>({QMK_ISAS});
#undef X
}

}  // namespace

void bind_pqe(pybind11::module_& cpu, pybind11::module_* cuda) {
    using release = pybind11::call_guard<pybind11::gil_scoped_release>;

    cpu.def(
        "pqe_forward",
        [](int item_size, Pointer x, Pointer y, Pointer weights, Pointer out, int64_t rows, int64_t num_components,
           int64_t dim_per_component, int threads) {
            with_item_type(item_size, [&](auto item) {
                using T = decltype(item);
                pqe_cpu<T>().forward(as<T>(x), as<T>(y), as<T>(weights), as<T>(out),
                                     {rows, num_components, dim_per_component}, threads);
            });
        },
        release());
    cpu.def(
        "pqe_backward",
        [](int item_size, Pointer grad_out, Pointer x, Pointer y, Pointer weights, Pointer grad_x, Pointer grad_y,
           Pointer partial, int64_t rows, int64_t num_components, int64_t dim_per_component, int threads) {
            with_item_type(item_size, [&](auto item) {
                using T = decltype(item);
                pqe_cpu<T>().backward(as<T>(grad_out), as<T>(x), as<T>(y), as<T>(weights), as<T>(grad_x), as<T>(grad_y),
                                      as<T>(partial), {rows, num_components, dim_per_component}, threads);
            });
        },
        release());
    cpu.def("pqe_weight_groups", [](int64_t rows) { return pqe_cpu<float>().weight_groups(rows); });
    cpu.def("pqe_pairwise_workspace", [](int item_size, int64_t batch, int64_t num_x, int64_t num_y,
                                         int64_t num_components, int64_t dim_per_component, bool backward) {
        return with_item_type(item_size, [&](auto item) {
            return pqe_cpu<decltype(item)>().pairwise_workspace(
                {batch, num_x, num_y, num_components, dim_per_component}, backward);
        });
    });
    cpu.def(
        "pqe_pairwise_forward",
        [](int item_size, Pointer x, Pointer y, Pointer weights, Pointer out, Pointer workspace, int64_t batch,
           int64_t num_x, int64_t num_y, int64_t num_components, int64_t dim_per_component, int threads) {
            with_item_type(item_size, [&](auto item) {
                using T = decltype(item);
                pqe_cpu<T>().pairwise_forward(as<T>(x), as<T>(y), as<T>(weights), as<T>(out), as<void>(workspace),
                                              {batch, num_x, num_y, num_components, dim_per_component}, threads);
            });
        },
        release());
    cpu.def(
        "pqe_pairwise_backward",
        [](int item_size, Pointer grad_out, Pointer x, Pointer y, Pointer weights, Pointer grad_x, Pointer grad_y,
           Pointer partial, Pointer workspace, int64_t batch, int64_t num_x, int64_t num_y, int64_t num_components,
           int64_t dim_per_component, int threads) {
            with_item_type(item_size, [&](auto item) {
                using T = decltype(item);
                pqe_cpu<T>().pairwise_backward(as<T>(grad_out), as<T>(x), as<T>(y), as<T>(weights), as<T>(grad_x),
                                               as<T>(grad_y), as<T>(partial), as<void>(workspace),
                                               {batch, num_x, num_y, num_components, dim_per_component}, threads);
            });
        },
        release());

#ifdef QMK_CUDA
    cuda->def(
        "pqe_forward",
        [](int item_size, Pointer x, Pointer y, Pointer weights, Pointer out, int64_t rows, int64_t num_components,
           int64_t dim_per_component, int device, Pointer stream) {
            with_item_type(item_size, [&](auto item) {
                using T = decltype(item);
                cuda::pqe_forward<T>(as<T>(x), as<T>(y), as<T>(weights), as<T>(out), rows, num_components,
                                     dim_per_component, {device, as<void>(stream)});
            });
        },
        release());
    cuda->def(
        "pqe_backward",
        [](int item_size, Pointer grad_out, Pointer x, Pointer y, Pointer weights, Pointer grad_x, Pointer grad_y,
           Pointer partial, int64_t rows, int64_t num_components, int64_t dim_per_component, int device,
           Pointer stream) {
            with_item_type(item_size, [&](auto item) {
                using T = decltype(item);
                cuda::pqe_backward<T>(as<T>(grad_out), as<T>(x), as<T>(y), as<T>(weights), as<T>(grad_x), as<T>(grad_y),
                                      as<T>(partial), rows, num_components, dim_per_component,
                                      {device, as<void>(stream)});
            });
        },
        release());
    cuda->def("pqe_weight_groups", [](int64_t rows) { return cuda::pqe_weight_groups(rows); });
    cuda->def("pqe_pairwise_workspace", [](int item_size, int64_t batch, int64_t num_x, int64_t num_y,
                                           int64_t num_components, int64_t dim_per_component, bool backward) {
        return cuda::pqe_pairwise_workspace(item_size, batch, num_x, num_y, num_components, dim_per_component,
                                            backward);
    });
    cuda->def(
        "pqe_pairwise_forward",
        [](int item_size, Pointer x, Pointer y, Pointer weights, Pointer out, Pointer workspace, int64_t batch,
           int64_t num_x, int64_t num_y, int64_t num_components, int64_t dim_per_component, int device,
           Pointer stream) {
            with_item_type(item_size, [&](auto item) {
                using T = decltype(item);
                cuda::pqe_pairwise_forward<T>(as<T>(x), as<T>(y), as<T>(weights), as<T>(out), as<void>(workspace),
                                              batch, num_x, num_y, num_components, dim_per_component,
                                              {device, as<void>(stream)});
            });
        },
        release());
    cuda->def(
        "pqe_pairwise_backward",
        [](int item_size, Pointer grad_out, Pointer x, Pointer y, Pointer weights, Pointer grad_x, Pointer grad_y,
           Pointer partial, Pointer workspace, int64_t batch, int64_t num_x, int64_t num_y, int64_t num_components,
           int64_t dim_per_component, int device, Pointer stream) {
            with_item_type(item_size, [&](auto item) {
                using T = decltype(item);
                cuda::pqe_pairwise_backward<T>(as<T>(grad_out), as<T>(x), as<T>(y), as<T>(weights), as<T>(grad_x),
                                               as<T>(grad_y), as<T>(partial), as<void>(workspace), batch, num_x, num_y,
                                               num_components, dim_per_component, {device, as<void>(stream)});
            });
        },
        release());
#else
    (void)cuda;
#endif
}

}  // namespace qmk
