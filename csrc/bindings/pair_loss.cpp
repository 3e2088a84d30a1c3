// Losses over a matrix of distances for Python: the same arguments for `cpu` and `cuda`, but for what comes last: the
// number of threads on the CPU, the device and the stream on a GPU. The form is spread out in the order of
// definitions.pair_loss.PairLossSettings.
#include "../cpu/pair_loss.h"

#include "core.h"
#ifdef QMK_CUDA
#include "../cuda/pair_loss.h"
#endif

namespace qmk {

namespace {

template <class T>
const PairLossCpu<T>& pair_loss_cpu() {
#define X(isa) &isa::pair_loss_float,
    if constexpr (sizeof(T) == sizeof(float)) return in_use<PairLossCpu<T>>({QMK_ISAS});
#undef X
#define X(isa) &isa::pair_loss_double,
    if constexpr (sizeof(T) == sizeof(double)) return in_use<PairLossCpu<T>>({QMK_ISAS});
#undef X
}

}  // namespace

void bind_pair_loss(pybind11::module_& cpu, pybind11::module_* cuda) {
    using release = pybind11::call_guard<pybind11::gil_scoped_release>;

    cpu.def("pair_loss_workspace",
            [](int item_size, int64_t batch, int64_t rows, int64_t columns, int kind, bool backward) {
                return with_item_type(item_size, [&](auto item) {
                    return pair_loss_cpu<decltype(item)>().workspace({batch, rows, columns}, PairKind(kind), backward);
                });
            });
    cpu.def(
        "pair_loss_forward",
        [](int item_size, Pointer distance, Pointer after, Pointer log_discounts, Pointer loss, Pointer stats,
           Pointer row_sums, Pointer column_sums, Pointer workspace, int64_t batch, int64_t rows, int64_t columns,
           int kind, double scale, double logsumexp_weight, double linex_weight, double clip, double diagonal_weight,
           double log_discount, double step, double repulsion_weight, int64_t offset, int threads) {
            const PairLossSettings settings{
                PairKind(kind), scale, logsumexp_weight, linex_weight, clip, diagonal_weight,
                log_discount,   step,  repulsion_weight, offset};
            with_item_type(item_size, [&](auto item) {
                using T = decltype(item);
                pair_loss_cpu<T>().forward(as<T>(distance), as<T>(after), as<T>(log_discounts), as<T>(loss),
                                           as<T>(stats), as<T>(row_sums), as<T>(column_sums), as<void>(workspace),
                                           {batch, rows, columns}, settings, threads);
            });
        },
        release());
    cpu.def(
        "pair_loss_backward",
        [](int item_size, Pointer grad_loss, Pointer distance, Pointer after, Pointer log_discounts, Pointer row_sums,
           Pointer column_sums, Pointer grad_distance, Pointer workspace, int64_t batch, int64_t rows, int64_t columns,
           int kind, double scale, double logsumexp_weight, double linex_weight, double clip, double diagonal_weight,
           double log_discount, double step, double repulsion_weight, int64_t offset, int threads) {
            const PairLossSettings settings{
                PairKind(kind), scale, logsumexp_weight, linex_weight, clip, diagonal_weight,
                log_discount,   step,  repulsion_weight, offset};
            with_item_type(item_size, [&](auto item) {
                using T = decltype(item);
                pair_loss_cpu<T>().backward(as<T>(grad_loss), as<T>(distance), as<T>(after), as<T>(log_discounts),
                                            as<T>(row_sums), as<T>(column_sums), as<T>(grad_distance),
                                            as<void>(workspace), {batch, rows, columns}, settings, threads);
            });
        },
        release());

#ifdef QMK_CUDA
    cuda->def("pair_loss_workspace",
              [](int item_size, int64_t batch, int64_t rows, int64_t columns, int kind, bool backward) {
                  return backward ? 0 : cuda::pair_loss_workspace(item_size, {batch, rows, columns}, PairKind(kind));
              });
    cuda->def(
        "pair_loss_forward",
        [](int item_size, Pointer distance, Pointer after, Pointer log_discounts, Pointer loss, Pointer stats,
           Pointer row_sums, Pointer column_sums, Pointer workspace, int64_t batch, int64_t rows, int64_t columns,
           int kind, double scale, double logsumexp_weight, double linex_weight, double clip, double diagonal_weight,
           double log_discount, double step, double repulsion_weight, int64_t offset, int device, Pointer stream) {
            const PairLossSettings settings{
                PairKind(kind), scale, logsumexp_weight, linex_weight, clip, diagonal_weight,
                log_discount,   step,  repulsion_weight, offset};
            with_item_type(item_size, [&](auto item) {
                using T = decltype(item);
                cuda::pair_loss_forward<T>(as<T>(distance), as<T>(after), as<T>(log_discounts), as<T>(loss),
                                           as<T>(stats), as<T>(row_sums), as<T>(column_sums), as<void>(workspace),
                                           {batch, rows, columns}, settings, {device, as<void>(stream)});
            });
        },
        release());
    cuda->def(
        "pair_loss_backward",
        [](int item_size, Pointer grad_loss, Pointer distance, Pointer after, Pointer log_discounts, Pointer row_sums,
           Pointer column_sums, Pointer grad_distance, Pointer, int64_t batch, int64_t rows, int64_t columns, int kind,
           double scale, double logsumexp_weight, double linex_weight, double clip, double diagonal_weight,
           double log_discount, double step, double repulsion_weight, int64_t offset, int device, Pointer stream) {
            const PairLossSettings settings{
                PairKind(kind), scale, logsumexp_weight, linex_weight, clip, diagonal_weight,
                log_discount,   step,  repulsion_weight, offset};
            with_item_type(item_size, [&](auto item) {
                using T = decltype(item);
                cuda::pair_loss_backward<T>(as<T>(grad_loss), as<T>(distance), as<T>(after), as<T>(log_discounts),
                                            as<T>(row_sums), as<T>(column_sums), as<T>(grad_distance),
                                            {batch, rows, columns}, settings, {device, as<void>(stream)});
            });
        },
        release());
#else
    (void)cuda;
#endif
}

}  // namespace qmk
