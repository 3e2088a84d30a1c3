// Losses over a matrix of distances on CPUs, for one instruction set: one pass over it forward, one back.
//
// Memory: three values a task and column where columns are summed. Precision: arithmetic in T, up to 128 terms are
// added in T, then in double, in an order that does not depend on the number of threads; logarithms in double.
#include "pair_loss.h"

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
#undef QMK_CASE
    }
}

template <class T>
int64_t workspace_bytes(PairLossShape shape, PairKind kind, bool backward) {
    return backward ? BackwardMemory<T>(nullptr, shape, kind).bytes : ForwardMemory<T>(nullptr, shape, kind).bytes;
}

template <class T>
void forward_any(const T* distance, const T* after, const T* log_discounts, T* loss, T* stats, T* row_sums,
                 T* column_sums, void* workspace, PairLossShape shape, PairLossSettings settings, int threads) {
    with_constants(settings.kind, after != nullptr, [&](auto kind, auto has_after) {
        forward<T, kind.value, has_after.value>(distance, after, log_discounts, loss, stats, row_sums, column_sums,
                                                workspace, shape, settings, threads);
    });
}

template <class T>
void backward_any(const T* grad_loss, const T* distance, const T* after, const T* log_discounts, const T* row_sums,
                  const T* column_sums, T* grad_distance, void* workspace, PairLossShape shape,
                  PairLossSettings settings, int threads) {
    with_constants(settings.kind, after != nullptr, [&](auto kind, auto has_after) {
        backward<T, kind.value, has_after.value>(grad_loss, distance, after, log_discounts, row_sums, column_sums,
                                                 grad_distance, workspace, shape, settings, threads);
    });
}

}  // namespace

template <class T>
constexpr PairLossCpu<T> pair_loss_functions = {workspace_bytes<T>, forward_any<T>, backward_any<T>};

extern const PairLossCpu<float> pair_loss_float = pair_loss_functions<float>;
extern const PairLossCpu<double> pair_loss_double = pair_loss_functions<double>;

}  // namespace qmk::QMK_TARGET
