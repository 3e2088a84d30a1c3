// Shared by the passes over a matrix of distances: which pairs a block, a warp and a thread have, and what they are of.
//
// A tile is 32 rows x 128 columns of one matrix; a warp has four of its rows, a thread four columns of each, 32 apart,
// so that loads are coalesced.
#pragma once

#include "../ops/pair_loss.h"
#include "launch.cuh"

namespace qmk::cuda {

namespace {

using namespace QMK_TARGET;

constexpr int block_threads = 256, warps_per_block = block_threads / 32;
constexpr int rows_per_warp = 4, columns_per_thread = 4;
constexpr int tile_rows = warps_per_block * rows_per_warp, tile_columns = 32 * columns_per_thread;

// A rounded product: a later addition is not fused with it into a multiply-add.
__device__ __forceinline__ float product(float a, float b) {
#ifdef __CUDA_ARCH__
    return __fmul_rn(a, b);
#else
    return a * b;
#endif
}
__device__ __forceinline__ double product(double a, double b) {
#ifdef __CUDA_ARCH__
    return __dmul_rn(a, b);
#else
    return a * b;
#endif
}

struct Tiles {
    int64_t down, across;

    __host__ __device__ explicit Tiles(const PairLossShape& shape)
        : down((shape.rows + tile_rows - 1) / tile_rows), across((shape.columns + tile_columns - 1) / tile_columns) {}
};

// The pairs of a thread: rows first_row .. first_row + 3 and columns first_column, + 32, + 64, + 96 of a matrix.
struct Place {
    int64_t sample, tile_down, tile_across, first_row, first_column;

    __device__ __forceinline__ Place(int64_t tile, const Tiles& tiles) {
        // 32 bits, as `check_sizes` guarantees, because 64-bit divisions are function calls.
        const unsigned whole = unsigned(tile), across = unsigned(tiles.across), down = unsigned(tiles.down);
        sample = whole / across / down;
        tile_down = whole / across % down;
        tile_across = whole % across;
        first_row = tile_down * tile_rows + threadIdx.x / 32 * rows_per_warp;
        first_column = tile_across * tile_columns + threadIdx.x % 32;
    }
};

inline void check_sizes(const char* op, const PairLossShape& shape) {
    const Tiles tiles(shape);
    const int64_t most = int64_t(1) << 31;
    if (shape.batch * shape.rows >= most || shape.columns >= most || shape.batch * tiles.down * tiles.across >= most)
        throw std::runtime_error(std::string(op) + ": less than 2^31 rows, columns and tiles of 4096 pairs, got " +
                                 std::to_string(shape.batch) + " matrices of " + std::to_string(shape.rows) + " x " +
                                 std::to_string(shape.columns));
}

template <class T>
struct Problem {
    const T *distance, *after, *log_discounts;
    const int32_t* places;
    PairLossShape shape;
    PairLossSettings settings;

    // Whether softmaxes leave a pair out.
    __device__ __forceinline__ bool leaves_out(int64_t sample, int64_t i, int64_t j) const {
        if (!places) return false;
        const int32_t* of_columns = places + sample * shape.columns;
        const int64_t match = i + settings.offset;
        const int32_t gap = of_columns[j] - of_columns[match];
        return j != match && gap <= settings.window && -gap <= settings.window;
    }
    __device__ __forceinline__ T log_discount(int64_t row) const {
        return log_discounts ? log_discounts[row] : T(settings.log_discount);
    }
    __device__ __forceinline__ Linex<T> linex(T distance, T after, T log_discount) const {
        const T delta = distance - after, clip = T(settings.clip);
        return Linex<T>(distance, delta, T(exp((delta > clip ? clip : delta) + log_discount)), clip);
    }
};

}  // namespace

}  // namespace qmk::cuda
