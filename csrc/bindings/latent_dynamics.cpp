// QRL's latent dynamics for Python: the same arguments for `cpu` and `cuda`, but for what comes last: the number of
// threads on the CPU, the device and the stream on a GPU.
#include "../cpu/latent_dynamics.h"

#include "core.h"
#ifdef QMK_CUDA
#include "../cuda/latent_dynamics.h"
#endif

namespace qmk {

namespace {

template <class T>
const LatentDynamicsCpu<T>& latent_dynamics_cpu() {
#define X(isa) &isa::latent_dynamics_float,
    if constexpr (sizeof(T) == sizeof(float)) return in_use<LatentDynamicsCpu<T>>({QMK_ISAS});
#undef X
#define X(isa) &isa::latent_dynamics_double,
    if constexpr (sizeof(T) == sizeof(double)) return in_use<LatentDynamicsCpu<T>>({QMK_ISAS});
#undef X
}

}  // namespace

void bind_latent_dynamics(pybind11::module_& cpu, pybind11::module_* cuda) {
    using release = pybind11::call_guard<pybind11::gil_scoped_release>;

    cpu.def(
        "latent_dynamics_forward",
        [](int item_size, Pointer predicted, Pointer target, Pointer max_weight, Pointer loss, Pointer stats,
           Pointer slopes, Pointer ends, Pointer largest, Pointer spread, Pointer scratch, int64_t rows,
           int64_t num_components, int64_t dim_per_component, int reduction, int64_t power, int threads) {
            const LatentDynamicsSettings settings{dim_per_component, Reduction(reduction), power};
            with_item_type(item_size, [&](auto item) {
                using T = decltype(item);
                latent_dynamics_cpu<T>().forward(as<T>(predicted), as<T>(target), as<T>(max_weight), as<T>(loss),
                                                 as<T>(stats), as<T>(slopes), as<uint8_t>(ends), as<int32_t>(largest),
                                                 as<T>(spread), as<T>(scratch), {rows, num_components}, settings,
                                                 threads);
            });
        },
        release());
    cpu.def(
        "latent_dynamics_backward",
        [](int item_size, Pointer grad_loss, Pointer slopes, Pointer ends, Pointer largest, Pointer spread,
           Pointer max_weight, Pointer grad_predicted, Pointer grad_target, Pointer grad_max_weight, int64_t rows,
           int64_t num_components, int64_t dim_per_component, int reduction, int threads) {
            with_item_type(item_size, [&](auto item) {
                using T = decltype(item);
                latent_dynamics_cpu<T>().backward(
                    as<T>(grad_loss), as<T>(slopes), as<uint8_t>(ends), as<int32_t>(largest), as<T>(spread),
                    as<T>(max_weight), as<T>(grad_predicted), as<T>(grad_target), as<T>(grad_max_weight),
                    {rows, num_components}, dim_per_component, Reduction(reduction), threads);
            });
        },
        release());

#ifdef QMK_CUDA
    cuda->def(
        "latent_dynamics_forward",
        [](int item_size, Pointer predicted, Pointer target, Pointer max_weight, Pointer loss, Pointer stats,
           Pointer slopes, Pointer ends, Pointer largest, Pointer spread, Pointer scratch, int64_t rows,
           int64_t num_components, int64_t dim_per_component, int reduction, int64_t power, int device,
           Pointer stream) {
            const LatentDynamicsSettings settings{dim_per_component, Reduction(reduction), power};
            with_item_type(item_size, [&](auto item) {
                using T = decltype(item);
                cuda::latent_dynamics_forward<T>(as<T>(predicted), as<T>(target), as<T>(max_weight), as<T>(loss),
                                                 as<T>(stats), as<T>(slopes), as<uint8_t>(ends), as<int32_t>(largest),
                                                 as<T>(spread), as<T>(scratch), rows, num_components, settings,
                                                 {device, as<void>(stream)});
            });
        },
        release());
    cuda->def(
        "latent_dynamics_backward",
        [](int item_size, Pointer grad_loss, Pointer slopes, Pointer ends, Pointer largest, Pointer spread,
           Pointer max_weight, Pointer grad_predicted, Pointer grad_target, Pointer grad_max_weight, int64_t rows,
           int64_t num_components, int64_t dim_per_component, int reduction, int device, Pointer stream) {
            with_item_type(item_size, [&](auto item) {
                using T = decltype(item);
                cuda::latent_dynamics_backward<T>(
                    as<T>(grad_loss), as<T>(slopes), as<uint8_t>(ends), as<int32_t>(largest), as<T>(spread),
                    as<T>(max_weight), as<T>(grad_predicted), as<T>(grad_target), as<T>(grad_max_weight), rows,
                    num_components, dim_per_component, Reduction(reduction), {device, as<void>(stream)});
            });
        },
        release());
#else
    (void)cuda;
#endif
}

}  // namespace qmk
