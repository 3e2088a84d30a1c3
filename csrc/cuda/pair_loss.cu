// Losses over a matrix of distances: a forward pass, two small kernels that combine its parts, and a backward pass.
//
// A tile is 32 rows x 128 columns of one matrix; a warp has four of its rows, a thread four columns of each, 32 apart,
// so that loads are coalesced. Forward writes the sums over the tile's pairs and, if the form has softmaxes over them,
// the largest logit and the sum of exponentials of each row and column. Backward handles every pair on its own.
//
// Memory: forward 2/128 of the matrix for softmaxes over rows, 2/32 for those over columns. Precision: arithmetic in T;
// the tiles' sums are added in double. The order of every sum is fixed, without atomics: the same input gives the same
// bits.
#include "../math/iqe.h"
#include "../ops/pair_loss.h"
#include "block_sum.cuh"
#include "launch.cuh"
#include "warp.cuh"

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

// The largest of some logits, and the sum of their exponentials relative to it.
template <class T>
struct PartialSoftmax {
    T most = T(-INFINITY), sum = T(0);

    // NaN is only in the sum. Infinities are shifted by finite numbers: exp(inf - highest) is inf.
    __device__ __forceinline__ static T shift_of(T most) { return finite_or_nan(most, Limits<T>::highest); }
    __device__ __forceinline__ void see(T logit) { most = logit > most ? logit : most; }
    __device__ __forceinline__ void add(T logit) { sum += T(exp(logit - shift_of(most))); }
    // Needs `most` to be that of all parts already.
    __device__ __forceinline__ void add(const PartialSoftmax& part) {
        sum += part.sum * T(exp(shift_of(part.most) - shift_of(most)));
    }
};

template <class T>
__device__ __forceinline__ T max_of_threads(T value) {
    for (int distance = 16; distance > 0; distance /= 2) {
        const T other = __shfl_xor_sync(whole_warp, value, distance);
        value = other > value ? other : value;
    }
    return value;
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

// The output of a forward pass: the largest logit and the sum, for each row and tile across it and for each column and
// tile down it, with tiles outermost; then sums over pairs, and over softmaxes.
template <class T>
struct Parts {
    T *of_rows, *of_columns;
    PairSums<T>*sums, *of_softmaxes;
    int64_t num_tiles, num_chunks, bytes;

    Parts(void* memory, const PairLossShape& shape, PairKind kind) {
        const Tiles tiles(shape);
        const bool with_rows = over_rows(kind) || kind == PairKind::sigmoid;
        num_tiles = shape.batch * tiles.down * tiles.across;
        const int64_t per_side = divide_up(shape.batch * shape.rows, block_threads);
        num_chunks = per_side * (int(with_rows) + int(over_columns(kind)));
        T* next = static_cast<T*>(memory);
        const auto take = [&](int64_t count) {
            T* piece = next;
            next += count;
            return piece;
        };
        of_rows = take(with_rows ? 2 * tiles.across * shape.batch * shape.rows : 0);
        of_columns = take(over_columns(kind) ? 2 * tiles.down * shape.batch * shape.columns : 0);
        sums = reinterpret_cast<PairSums<T>*>(take(num_tiles * num_pair_sums<T>));
        of_softmaxes = reinterpret_cast<PairSums<T>*>(take(num_chunks * num_pair_sums<T>));
        bytes = (next - static_cast<T*>(memory)) * int64_t(sizeof(T));
    }
};

template <class T>
struct PairForwardTask {
    Problem<T> problem;
    Parts<T> parts;
};

template <class T, PairKind kind>
__global__ void __launch_bounds__(block_threads, 2) pair_loss_forward_kernel(PairForwardTask<T> task) {
    constexpr bool has_logits = is_softmax(kind) || kind == PairKind::sigmoid;
    constexpr int column_warps = over_columns(kind) ? warps_per_block : 1;
    __shared__ T most_of_warps[column_warps][tile_columns], sum_of_warps[column_warps][tile_columns];
    const Problem<T>& problem = task.problem;
    const PairLossShape& shape = problem.shape;
    const Tiles tiles(shape);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const T scale = T(-problem.settings.scale);
    for (int64_t tile = blockIdx.x; tile < task.parts.num_tiles; tile += gridDim.x) {
        const Place place(tile, tiles);
        T logits[rows_per_warp][columns_per_thread];
        PairSums<T> sums{};
#pragma unroll
        for (int r = 0; r < rows_per_warp; ++r) {
            const int64_t i = place.first_row + r, row = place.sample * shape.rows + i;
#pragma unroll
            for (int c = 0; c < columns_per_thread; ++c) {
                const int64_t j = place.first_column + 32 * c, at = row * shape.columns + j;
                const bool exists = i < shape.rows && j < shape.columns;
                logits[r][c] = T(-INFINITY);
                if (!exists) continue;
                const bool is_match = j == i + problem.settings.offset;
                const int64_t match = j - problem.settings.offset;
                const bool is_outside = match < 0 || match >= shape.rows;
                if constexpr (is_softmax(kind)) {
                    if (problem.leaves_out(place.sample, i, j)) {
                        sums.left_out += T(1);
                        if (is_outside) sums.left_out_outside += T(1);
                        continue;
                    }
                }
                const T distance = problem.distance[at];
                if (kind != PairKind::coulomb || !is_match) sums.distance += distance;
                if (is_match) sums.match_distance += distance;
                if constexpr (has_logits) logits[r][c] = product(scale, distance);
                if constexpr (over_columns(kind))
                    if (is_outside) sums.outside += distance;
                if constexpr (kind == PairKind::sigmoid) {
                    const T logit = logits[r][c];
                    sums.terms += (logit < T(0) ? T(0) : logit) + T(log1p(exp(logit < T(0) ? logit : -logit)));
                }
                if constexpr (kind == PairKind::repulsion) {
                    const T value = T(log(distance + T(pair_eps)));
                    sums.terms += value;
                    const T beyond = distance - T(problem.settings.step);
                    if (is_match) sums.match_terms += value, sums.match_steps += beyond * beyond;
                }
                if constexpr (kind == PairKind::coulomb)
                    if (!is_match) sums.terms += T(1) / (distance + T(problem.settings.eps));
                if (problem.after) {
                    const T after = problem.after[at];
                    const T divergence = problem.linex(distance, after, problem.log_discount(row)).value;
                    sums.divergence += divergence;
                    sums.difference += distance - after;
                    if (is_match) sums.match_divergence += divergence;
                }
            }
        }
        if constexpr (over_rows(kind) || kind == PairKind::sigmoid) {
            T* most = task.parts.of_rows + 2 * place.tile_across * shape.batch * shape.rows;
            T* sum = most + shape.batch * shape.rows;
#pragma unroll
            for (int r = 0; r < rows_per_warp; ++r) {
                PartialSoftmax<T> row;
#pragma unroll
                for (int c = 0; c < columns_per_thread; ++c) row.see(logits[r][c]);
                row.most = max_of_threads(row.most);
                if constexpr (over_rows(kind)) {
#pragma unroll
                    for (int c = 0; c < columns_per_thread; ++c) row.add(logits[r][c]);
                    row.sum = sum_of_threads(row.sum);
                }
                const int64_t i = place.first_row + r, at = place.sample * shape.rows + i;
                if (lane == 0 && i < shape.rows) most[at] = row.most, sum[at] = row.sum;
            }
        }
        if constexpr (over_columns(kind)) {
#pragma unroll
            for (int c = 0; c < columns_per_thread; ++c) {
                PartialSoftmax<T> column;
#pragma unroll
                for (int r = 0; r < rows_per_warp; ++r) column.see(logits[r][c]);
#pragma unroll
                for (int r = 0; r < rows_per_warp; ++r) column.add(logits[r][c]);
                most_of_warps[warp][lane + 32 * c] = column.most;
                sum_of_warps[warp][lane + 32 * c] = column.sum;
            }
            __syncthreads();
            const int64_t j = place.tile_across * tile_columns + threadIdx.x;
            if (threadIdx.x < tile_columns && j < shape.columns) {
                PartialSoftmax<T> column;
                for (int w = 0; w < warps_per_block; ++w) column.see(most_of_warps[w][threadIdx.x]);
                for (int w = 0; w < warps_per_block; ++w)
                    column.add(PartialSoftmax<T>{most_of_warps[w][threadIdx.x], sum_of_warps[w][threadIdx.x]});
                T* most = task.parts.of_columns + 2 * place.tile_down * shape.batch * shape.columns;
                T* sum = most + shape.batch * shape.columns;
                const int64_t at = place.sample * shape.columns + j;
                most[at] = column.most, sum[at] = column.sum;
            }
        }
        constexpr int over_pairs = 11;  // from `distance` to `match_divergence`
        sum_over_block<over_pairs>(&sums.distance);
        if (threadIdx.x == 0) task.parts.sums[tile] = sums;
    }
}

template <class T>
struct PairMerge {
    const T* distance;
    const T* of_tiles;
    T *largest, *log_sum;  // null for sigmoids
    PairSums<T>* sums;
    int side;  // 0: of rows, 1: of columns
    int64_t num_tiles;
    PairLossShape shape;
    PairLossSettings settings;
};

// One thread per softmax: combines the tiles' parts.
template <class T>
__global__ void __launch_bounds__(block_threads) pair_loss_merge_kernel(PairMerge<T> task) {
    const PairLossShape& shape = task.shape;
    const int64_t all_rows = shape.batch * shape.rows, all = task.side == 0 ? all_rows : shape.batch * shape.columns;
    for (int64_t chunk = blockIdx.x; chunk * block_threads < all_rows; chunk += gridDim.x) {
        const int64_t row = chunk * block_threads + threadIdx.x;
        T found[4] = {};  // log-sum-exp, its square, whether the match is the largest, excess over the match
        if (row < all_rows) {
            const int64_t sample = unsigned(row) / unsigned(shape.rows);
            const int64_t match = task.settings.offset + row - sample * shape.rows;
            const int64_t at = task.side == 0 ? row : sample * shape.columns + match;
            PartialSoftmax<T> whole;
            for (int64_t tile = 0; tile < task.num_tiles; ++tile) whole.see(task.of_tiles[2 * tile * all + at]);
            for (int64_t tile = 0; tile < task.num_tiles; ++tile) {
                PartialSoftmax<T> part;
                part.most = task.of_tiles[2 * tile * all + at];
                part.sum = task.of_tiles[(2 * tile + 1) * all + at];
                whole.add(part);
            }
            const T logit = product(T(-task.settings.scale), task.distance[row * shape.columns + match]);
            const Softmax<T> softmax(whole.most, T(log(whole.sum)));
            found[2] = logit >= softmax.largest ? T(1) : T(0);
            if (task.largest) {
                task.largest[row] = softmax.largest;
                task.log_sum[row] = softmax.log_sum;
                found[0] = softmax.logsumexp();
                found[1] = found[0] * found[0];
                found[3] = softmax.excess(logit);
            }
        }
        sum_over_block(found);
        if (threadIdx.x != 0) continue;
        PairSums<T> sums{};
#pragma unroll
        for (int side = 0; side < 2; ++side) {
            sums.logsumexp[side] = side == task.side ? found[0] : T(0);
            sums.squares[side] = side == task.side ? found[1] : T(0);
            sums.hits[side] = side == task.side ? found[2] : T(0);
            sums.excess[side] = side == task.side ? found[3] : T(0);
        }
        task.sums[chunk] = sums;
    }
}

template <class T>
struct PairFinish {
    const PairSums<T>* sums;
    T *loss, *stats;
    int64_t count;
    bool has_after;
    PairLossShape shape;
    PairLossSettings settings;
};

// One block.
template <class T>
__global__ void __launch_bounds__(block_threads) pair_loss_finish_kernel(PairFinish<T> task) {
    PairSums<double> all{};
    const auto add = [](double& to, T value) { to += double(value); };
    for (int64_t n = threadIdx.x; n < task.count; n += blockDim.x) {
        const PairSums<T>& part = task.sums[n];
        add(all.distance, part.distance);
        add(all.outside, part.outside);
        add(all.left_out, part.left_out);
        add(all.left_out_outside, part.left_out_outside);
        add(all.terms, part.terms);
        add(all.divergence, part.divergence);
        add(all.difference, part.difference);
        add(all.match_distance, part.match_distance);
        add(all.match_steps, part.match_steps);
        add(all.match_terms, part.match_terms);
        add(all.match_divergence, part.match_divergence);
#pragma unroll
        for (int side = 0; side < 2; ++side) {
            add(all.logsumexp[side], part.logsumexp[side]);
            add(all.squares[side], part.squares[side]);
            add(all.hits[side], part.hits[side]);
            add(all.excess[side], part.excess[side]);
        }
    }
    sum_over_block<num_pair_sums<double>>(&all.distance);
    if (threadIdx.x == 0) finish_pair_loss(all, task.settings, task.shape, task.has_after, task.loss, task.stats);
}

template <class T>
struct PairBackwardTask {
    Problem<T> problem;
    const T *grad_loss, *row_sums, *column_sums;
    T* grad_distance;
    int64_t num_tiles;
};

template <class T, PairKind kind>
__global__ void __launch_bounds__(block_threads, 2) pair_loss_backward_kernel(PairBackwardTask<T> task) {
    const Problem<T>& problem = task.problem;
    const PairLossShape& shape = problem.shape;
    const Tiles tiles(shape);
    const PairWeights<T> weights(problem.settings, shape, *task.grad_loss);
    const T scale = T(-problem.settings.scale);
    const int64_t all_rows = shape.batch * shape.rows;
    const auto slope_of = [&](const Softmax<T>& softmax) {
        return weights.softmax * (T(1) + weights.squares * softmax.logsumexp()) * T(exp(-softmax.log_sum));
    };
    for (int64_t tile = blockIdx.x; tile < task.num_tiles; tile += gridDim.x) {
        const Place place(tile, tiles);
        T column_largest[columns_per_thread], column_slope[columns_per_thread];
#pragma unroll
        for (int c = 0; c < columns_per_thread; ++c) {
            column_largest[c] = T(INFINITY);
            column_slope[c] = T(0);
            const int64_t match = place.first_column + 32 * c - problem.settings.offset;
            if (!over_columns(kind) || match < 0 || match >= shape.rows) continue;
            const T* largest = task.column_sums + place.sample * shape.rows + match;
            column_largest[c] = *largest;
            column_slope[c] = slope_of(Softmax<T>(*largest, largest[all_rows]));
        }
#pragma unroll 1
        for (int r = 0; r < rows_per_warp; ++r) {
            const int64_t i = place.first_row + r, row = place.sample * shape.rows + i;
            if (i >= shape.rows) break;
            const T row_largest = over_rows(kind) ? task.row_sums[row] : T(0);
            const T row_slope =
                over_rows(kind) ? slope_of(Softmax<T>(row_largest, task.row_sums[all_rows + row])) : T(0);
            const T log_discount = problem.after ? problem.log_discount(row) : T(0);
#pragma unroll
            for (int c = 0; c < columns_per_thread; ++c) {
                const int64_t j = place.first_column + 32 * c, at = row * shape.columns + j;
                if (j >= shape.columns) break;
                if constexpr (is_softmax(kind)) {
                    if (problem.leaves_out(place.sample, i, j)) {
                        task.grad_distance[at] = T(0);
                        continue;
                    }
                }
                const bool is_match = j == i + problem.settings.offset;
                const T distance = problem.distance[at], logit = product(scale, distance);
                T grad = is_match ? weights.match : T(0);
                if constexpr (over_rows(kind)) grad += row_slope * T(exp(logit - row_largest));
                if constexpr (over_columns(kind)) grad += column_slope[c] * T(exp(logit - column_largest[c]));
                if constexpr (kind == PairKind::sigmoid) {
                    const T e = T(exp(logit < T(0) ? logit : -logit));
                    grad += weights.sigmoid * (logit < T(0) ? e : T(1)) / (T(1) + e);
                }
                if constexpr (kind == PairKind::repulsion)
                    grad = is_match ? weights.steps * (distance - T(problem.settings.step))
                                    : weights.repulsion / (distance + T(pair_eps));
                if constexpr (kind == PairKind::coulomb) {
                    const T inverse = T(1) / (distance + T(problem.settings.eps));
                    grad = is_match ? T(0) : weights.repulsion * inverse * inverse;
                }
                if (problem.after) {
                    const T slope = problem.linex(distance, problem.after[at], log_discount).slope;
                    grad += (weights.everywhere + (is_match ? weights.diagonal : T(0))) * slope;
                }
                task.grad_distance[at] = grad;
            }
        }
    }
}

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
