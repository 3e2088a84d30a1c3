// IQE's functions for Python: the same arguments for `cpu` and `cuda`, but for what comes last: the number of threads
// on the CPU, the device and the stream on a GPU.
#include "../cpu/iqe.h"

#include "core.h"
#ifdef QMK_CUDA
#include "../cuda/iqe.h"
#endif

namespace qmk {

namespace {

template <class T>
const IqeCpu<T>& iqe_cpu() {
#define X(isa) &isa::iqe_float,
    if constexpr (sizeof(T) == sizeof(float)) return in_use<IqeCpu<T>>({QMK_ISAS});
#undef X
#define X(isa) &isa::iqe_double,
    if constexpr (sizeof(T) == sizeof(double)) return in_use<IqeCpu<T>>({QMK_ISAS});
#undef X
}

}  // namespace

void bind_iqe(pybind11::module_& cpu, pybind11::module_* cuda) {
    using release = pybind11::call_guard<pybind11::gil_scoped_release>;

    cpu.def(
        "iqe_forward",
        [](int item_size, Pointer x, Pointer y, Pointer max_weight, Pointer out, Pointer ends, Pointer largest,
           Pointer spread, int64_t rows, int64_t num_components, int64_t dim_per_component, int reduction,
           int threads) {
            with_item_type(item_size, [&](auto item) {
                using T = decltype(item);
                iqe_cpu<T>().forward(as<T>(x), as<T>(y), as<T>(max_weight), as<T>(out), as<uint8_t>(ends),
                                     as<int32_t>(largest), as<T>(spread), {rows, num_components, dim_per_component},
                                     Reduction(reduction), threads);
            });
        },
        release());
    cpu.def(
        "iqe_backward",
        [](int item_size, Pointer grad_out, Pointer ends, Pointer largest, Pointer max_weight, Pointer grad_x,
           Pointer grad_y, int64_t rows, int64_t num_components, int64_t dim_per_component, int reduction,
           int threads) {
            with_item_type(item_size, [&](auto item) {
                using T = decltype(item);
                iqe_cpu<T>().backward(as<T>(grad_out), as<uint8_t>(ends), as<int32_t>(largest), as<T>(max_weight),
                                      as<T>(grad_x), as<T>(grad_y), {rows, num_components, dim_per_component},
                                      Reduction(reduction), threads);
            });
        },
        release());
    cpu.def("iqe_pairwise_workspace",
            [](int item_size, int64_t batch, int64_t num_x, int64_t num_y, int64_t num_components,
               int64_t dim_per_component, int reduction, bool backward) {
                return with_item_type(item_size, [&](auto item) {
                    return iqe_cpu<decltype(item)>().pairwise_workspace(
                        {batch, num_x, num_y, num_components, dim_per_component}, Reduction(reduction), backward);
                });
            });
    cpu.def(
        "iqe_pairwise_forward",
        [](int item_size, Pointer x, Pointer y, Pointer max_weight, Pointer out, Pointer largest, Pointer workspace,
           int64_t batch, int64_t num_x, int64_t num_y, int64_t num_components, int64_t dim_per_component,
           int reduction, int threads) {
            with_item_type(item_size, [&](auto item) {
                using T = decltype(item);
                iqe_cpu<T>().pairwise_forward(
                    as<T>(x), as<T>(y), as<T>(max_weight), as<T>(out), as<int32_t>(largest), as<void>(workspace),
                    {batch, num_x, num_y, num_components, dim_per_component}, Reduction(reduction), threads);
            });
        },
        release());
    cpu.def(
        "iqe_pairwise_backward",
        [](int item_size, Pointer grad_out, Pointer x, Pointer y, Pointer largest, Pointer max_weight, Pointer grad_x,
           Pointer grad_y, Pointer grad_max_weight, Pointer workspace, int64_t batch, int64_t num_x, int64_t num_y,
           int64_t num_components, int64_t dim_per_component, int reduction, int threads) {
            with_item_type(item_size, [&](auto item) {
                using T = decltype(item);
                iqe_cpu<T>().pairwise_backward(
                    as<T>(grad_out), as<T>(x), as<T>(y), as<int32_t>(largest), as<T>(max_weight), as<T>(grad_x),
                    as<T>(grad_y), as<T>(grad_max_weight), as<void>(workspace),
                    {batch, num_x, num_y, num_components, dim_per_component}, Reduction(reduction), threads);
            });
        },
        release());

#ifdef QMK_CUDA
    cuda->def(
        "iqe_forward",
        [](int item_size, Pointer x, Pointer y, Pointer max_weight, Pointer out, Pointer ends, Pointer largest,
           Pointer spread, int64_t rows, int64_t num_components, int64_t dim_per_component, int reduction, int device,
           Pointer stream) {
            with_item_type(item_size, [&](auto item) {
                using T = decltype(item);
                cuda::iqe_forward<T>(as<T>(x), as<T>(y), as<T>(max_weight), as<T>(out), as<uint8_t>(ends),
                                     as<int32_t>(largest), as<T>(spread), rows, num_components, dim_per_component,
                                     Reduction(reduction), {device, as<void>(stream)});
            });
        },
        release());
    cuda->def(
        "iqe_backward",
        [](int item_size, Pointer grad_out, Pointer ends, Pointer largest, Pointer max_weight, Pointer grad_x,
           Pointer grad_y, int64_t rows, int64_t num_components, int64_t dim_per_component, int reduction, int device,
           Pointer stream) {
            with_item_type(item_size, [&](auto item) {
                using T = decltype(item);
                cuda::iqe_backward<T>(as<T>(grad_out), as<uint8_t>(ends), as<int32_t>(largest), as<T>(max_weight),
                                      as<T>(grad_x), as<T>(grad_y), rows, num_components, dim_per_component,
                                      Reduction(reduction), {device, as<void>(stream)});
            });
        },
        release());
    cuda->def("iqe_pairwise_workspace", [](int item_size, int64_t batch, int64_t num_x, int64_t num_y,
                                           int64_t num_components, int64_t dim_per_component, int, bool backward) {
        return cuda::iqe_pairwise_workspace(item_size, batch, num_x, num_y, num_components, dim_per_component,
                                            backward);
    });
    cuda->def(
        "iqe_pairwise_forward",
        [](int item_size, Pointer x, Pointer y, Pointer max_weight, Pointer out, Pointer largest, Pointer workspace,
           int64_t batch, int64_t num_x, int64_t num_y, int64_t num_components, int64_t dim_per_component,
           int reduction, int device, Pointer stream) {
            with_item_type(item_size, [&](auto item) {
                using T = decltype(item);
                cuda::iqe_pairwise_forward<T>(as<T>(x), as<T>(y), as<T>(max_weight), as<T>(out), as<int32_t>(largest),
                                              as<void>(workspace), batch, num_x, num_y, num_components,
                                              dim_per_component, Reduction(reduction), {device, as<void>(stream)});
            });
        },
        release());
    cuda->def(
        "iqe_pairwise_backward",
        [](int item_size, Pointer grad_out, Pointer x, Pointer y, Pointer largest, Pointer max_weight, Pointer grad_x,
           Pointer grad_y, Pointer grad_max_weight, Pointer workspace, int64_t batch, int64_t num_x, int64_t num_y,
           int64_t num_components, int64_t dim_per_component, int reduction, int device, Pointer stream) {
            with_item_type(item_size, [&](auto item) {
                using T = decltype(item);
                cuda::iqe_pairwise_backward<T>(as<T>(grad_out), as<T>(x), as<T>(y), as<int32_t>(largest),
                                               as<T>(max_weight), as<T>(grad_x), as<T>(grad_y), as<T>(grad_max_weight),
                                               as<void>(workspace), batch, num_x, num_y, num_components,
                                               dim_per_component, Reduction(reduction), {device, as<void>(stream)});
            });
        },
        release());
#else
    (void)cuda;
#endif
}

}  // namespace qmk
