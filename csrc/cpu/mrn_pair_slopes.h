// The first step of MRN's gradients of all pairs of rows: the slope and the largest difference of each pair and
// component. Included by mrn_pairwise_backward.h.
#pragma once

#include "mrn_pairwise.h"

namespace qmk::QMK_TARGET {

namespace {

// What the second step needs for the pairs of a panel: [component][block][row of the panel].
template <class T>
struct PairSlopes {
    Lanes<T>* slope;       // times the upstream gradient
    Lanes<T>* upstream;    // of the asymmetric part, 0 where the largest difference is not positive
    IndexLanes<T>* where;  // index of the first largest difference, in the component's asymmetric part

    QMK_INLINE PairSlopes at(int64_t pair) const { return {slope + pair, upstream + pair, where + pair}; }
};

// Finds the largest differences of R rows and V blocks in part of a component, and the first index of each.
template <class T, int R, int V, bool lanes_are_x, bool finite>
QMK_INLINE void find_places(const T* row, int64_t stride, const T* lanes, int64_t block_stride, MrnPart part,
                            Lanes<T> (*largest)[R], IndexLanes<T> (*where)[R]) {
    for (int64_t d = part.begin; d < part.end; ++d) {
        const IndexLanes<T> here = in_register(int32_t(d) - IndexLanes<T>{});
        for (int v = 0; v < V; ++v) {
            const auto lane = load<Lanes<T>>(lanes + v * block_stride + d * num_lanes<T>);
            for (int r = 0; r < R; ++r) {
                const auto value = difference<T, lanes_are_x>(row + r * stride + d, lane);
                const auto greater = finite ? value > largest[v][r] : !(value <= largest[v][r]);
                where[v][r] = greater ? here : where[v][r];
                largest[v][r] = greater ? value : largest[v][r];
            }
        }
    }
    if (finite) return;
    for (int v = 0; v < V; ++v)
        for (int r = 0; r < R; ++r) {  // with NaN after the largest, the last index is not that of the largest
            Lanes<T> again[1][1]{};
            find_largest<T, 1, 1, lanes_are_x, false>(row + r * stride, stride, lanes + v * block_stride, 0, part,
                                                      again);
            largest[v][r] = again[0][0];
        }
}

// Finds the slopes of R rows and V blocks in one component, [block][row]; blocks are `slopes_stride` apart.
template <class T, int R, int V, bool lanes_are_x, bool finite>
void slopes_of_tile(const Sides<T>& sides, int64_t first_row, int64_t first_block, int64_t component,
                    const MrnSettings& settings, const MrnRoot<T>& root, const T* grad_out, Strides strides,
                    PairSlopes<T> slopes, int64_t slopes_stride) {
    constexpr int n = num_lanes<T>;
    const int64_t size = sides.dim / settings.num_components, block_stride = n * sides.dim;
    const MrnPart asymmetric = mrn_asymmetric_part(settings, size), symmetric = mrn_symmetric_part(settings, size);
    const T weight = mrn_component_weight<T>(settings);
    const T* row = sides.rows + first_row * sides.dim + component * size;
    const T* lanes = sides.lanes + first_block * block_stride + component * size * n;
    Lanes<T> sums[R][V], largest[V][R];
    IndexLanes<T> where[V][R];
    for (int v = 0; v < V; ++v)
        for (int r = 0; r < R; ++r) {
            sums[r][v] = largest[v][r] = Lanes<T>{};
            where[v][r] = int32_t(asymmetric.begin) - IndexLanes<T>{};  // 0 is added there if none is positive
        }
    sum_squares<T, R, V, lanes_are_x>(row, sides.dim, lanes, block_stride, symmetric, mrn_shift<T>(settings), sums);
    constexpr int at_once = QMK_LANE_BYTES == 64 ? V : 1;  // limited by the registers
    for (int v = 0; v < V; v += at_once)
        find_places<T, R, at_once, lanes_are_x, finite>(row, sides.dim, lanes + v * block_stride, block_stride,
                                                        asymmetric, largest + v, where + v);
    for (int v = 0; v < V; ++v)
        for (int r = 0; r < R; ++r) {
            const int64_t first_lane = (first_block + v) * n, at = v * slopes_stride + r;
            const T* from = grad_out + (first_row + r) * strides.of_row + first_lane * strides.of_lane +
                            (settings.reduction == MrnReduction::none ? component : 0);
            const Lanes<T> upstream = load_lanes(from, strides.of_lane, sides.num_lane_rows - first_lane) * weight;
            slopes.slope[at] = upstream * root.slope(sums[r][v]);
            Lanes<T> of_largest = largest[v][r] > 0 ? upstream : Lanes<T>{};
            if (!finite) of_largest = largest[v][r] != largest[v][r] ? largest[v][r] : of_largest;
            slopes.upstream[at] = of_largest;
            slopes.where[at] = where[v][r];
        }
}

}  // namespace

}  // namespace qmk::QMK_TARGET
