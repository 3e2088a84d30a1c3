// The CUDA kernels of QRL's latent dynamics.
#include "../../cuda/latent_dynamics.cu"
#include "library.h"

namespace qmk::cuda {
namespace {
CUDA_ON_CPU_DYNAMIC_SHARED
}
}  // namespace qmk::cuda

extern "C" {

void latent_dynamics_forward(int64_t item_size, const void* predicted, const void* target, const void* max_weight,
                             void* loss, void* stats, void* slopes, void* ends, void* largest, void* spread,
                             void* scratch, int64_t rows, int64_t num_components, int64_t dim_per_component,
                             int64_t reduction, int64_t power) {
    const qmk::LatentDynamicsSettings settings{dim_per_component, qmk::Reduction(reduction), power};
    with_item_type(item_size, [&](auto item) {
        using T = decltype(item);
        qmk::cuda::latent_dynamics_forward<T>(in<T>(predicted), in<T>(target), in<T>(max_weight), out<T>(loss),
                                              out<T>(stats), out<T>(slopes), out<uint8_t>(ends), out<int32_t>(largest),
                                              out<T>(spread), out<T>(scratch), rows, num_components, settings, context);
    });
}

void latent_dynamics_backward(int64_t item_size, const void* grad_loss, const void* slopes, const void* ends,
                              const void* largest, const void* spread, const void* max_weight, void* grad_predicted,
                              void* grad_target, void* grad_max_weight, int64_t rows, int64_t num_components,
                              int64_t dim_per_component, int64_t reduction) {
    with_item_type(item_size, [&](auto item) {
        using T = decltype(item);
        qmk::cuda::latent_dynamics_backward<T>(in<T>(grad_loss), in<T>(slopes), in<uint8_t>(ends), in<int32_t>(largest),
                                               in<T>(spread), in<T>(max_weight), out<T>(grad_predicted),
                                               out<T>(grad_target), out<T>(grad_max_weight), rows, num_components,
                                               dim_per_component, qmk::Reduction(reduction), context);
    });
}
}
