// The CUDA kernels of losses over a matrix of distances.
#include "../../cuda/pair_loss.cu"
#include "library.h"

namespace {

qmk::PairLossSettings form_of(int64_t kind, double scale, double logsumexp_weight, double linex_weight, double clip,
                              double diagonal_weight, double log_discount, double step, double repulsion_weight,
                              int64_t offset) {
    return {qmk::PairKind(kind), scale, logsumexp_weight, linex_weight, clip, diagonal_weight,
            log_discount,        step,  repulsion_weight, offset};
}

}  // namespace

extern "C" {

int64_t pair_loss_workspace(int64_t item_size, int64_t batch, int64_t rows, int64_t columns, int64_t kind,
                            int64_t backward) {
    return backward ? 0 : qmk::cuda::pair_loss_workspace(item_size, {batch, rows, columns}, qmk::PairKind(kind));
}

void pair_loss_forward(int64_t item_size, const void* distance, const void* after, const void* log_discounts,
                       void* loss, void* stats, void* row_sums, void* column_sums, void* workspace, int64_t batch,
                       int64_t rows, int64_t columns, int64_t kind, double scale, double logsumexp_weight,
                       double linex_weight, double clip, double diagonal_weight, double log_discount, double step,
                       double repulsion_weight, int64_t offset) {
    const auto settings = form_of(kind, scale, logsumexp_weight, linex_weight, clip, diagonal_weight, log_discount,
                                  step, repulsion_weight, offset);
    with_item_type(item_size, [&](auto item) {
        using T = decltype(item);
        qmk::cuda::pair_loss_forward<T>(in<T>(distance), in<T>(after), in<T>(log_discounts), out<T>(loss),
                                        out<T>(stats), out<T>(row_sums), out<T>(column_sums), workspace,
                                        {batch, rows, columns}, settings, context);
    });
}

void pair_loss_backward(int64_t item_size, const void* grad_loss, const void* distance, const void* after,
                        const void* log_discounts, const void* row_sums, const void* column_sums, void* grad_distance,
                        void*, int64_t batch, int64_t rows, int64_t columns, int64_t kind, double scale,
                        double logsumexp_weight, double linex_weight, double clip, double diagonal_weight,
                        double log_discount, double step, double repulsion_weight, int64_t offset) {
    const auto settings = form_of(kind, scale, logsumexp_weight, linex_weight, clip, diagonal_weight, log_discount,
                                  step, repulsion_weight, offset);
    with_item_type(item_size, [&](auto item) {
        using T = decltype(item);
        qmk::cuda::pair_loss_backward<T>(in<T>(grad_loss), in<T>(distance), in<T>(after), in<T>(log_discounts),
                                         in<T>(row_sums), in<T>(column_sums), out<T>(grad_distance),
                                         {batch, rows, columns}, settings, context);
    });
}
}
