// QRL's critic for Python: the same arguments for `cpu` and `cuda`, but for what comes last: the number of threads on
// the CPU, the device and the stream on a GPU.
#include "../cpu/qrl_critic.h"

#include "core.h"
#ifdef QMK_CUDA
#include "../cuda/qrl_critic.h"
#endif

namespace qmk {

namespace {

template <class T>
const QrlCriticCpu<T>& qrl_critic_cpu() {
#define X(isa) &isa::qrl_critic_float,
    if constexpr (sizeof(T) == sizeof(float)) return in_use<QrlCriticCpu<T>>({QMK_ISAS});
#undef X
#define X(isa) &isa::qrl_critic_double,
    if constexpr (sizeof(T) == sizeof(double)) return in_use<QrlCriticCpu<T>>({QMK_ISAS});
#undef X
}

}  // namespace

void bind_qrl_critic(pybind11::module_& cpu, pybind11::module_* cuda) {
    using release = pybind11::call_guard<pybind11::gil_scoped_release>;

    cpu.def(
        "qrl_critic_forward",
        [](int item_size, Pointer x, Pointer y, Pointer goal, Pointer max_weight, Pointer raw, Pointer cost,
           int64_t num_costs, Pointer loss, Pointer stats, Pointer slopes, Pointer ends, Pointer largest,
           Pointer spread, Pointer scratch, int64_t rows, int64_t num_components, int64_t dim_per_component,
           int reduction, double softplus_beta, double softplus_offset, int multiplier, double threshold, int threads) {
            const QrlCriticSettings settings{dim_per_component,
                                             Reduction(reduction),
                                             softplus_beta,
                                             softplus_offset,
                                             QrlCriticMultiplier(multiplier),
                                             threshold};
            with_item_type(item_size, [&](auto item) {
                using T = decltype(item);
                qrl_critic_cpu<T>().forward(as<T>(x), as<T>(y), as<T>(goal), as<T>(max_weight), as<T>(raw), as<T>(cost),
                                            num_costs, as<T>(loss), as<T>(stats), as<T>(slopes), as<uint8_t>(ends),
                                            as<int32_t>(largest), as<T>(spread), as<T>(scratch), {rows, num_components},
                                            settings, threads);
            });
        },
        release());
    cpu.def(
        "qrl_critic_backward",
        [](int item_size, Pointer grad_loss, Pointer slopes, Pointer ends, Pointer largest, Pointer spread,
           Pointer max_weight, Pointer grad_x, Pointer grad_y, Pointer grad_goal, Pointer grad_max_weight, int64_t rows,
           int64_t num_components, int64_t dim_per_component, int reduction, int threads) {
            with_item_type(item_size, [&](auto item) {
                using T = decltype(item);
                qrl_critic_cpu<T>().backward(as<T>(grad_loss), as<T>(slopes), as<uint8_t>(ends), as<int32_t>(largest),
                                             as<T>(spread), as<T>(max_weight), as<T>(grad_x), as<T>(grad_y),
                                             as<T>(grad_goal), as<T>(grad_max_weight), {rows, num_components},
                                             dim_per_component, Reduction(reduction), threads);
            });
        },
        release());

#ifdef QMK_CUDA
    cuda->def(
        "qrl_critic_forward",
        [](int item_size, Pointer x, Pointer y, Pointer goal, Pointer max_weight, Pointer raw, Pointer cost,
           int64_t num_costs, Pointer loss, Pointer stats, Pointer slopes, Pointer ends, Pointer largest,
           Pointer spread, Pointer scratch, int64_t rows, int64_t num_components, int64_t dim_per_component,
           int reduction, double softplus_beta, double softplus_offset, int multiplier, double threshold, int device,
           Pointer stream) {
            const QrlCriticSettings settings{dim_per_component,
                                             Reduction(reduction),
                                             softplus_beta,
                                             softplus_offset,
                                             QrlCriticMultiplier(multiplier),
                                             threshold};
            with_item_type(item_size, [&](auto item) {
                using T = decltype(item);
                cuda::qrl_critic_forward<T>(as<T>(x), as<T>(y), as<T>(goal), as<T>(max_weight), as<T>(raw), as<T>(cost),
                                            num_costs, as<T>(loss), as<T>(stats), as<T>(slopes), as<uint8_t>(ends),
                                            as<int32_t>(largest), as<T>(spread), as<T>(scratch), rows, num_components,
                                            settings, {device, as<void>(stream)});
            });
        },
        release());
    cuda->def(
        "qrl_critic_backward",
        [](int item_size, Pointer grad_loss, Pointer slopes, Pointer ends, Pointer largest, Pointer spread,
           Pointer max_weight, Pointer grad_x, Pointer grad_y, Pointer grad_goal, Pointer grad_max_weight, int64_t rows,
           int64_t num_components, int64_t dim_per_component, int reduction, int device, Pointer stream) {
            with_item_type(item_size, [&](auto item) {
                using T = decltype(item);
                cuda::qrl_critic_backward<T>(as<T>(grad_loss), as<T>(slopes), as<uint8_t>(ends), as<int32_t>(largest),
                                             as<T>(spread), as<T>(max_weight), as<T>(grad_x), as<T>(grad_y),
                                             as<T>(grad_goal), as<T>(grad_max_weight), rows, num_components,
                                             dim_per_component, Reduction(reduction), {device, as<void>(stream)});
            });
        },
        release());
#else
    (void)cuda;
#endif
}

}  // namespace qmk
