// METRA's loss for Python: the same arguments for `cpu` and `cuda`, but for what comes last: the number of threads on
// the CPU, the device and the stream on a GPU.
#include "../cpu/metra.h"

#include "core.h"
#ifdef QMK_CUDA
#include "../cuda/metra.h"
#endif

namespace qmk {

namespace {

template <class T>
const MetraCpu<T>& metra_cpu() {
#define X(isa) &isa::metra_float,
    if constexpr (sizeof(T) == sizeof(float)) return in_use<MetraCpu<T>>({QMK_ISAS});
#undef X
#define X(isa) &isa::metra_double,
    if constexpr (sizeof(T) == sizeof(double)) return in_use<MetraCpu<T>>({QMK_ISAS});
#undef X
}

}  // namespace

void bind_metra(pybind11::module_& cpu, pybind11::module_* cuda) {
    using release = pybind11::call_guard<pybind11::gil_scoped_release>;

    cpu.def(
        "metra_forward",
        [](int item_size, Pointer phi, Pointer phi_next, Pointer skill, Pointer log_multiplier, Pointer loss,
           Pointer reward, Pointer stats, Pointer slopes, Pointer scratch, int64_t rows, int64_t dim, double slack,
           int norm, int threads) {
            with_item_type(item_size, [&](auto item) {
                using T = decltype(item);
                metra_cpu<T>().forward(as<T>(phi), as<T>(phi_next), as<T>(skill), as<T>(log_multiplier), as<T>(loss),
                                       as<T>(reward), as<T>(stats), as<T>(slopes), as<double>(scratch), {rows, dim},
                                       {slack, MetraNorm(norm)}, threads);
            });
        },
        release());
    cpu.def(
        "metra_backward",
        [](int item_size, Pointer grad_loss, Pointer phi, Pointer phi_next, Pointer skill, Pointer stats,
           Pointer slopes, Pointer grad_phi, Pointer grad_next, Pointer grad_skill, Pointer grad_log_multiplier,
           int64_t rows, int64_t dim, int threads) {
            with_item_type(item_size, [&](auto item) {
                using T = decltype(item);
                metra_cpu<T>().backward(as<T>(grad_loss), as<T>(phi), as<T>(phi_next), as<T>(skill), as<T>(stats),
                                        as<T>(slopes), as<T>(grad_phi), as<T>(grad_next), as<T>(grad_skill),
                                        as<T>(grad_log_multiplier), {rows, dim}, threads);
            });
        },
        release());

#ifdef QMK_CUDA
    cuda->def(
        "metra_forward",
        [](int item_size, Pointer phi, Pointer phi_next, Pointer skill, Pointer log_multiplier, Pointer loss,
           Pointer reward, Pointer stats, Pointer slopes, Pointer scratch, int64_t rows, int64_t dim, double slack,
           int norm, int device, Pointer stream) {
            with_item_type(item_size, [&](auto item) {
                using T = decltype(item);
                cuda::metra_forward<T>(as<T>(phi), as<T>(phi_next), as<T>(skill), as<T>(log_multiplier), as<T>(loss),
                                       as<T>(reward), as<T>(stats), as<T>(slopes), as<T>(scratch), {rows, dim},
                                       {slack, MetraNorm(norm)}, {device, as<void>(stream)});
            });
        },
        release());
    cuda->def(
        "metra_backward",
        [](int item_size, Pointer grad_loss, Pointer phi, Pointer phi_next, Pointer skill, Pointer stats,
           Pointer slopes, Pointer grad_phi, Pointer grad_next, Pointer grad_skill, Pointer grad_log_multiplier,
           int64_t rows, int64_t dim, int device, Pointer stream) {
            with_item_type(item_size, [&](auto item) {
                using T = decltype(item);
                cuda::metra_backward<T>(as<T>(grad_loss), as<T>(phi), as<T>(phi_next), as<T>(skill), as<T>(stats),
                                        as<T>(slopes), as<T>(grad_phi), as<T>(grad_next), as<T>(grad_skill),
                                        as<T>(grad_log_multiplier), {rows, dim}, {device, as<void>(stream)});
            });
        },
        release());
#else
    (void)cuda;
#endif
}

}  // namespace qmk
