// QRL's CUDA kernels.
#include "../../cuda/qrl_critic.cu"
#include "library.h"

namespace qmk::cuda {
namespace {
CUDA_ON_CPU_DYNAMIC_SHARED
}
}  // namespace qmk::cuda

extern "C" {

void qrl_critic_forward(int64_t item_size, const void* x, const void* y, const void* goal, const void* max_weight,
                        const void* raw, const void* cost, int64_t num_costs, void* loss, void* stats, void* slopes,
                        void* ends, void* largest, void* spread, void* scratch, int64_t rows, int64_t num_components,
                        int64_t dim_per_component, int64_t reduction, double softplus_beta, double softplus_offset,
                        int64_t multiplier, double threshold) {
    const qmk::QrlCriticSettings settings{dim_per_component,
                                          qmk::Reduction(reduction),
                                          softplus_beta,
                                          softplus_offset,
                                          qmk::QrlCriticMultiplier(multiplier),
                                          threshold};
    with_item_type(item_size, [&](auto item) {
        using T = decltype(item);
        qmk::cuda::qrl_critic_forward<T>(in<T>(x), in<T>(y), in<T>(goal), in<T>(max_weight), in<T>(raw), in<T>(cost),
                                         num_costs, out<T>(loss), out<T>(stats), out<T>(slopes), out<uint8_t>(ends),
                                         out<int32_t>(largest), out<T>(spread), out<T>(scratch), rows, num_components,
                                         settings, context);
    });
}

void qrl_critic_backward(int64_t item_size, const void* grad_loss, const void* slopes, const void* ends,
                         const void* largest, const void* spread, const void* max_weight, void* grad_x, void* grad_y,
                         void* grad_goal, void* grad_max_weight, int64_t rows, int64_t num_components,
                         int64_t dim_per_component, int64_t reduction) {
    with_item_type(item_size, [&](auto item) {
        using T = decltype(item);
        qmk::cuda::qrl_critic_backward<T>(in<T>(grad_loss), in<T>(slopes), in<uint8_t>(ends), in<int32_t>(largest),
                                          in<T>(spread), in<T>(max_weight), out<T>(grad_x), out<T>(grad_y),
                                          out<T>(grad_goal), out<T>(grad_max_weight), rows, num_components,
                                          dim_per_component, qmk::Reduction(reduction), context);
    });
}
}
