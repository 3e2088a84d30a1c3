// iQRL's temporal consistency for Python: the same arguments for `cpu` and `cuda`, but for what comes last: the number
// of threads on the CPU, the device and the stream on a GPU.
#include "../cpu/temporal_consistency.h"

#include "core.h"
#ifdef QMK_CUDA
#include "../cuda/temporal_consistency.h"
#endif

namespace qmk {

namespace {

template <class T>
const TemporalConsistencyCpu<T>& temporal_consistency_cpu() {
#define X(isa) &isa::temporal_consistency_float,
    if constexpr (sizeof(T) == sizeof(float)) return in_use<TemporalConsistencyCpu<T>>({QMK_ISAS});
#undef X
#define X(isa) &isa::temporal_consistency_double,
    if constexpr (sizeof(T) == sizeof(double)) return in_use<TemporalConsistencyCpu<T>>({QMK_ISAS});
#undef X
}

}  // namespace

void bind_temporal_consistency(pybind11::module_& cpu, pybind11::module_* cuda) {
    using release = pybind11::call_guard<pybind11::gil_scoped_release>;

    cpu.def(
        "temporal_consistency_forward",
        [](int item_size, Pointer predicted, Pointer target, Pointer mask, Pointer loss, Pointer similarity,
           Pointer slopes, Pointer scratch, int64_t steps, int64_t batch, int64_t size, double discount, int threads) {
            with_item_type(item_size, [&](auto item) {
                using T = decltype(item);
                temporal_consistency_cpu<T>().forward(as<T>(predicted), as<T>(target), as<T>(mask), as<T>(loss),
                                                      as<T>(similarity), as<T>(slopes), as<T>(scratch),
                                                      {steps, batch, size}, discount, threads);
            });
        },
        release());
    cpu.def(
        "temporal_consistency_backward",
        [](int item_size, Pointer grad_loss, Pointer slopes, Pointer predicted, Pointer target, Pointer grad_predicted,
           int64_t rows, int64_t size, int threads) {
            with_item_type(item_size, [&](auto item) {
                using T = decltype(item);
                temporal_consistency_cpu<T>().backward(as<T>(grad_loss), as<T>(slopes), as<T>(predicted), as<T>(target),
                                                       as<T>(grad_predicted), rows, size, threads);
            });
        },
        release());

#ifdef QMK_CUDA
    cuda->def(
        "temporal_consistency_forward",
        [](int item_size, Pointer predicted, Pointer target, Pointer mask, Pointer loss, Pointer similarity,
           Pointer slopes, Pointer scratch, int64_t steps, int64_t batch, int64_t size, double discount, int device,
           Pointer stream) {
            with_item_type(item_size, [&](auto item) {
                using T = decltype(item);
                cuda::temporal_consistency_forward<T>(as<T>(predicted), as<T>(target), as<T>(mask), as<T>(loss),
                                                      as<T>(similarity), as<T>(slopes), as<T>(scratch), steps, batch,
                                                      size, discount, {device, as<void>(stream)});
            });
        },
        release());
    cuda->def(
        "temporal_consistency_backward",
        [](int item_size, Pointer grad_loss, Pointer slopes, Pointer predicted, Pointer target, Pointer grad_predicted,
           int64_t rows, int64_t size, int device, Pointer stream) {
            with_item_type(item_size, [&](auto item) {
                using T = decltype(item);
                cuda::temporal_consistency_backward<T>(as<T>(grad_loss), as<T>(slopes), as<T>(predicted), as<T>(target),
                                                       as<T>(grad_predicted), rows, size, {device, as<void>(stream)});
            });
        },
        release());
#else
    (void)cuda;
#endif
}

}  // namespace qmk
