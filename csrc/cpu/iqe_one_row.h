// IQE of many rows with one; included by iqe_pairwise.h.
#pragma once

#include <utility>

#include "../ops/iqe.h"
#include "iqe_components.h"
#include "max_weight.h"
#include "one_row.h"

namespace qmk::QMK_TARGET {

namespace {

template <class T>
MaxWeight<T> max_of_matrix(MaxWeight<T> max, int64_t batch, int64_t b) {
    if (max.num_weights > 1) max = {max.max_weight + b / (batch / max.num_weights), 1, max.weight_link};
    return max;
}

template <class T>
void forward_of_one_row(const IqePairwiseForward<T>& call, int threads) {
    const IqePairwiseShape& shape = call.shape;
    const int64_t num_components = shape.num_components, size = shape.dim_per_component;
    const int64_t items = call.reduction == Reduction::none ? num_components : 1;
    const auto sides = many_and_one(shape, num_components * size, call.x, call.y);
    one_row_forward(sides, threads, [&](const Piece<T>& piece) {
        int32_t* largest = call.largest ? call.largest + piece.first : nullptr;
        const auto max = max_of_matrix(call.max, shape.batch, piece.matrix);
        iqe_forward<T>({piece.x,
                        piece.y,
                        max,
                        call.out + piece.first * items,
                        nullptr,
                        largest,
                        nullptr,
                        {piece.rows, num_components, size},
                        call.reduction},
                       1);
    });
}

// Memory of a backward call: parts of the one rows' gradients and, for the weights', the spreads of all pairs.
template <class T>
struct OneRowMemory {
    double* parts;
    T* spread;
};

template <class T>
OneRowMemory<T> take_one_row(Workspace& workspace, const IqePairwiseBackward<T>& call) {
    const IqePairwiseShape& shape = call.shape;
    const auto sides = many_and_one(shape, shape.num_components * shape.dim_per_component, call.x, call.y);
    double* parts = take_parts(workspace, sides);
    return {parts, call.grad_max_weight ? workspace.take<T>(sides.batch * sides.count) : nullptr};
}

// Finds the ends of a piece as the forward pass of matching rows does, then their gradients.
template <class T>
void backward_of_one_row(const IqePairwiseBackward<T>& call, int threads) {
    const IqePairwiseShape& shape = call.shape;
    const int64_t num_components = shape.num_components, size = shape.dim_per_component;
    const int64_t items = call.reduction == Reduction::none ? num_components : 1;
    const auto sides = many_and_one(shape, num_components * size, call.x, call.y);
    Workspace workspace{static_cast<char*>(call.scratch)};
    const auto memory = take_one_row(workspace, call);
    one_row_backward(
        sides, call.grad_x, call.grad_y, memory.parts, threads, [&](const Piece<T>& piece, T* grad_x, T* grad_y) {
            const IqeShape rows{piece.rows, num_components, size};
            const auto kept = scratch([&](Workspace& workspace) {
                T* distances = workspace.take<T>(rows.rows * items);
                return std::pair<T*, uint8_t*>{distances,
                                               workspace.take<uint8_t>(rows.rows * num_components * ends_bytes(size))};
            });
            const auto [distances, ends] = kept.pieces;
            const auto max = max_of_matrix(call.max, shape.batch, piece.matrix);
            const int32_t* largest = needs_largest(call.reduction) ? call.largest + piece.first : nullptr;
            T* spread = memory.spread ? memory.spread + piece.first : nullptr;
            iqe_forward<T>({piece.x, piece.y, max, distances, ends, nullptr, spread, rows, call.reduction}, 1);
            iqe_backward<T>({call.grad_out + piece.first * items, ends, largest, nullptr, max, grad_x, grad_y, nullptr,
                             rows, call.reduction},
                            1);
        });
    max_weight_gradient<T>(call.max, 1.0, call.grad_out, memory.spread, sides.batch * sides.count,
                           call.grad_max_weight);
}

}  // namespace

}  // namespace qmk::QMK_TARGET
