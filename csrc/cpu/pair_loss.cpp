// Losses over a matrix of distances on CPUs, for one instruction set: one pass over it forward, one back.
//
// Memory: three values per task and column, if columns are summed. Precision: arithmetic in T; up to 128 terms are
// added in T, then in double, in an order that does not depend on the number of threads; logarithms in double.
#include "../ops/pair_loss.h"

#include <type_traits>

#include "pair_loss_backward.h"
#include "pair_loss_forward.h"

namespace qmk::QMK_TARGET {

namespace {

// Calls `function` with the kind, and whether there are an `after` and places, as constants.
template <class Function>
void with_constants(PairKind kind, bool has_after, bool has_places, Function&& function) {
    const auto with_kind = [&](auto constant) {
        constexpr std::true_type yes{};
        constexpr std::false_type no{};
        if (has_after) return function(constant, yes, no);
        if constexpr (is_softmax(constant.value))
            if (has_places) return function(constant, no, yes);
        return function(constant, no, no);
    };
    switch (kind) {
#define QMK_CASE(name)   \
    case PairKind::name: \
        return with_kind(std::integral_constant<PairKind, PairKind::name>{});
        QMK_CASE(none)
        QMK_CASE(backward)
        QMK_CASE(forward)
        QMK_CASE(symmetric)
        QMK_CASE(sigmoid)
        QMK_CASE(repulsion)
        QMK_CASE(coulomb)
#undef QMK_CASE
    }
}

}  // namespace

template <class T>
int64_t pair_loss_forward_scratch(const PairLossForward<T>& call) {
    return ForwardMemory<T>(nullptr, call.shape, call.settings.kind).bytes;
}

template <class T>
void pair_loss_forward(const PairLossForward<T>& call, int threads) {
    with_constants(call.settings.kind, call.after, call.places, [&](auto kind, auto has_after, auto has_places) {
        forward<T, kind.value, has_after.value, has_places.value>(call, threads);
    });
}

template <class T>
int64_t pair_loss_backward_scratch(const PairLossBackward<T>& call) {
    return BackwardMemory<T>(nullptr, call.shape, call.settings.kind).bytes;
}

template <class T>
void pair_loss_backward(const PairLossBackward<T>& call, int threads) {
    with_constants(call.settings.kind, call.after, call.places, [&](auto kind, auto has_after, auto has_places) {
        backward<T, kind.value, has_after.value, has_places.value>(call, threads);
    });
}

QMK_INSTANTIATE(pair_loss_forward, PairLossForward, int)
QMK_INSTANTIATE_SCRATCH(pair_loss_forward, PairLossForward)
QMK_INSTANTIATE(pair_loss_backward, PairLossBackward, int)
QMK_INSTANTIATE_SCRATCH(pair_loss_backward, PairLossBackward)

}  // namespace qmk::QMK_TARGET
