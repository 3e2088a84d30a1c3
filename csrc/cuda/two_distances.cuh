// Shared by the kernels that measure two IQE distances per row, those of QRL's critic and latent dynamics: reduces rows
// in both pairs, and sums over all rows in one block, in a fixed order.
#pragma once

#include "iqe_rows.cuh"
#include "max_weight.cuh"
#include "rows.cuh"

namespace qmk::cuda {

namespace {

// What forward keeps for backward, each as two rows of `rows`: pair 0 and pair 1.
template <class T>
struct TwoKept {
    T* slopes;
    uint8_t* ends;
    int32_t* largest;  // null for reductions without a maximum
    T* spread;         // null unless maxmean
};

template <class T>
struct TwoRows {
    RowSummary<T> pairs[2];
};

// Calls `measure(component, count)` for every group of up to 128 neighbouring components; it fills the lengths of both
// pairs. Then calls `finish(pair, row, distance)` in one thread per pair and row.
template <class T, class Measure, class Finish>
__device__ __forceinline__ void reduce_two(const RowTiles& tiles, Reduction reduction, const MaxWeight<T>& max,
                                           const TwoKept<T>& kept, const T (*lengths)[block_threads], Measure&& measure,
                                           Finish&& finish) {
    for_each_chunk<TwoRows<T>>(tiles, measure, [&](const Chunk& chunk, TwoRows<T>& row) {
#pragma unroll
        for (int pair = 0; pair < 2; ++pair)
            reduce_chunk(tiles, chunk, lengths[pair], row.pairs[pair], [&](int64_t i, const RowSummary<T>& whole) {
                const int64_t at = pair * tiles.rows + i;
                const auto as = [&, weight = WeightAt<T>(max, 0).value](Reduction wanted) {
                    return reduced(wanted, whole.sum, whole.maximum, tiles.num_components, weight);
                };
                if (kept.largest) kept.largest[at] = whole.largest;
                if (kept.spread) kept.spread[at] = as(Reduction::spread);
                finish(pair, i, as(reduction));
            });
    });
}

// Backward's inputs for all rows, and from them the gradient of an end.
template <class T>
struct KeptEnds {
    T grad_loss;
    const T* slopes;
    const uint8_t* ends;
    const int32_t* largest;
    int64_t rows;
    unsigned num_components, size;
    ReductionWeights<T> weights;

    // The derivative by the length of component c of row i.
    __device__ __forceinline__ T by_length(int pair, int64_t i, unsigned c) const {
        const int64_t at = pair * rows + i;
        const bool is_largest = largest && largest[at] == c;
        return weighted(grad_loss * slopes[at], is_largest ? weights.every + weights.largest : weights.every);
    }
    // The ends among the `width` coordinates from the k-th on.
    template <int width>
    __device__ __forceinline__ EndBits<T> at(int pair, int64_t i, unsigned c, unsigned k) const {
        const unsigned num_bytes = (2 * size + 7) / 8;
        const uint8_t* of_component = ends + ((pair * rows + i) * num_components + c) * num_bytes;
        return end_bits<width>(of_component, size, k, by_length(pair, i, c));
    }
};

// Calls `write(i, c, k)` for every `width` neighbouring coordinates, from the k-th of component c of row i on; width
// divides 8 and the size of a component, so that their bits lie in one byte.
template <int width, class Write>
__device__ __forceinline__ void for_each_coordinate(const RowTiles& tiles, unsigned size, Write&& write) {
    const unsigned num_components = tiles.num_components, groups = size / width;
    for (int64_t tile = blockIdx.x; tile < tiles.tiles; tile += gridDim.x) {
        const int64_t first_row = tile * tiles.rows_per_tile, rows_left = tiles.rows - first_row;
        const unsigned num_rows = rows_left < tiles.rows_per_tile ? unsigned(rows_left) : tiles.rows_per_tile;
        for (unsigned group = threadIdx.x; group < num_rows * num_components * groups; group += blockDim.x) {
            const unsigned in_tile = group / groups;
            write(first_row + in_tile / num_components, in_tile % num_components, group % groups * width);
        }
    }
}

}  // namespace

}  // namespace qmk::cuda
