// Losses over a matrix of distances: a forward pass, two small kernels that combine its parts, and a backward pass.
//
// Precision: arithmetic in T; the tiles' sums are added in double. The order of every sum is fixed, without atomics:
// the same input gives the same bits.
#include "pair_loss_backward.cuh"
#include "pair_loss_forward.cuh"

namespace qmk::cuda {

namespace {

#define QMK_KERNELS(name)                                                                            \
    template <class T>                                                                               \
    auto name##_of(PairKind kind) {                                                                  \
        constexpr decltype(&name<T, PairKind::none>) kernels[] = {                                   \
            name<T, PairKind::none>,      name<T, PairKind::backward>, name<T, PairKind::forward>,   \
            name<T, PairKind::symmetric>, name<T, PairKind::sigmoid>,  name<T, PairKind::repulsion>, \
            name<T, PairKind::coulomb>,                                                              \
        };                                                                                           \
        return kernels[int(kind)];                                                                   \
    }
QMK_KERNELS(pair_loss_forward_kernel)
QMK_KERNELS(pair_loss_backward_kernel)
#undef QMK_KERNELS

}  // namespace

template <class T>
int64_t pair_loss_forward_scratch(const PairLossForward<T>& call) {
    return Parts<T>(nullptr, call.shape, call.settings.kind).bytes;
}

template <class T>
void pair_loss_forward(const PairLossForward<T>& call, Context context) {
    void* workspace = call.scratch;
    T *loss = call.loss, *stats = call.stats, *row_sums = call.row_sums, *column_sums = call.column_sums;
    const T *distance = call.distance, *after = call.after, *log_discounts = call.log_discounts;
    const PairLossShape& shape = call.shape;
    const PairLossSettings& settings = call.settings;
    const char* op = "pair_loss_forward";
    check_sizes(op, shape);
    const DeviceGuard guard(context.device, op);
    const Tiles tiles(shape);
    const Parts<T> parts(workspace, shape, settings.kind);
    const PairForwardTask<T> task{{distance, after, log_discounts, call.places, shape, settings}, parts};
    launch(op, pair_loss_forward_kernel_of<T>(settings.kind), parts.num_tiles, block_threads, 0, context, task);
    const int64_t all_rows = shape.batch * shape.rows, chunks = divide_up(all_rows, block_threads);
    PairSums<T>* of_softmaxes = parts.of_softmaxes;
    for (int side = 0; side < 2; ++side) {
        if (side == 0 ? !over_rows(settings.kind) && settings.kind != PairKind::sigmoid : !over_columns(settings.kind))
            continue;
        T* largest = side == 0 ? row_sums : column_sums;
        if (settings.kind == PairKind::sigmoid) largest = nullptr;
        const PairMerge<T> merge{distance,
                                 side == 0 ? parts.of_rows : parts.of_columns,
                                 largest,
                                 largest ? largest + all_rows : nullptr,
                                 of_softmaxes,
                                 side,
                                 side == 0 ? tiles.across : tiles.down,
                                 shape,
                                 settings};
        launch(op, pair_loss_merge_kernel<T>, chunks, block_threads, 0, context, merge);
        of_softmaxes += chunks;
    }
    const PairFinish<T> finish{parts.sums,       loss,  stats,   parts.num_tiles + parts.num_chunks,
                               after != nullptr, shape, settings};
    launch(op, pair_loss_finish_kernel<T>, 1, block_threads, 0, context, finish);
}

template <class T>
int64_t pair_loss_backward_scratch(const PairLossBackward<T>&) {
    return 0;
}

template <class T>
void pair_loss_backward(const PairLossBackward<T>& call, Context context) {
    T* grad_distance = call.grad_distance;
    const T *grad_loss = call.grad_loss, *distance = call.distance, *after = call.after,
            *log_discounts = call.log_discounts, *row_sums = call.row_sums, *column_sums = call.column_sums;
    const PairLossShape& shape = call.shape;
    const PairLossSettings& settings = call.settings;
    check_sizes("pair_loss_backward", shape);
    const DeviceGuard guard(context.device, "pair_loss_backward");
    const Tiles tiles(shape);
    const PairBackwardTask<T> task{{distance, after, log_discounts, call.places, shape, settings},
                                   grad_loss,
                                   row_sums,
                                   column_sums,
                                   grad_distance,
                                   shape.batch * tiles.down * tiles.across};
    launch("pair_loss_backward", pair_loss_backward_kernel_of<T>(settings.kind), task.num_tiles, block_threads, 0,
           context, task);
}

QMK_INSTANTIATE(pair_loss_forward, PairLossForward, Context)
QMK_INSTANTIATE_SCRATCH(pair_loss_forward, PairLossForward)
QMK_INSTANTIATE(pair_loss_backward, PairLossBackward, Context)
QMK_INSTANTIATE_SCRATCH(pair_loss_backward, PairLossBackward)

}  // namespace qmk::cuda
