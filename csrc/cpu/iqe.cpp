// IQE of matching rows. Float32 or float64 throughout.
//
// Forward: lanes are components. A block of components is loaded and transposed in registers, sorted by x with a
// network, and scanned. One pass over x and y; writes the distances and, for backward, two bits per element. Backward:
// one pass that turns these bits into gradients; bound by the bytes of grad_x and grad_y.
#include "../ops/iqe.h"

#include "iqe_components.h"
#include "iqe_pairwise.h"
#include "iqe_pairwise_backward.h"
#include "max_weight.h"
#include "parallel.h"
#include "workspace.h"

namespace qmk::QMK_TARGET {

namespace {

// Memory of a forward task: for block_lengths_any, and the lengths of its rows' components.
template <class T>
struct ForwardMemory {
    Lanes<T>* any;
    T* lengths;
};

template <class T, int K, bool keep>
void forward(const IqeForward<T>& call, int threads) {
    const Reduction reduction = call.reduction;
    int32_t* largest = call.largest;
    uint8_t* ends = call.ends;
    T *out = call.out, *spread = call.spread;
    const T *x = call.x, *y = call.y;
    const IqeShape& shape = call.shape;
    constexpr int n = num_lanes<T>;
    const int64_t size = shape.dim_per_component, num_components = shape.num_components;
    int64_t rows_per_task = components_per_task / (num_components + 1) + 1;
    if (reduction == Reduction::none) rows_per_task = (rows_per_task + n - 1) / n * n;
    const int64_t num_tasks = (shape.rows + rows_per_task - 1) / rows_per_task;

    parallel_for(num_tasks, threads_for(shape.rows * num_components * size, 1 << 14, threads), [&](int64_t task) {
        const int64_t first_row = task * rows_per_task;
        const int64_t num_rows = rows_per_task < shape.rows - first_row ? rows_per_task : shape.rows - first_row;
        const int64_t first = first_row * num_components, count = num_rows * num_components;
        const auto memory = scratch<(components_per_task / n + n + 1) * sizeof(Lanes<T>)>([=](Workspace& workspace) {
            auto* any = workspace.take<Lanes<T>>(K ? 0 : 3 * size);
            return ForwardMemory<T>{any, workspace.take<T>((count / n + 1) * n)};
        });
        T* lengths = memory.pieces.lengths;
        for (int64_t c = 0; c < count; c += n) {
            const T *block_x = x + (first + c) * size, *block_y = y + (first + c) * size;
            uint8_t* block_ends = keep ? ends + (first + c) * ends_bytes(size) : nullptr;
            const int last_lane = count - c < n ? int(count - c) - 1 : n - 1;
            Lanes<T> block;
            if constexpr (K != 0) {
                block = last_lane == n - 1 ? block_lengths<T, K, keep>(block_x, block_y, n - 1, block_ends)
                                           : block_lengths<T, K, keep>(block_x, block_y, last_lane, block_ends);
            } else {
                block = block_lengths_any<T, keep>(block_x, block_y, last_lane, block_ends, size, memory.pieces.any);
            }
            store(lengths + c, block);
        }
        if (reduction == Reduction::none) {
            __builtin_memcpy(out + first, lengths, count * sizeof(T));
        } else {
            for_each_weight(
                call.max, shape.rows, first_row, first_row + num_rows, [&](int64_t i, int64_t end, T weight) {
                    for (; i < end; ++i)
                        out[i] =
                            distance_of_row(lengths + (i - first_row) * num_components, num_components, reduction,
                                            weight, largest ? largest + i : nullptr, spread ? spread + i : nullptr);
                });
        }
    });
}

}  // namespace

template <class T>
void iqe_forward(const IqeForward<T>& call, int threads) {
    with_constant_size(call.shape.dim_per_component, [&](auto size) {
        call.ends ? forward<T, size.value, true>(call, threads) : forward<T, size.value, false>(call, threads);
    });
}

template <class T>
void iqe_backward(const IqeBackward<T>& call, int threads) {
    const Reduction reduction = call.reduction;
    T *grad_x = call.grad_x, *grad_y = call.grad_y;
    const int32_t* largest = call.largest;
    const uint8_t* ends = call.ends;
    const T* grad_out = call.grad_out;
    const IqeShape& shape = call.shape;
    const int64_t size = shape.dim_per_component, num_components = shape.num_components, dim = num_components * size;
    const int64_t bytes = ends_bytes(size), rows_per_task = components_per_task / num_components + 1;
    const int64_t num_tasks = (shape.rows + rows_per_task - 1) / rows_per_task;
    const BitPlaces<T> places = bit_places<T>(size);
    parallel_for(num_tasks, threads_for(shape.rows * dim, 1 << 15, threads), [&](int64_t task) {
        const int64_t end = (task + 1) * rows_per_task < shape.rows ? (task + 1) * rows_per_task : shape.rows;
        const int64_t first = task * rows_per_task;
        const bool has_nan = any_marks_nan(ends + first * num_components * bytes, (end - first) * num_components, size);
        for_each_weight(call.max, shape.rows, first, end, [&](int64_t row, int64_t end, T weight) {
            const auto weights = reduction_weights(reduction, num_components, weight);
            for (; row < end; ++row) {
                const uint8_t* row_ends = ends + row * num_components * bytes;
                T *to_x = grad_x + row * dim, *to_y = grad_y + row * dim;
                if (reduction == Reduction::none) {
                    for (int64_t c = 0; c < num_components; ++c)
                        components_backward(row_ends + c * bytes, grad_out[row * num_components + c], 1, size, places,
                                            to_x + c * size, to_y + c * size);
                } else {
                    components_backward(row_ends, weighted(grad_out[row], weights.every), num_components, size, places,
                                        to_x, to_y);
                    if (largest && needs_largest(reduction)) {
                        const int64_t c = largest[row];
                        components_backward(row_ends + c * bytes,
                                            weighted(grad_out[row], weights.every + weights.largest), 1, size, places,
                                            to_x + c * size, to_y + c * size);
                    }
                }
                if (has_nan) write_nan(row_ends, num_components, size, to_x, to_y);
            }
        });
    });
    max_weight_gradient(call.max, 1.0, grad_out, call.spread, shape.rows, call.grad_max_weight);
}

QMK_INSTANTIATE(iqe_forward, IqeForward, int)
QMK_INSTANTIATE(iqe_backward, IqeBackward, int)
QMK_INSTANTIATE(iqe_pairwise_forward, IqePairwiseForward, int)
QMK_INSTANTIATE_SCRATCH(iqe_pairwise_forward, IqePairwiseForward)
QMK_INSTANTIATE(iqe_pairwise_backward, IqePairwiseBackward, int)
QMK_INSTANTIATE_SCRATCH(iqe_pairwise_backward, IqePairwiseBackward)

}  // namespace qmk::QMK_TARGET
