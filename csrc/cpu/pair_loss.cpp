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

// Calls `function` with the kind, and whether there is an `after`, as constants.
template <class Function>
void with_constants(PairKind kind, bool has_after, Function&& function) {
    const auto with_kind = [&](auto constant) {
        has_after ? function(constant, std::true_type{}) : function(constant, std::false_type{});
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
    with_constants(call.settings.kind, call.after != nullptr,
                   [&](auto kind, auto has_after) { forward<T, kind.value, has_after.value>(call, threads); });
}

template <class T>
int64_t pair_loss_backward_scratch(const PairLossBackward<T>& call) {
    return BackwardMemory<T>(nullptr, call.shape, call.settings.kind).bytes;
}

template <class T>
void pair_loss_backward(const PairLossBackward<T>& call, int threads) {
    with_constants(call.settings.kind, call.after != nullptr,
                   [&](auto kind, auto has_after) { backward<T, kind.value, has_after.value>(call, threads); });
}

QMK_INSTANTIATE(pair_loss_forward, PairLossForward, int)
QMK_INSTANTIATE_SCRATCH(pair_loss_forward, PairLossForward)
QMK_INSTANTIATE(pair_loss_backward, PairLossBackward, int)
QMK_INSTANTIATE_SCRATCH(pair_loss_backward, PairLossBackward)

}  // namespace qmk::QMK_TARGET
