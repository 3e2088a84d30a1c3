// IQE between matching rows. Float32 or float64 throughout.
//
// Forward: lanes are components. A block of components is loaded and transposed in registers, sorted by x with a
// network and scanned. One pass over x and y; writes the distances and, for backward, two bits an element. Backward:
// one pass that turns those bits into gradients; bound by the bytes of grad_x and grad_y.
#include "iqe.h"

#include <cstdlib>

#include "iqe_components.h"
#include "iqe_pairwise.h"
#include "parallel.h"

namespace qmk::QMK_TARGET {

namespace {

template <class T, int K, bool keep>
void forward(const T* x, const T* y, const T* max_weight, T* out, uint8_t* ends, int32_t* largest, T* spread,
             IqeShape shape, Reduction reduction, int threads) {
    constexpr int n = num_lanes<T>;
    const int64_t size = shape.dim_per_component, num_components = shape.num_components;
    int64_t rows_per_task = components_per_task / (num_components + 1) + 1;
    if (reduction == Reduction::none) rows_per_task = (rows_per_task + n - 1) / n * n;
    const int64_t num_tasks = (shape.rows + rows_per_task - 1) / rows_per_task;
    const int64_t scratch_lanes = (K ? 0 : 3 * size) + rows_per_task * num_components / n + 1;

    parallel_for(num_tasks, threads_for(shape.rows * num_components * size, 1 << 14, threads), [&](int64_t task) {
        const int64_t first_row = task * rows_per_task;
        const int64_t num_rows = rows_per_task < shape.rows - first_row ? rows_per_task : shape.rows - first_row;
        const int64_t first = first_row * num_components, count = num_rows * num_components;
        Lanes<T> small[components_per_task / n + n + 1];
        const bool fits = scratch_lanes <= int64_t(sizeof(small) / sizeof(*small));
        auto* scratch = fits ? small : static_cast<Lanes<T>*>(std::aligned_alloc(64, scratch_lanes * sizeof(Lanes<T>)));
        T* lengths = reinterpret_cast<T*>(scratch + (K ? 0 : 3 * size));
        for (int64_t c = 0; c < count; c += n) {
            const T *block_x = x + (first + c) * size, *block_y = y + (first + c) * size;
            uint8_t* block_ends = keep ? ends + (first + c) * ends_bytes(size) : nullptr;
            const int last_lane = count - c < n ? int(count - c) - 1 : n - 1;
            Lanes<T> block;
            if constexpr (K != 0) {
                block = last_lane == n - 1 ? block_lengths<T, K, keep>(block_x, block_y, n - 1, block_ends)
                                           : block_lengths<T, K, keep>(block_x, block_y, last_lane, block_ends);
            } else {
                block = block_lengths_any<T, keep>(block_x, block_y, last_lane, block_ends, size, scratch);
            }
            store(lengths + c, block);
        }
        if (reduction == Reduction::none) {
            __builtin_memcpy(out + first, lengths, count * sizeof(T));
        } else {
            for (int64_t r = 0; r < num_rows; ++r) {
                const auto row = summarise(lengths + r * num_components, num_components);
                out[first_row + r] = reduced(reduction, row.sum, row.maximum, num_components, max_weight);
                if (largest) largest[first_row + r] = row.largest;
                if (spread)
                    spread[first_row + r] =
                        reduced(Reduction::spread, row.sum, row.maximum, num_components, max_weight);
            }
        }
        if (!fits) std::free(scratch);
    });
}

// K = 0: any.
template <class T, int K>
void forward_sized(const T* x, const T* y, const T* max_weight, T* out, uint8_t* ends, int32_t* largest, T* spread,
                   IqeShape shape, Reduction reduction, int threads) {
    if (ends)
        forward<T, K, true>(x, y, max_weight, out, ends, largest, spread, shape, reduction, threads);
    else
        forward<T, K, false>(x, y, max_weight, out, ends, largest, spread, shape, reduction, threads);
}

template <class T>
void forward_any(const T* x, const T* y, const T* max_weight, T* out, uint8_t* ends, int32_t* largest, T* spread,
                 IqeShape shape, Reduction reduction, int threads) {
    with_constant_size(shape.dim_per_component, [&](auto size) {
        forward_sized<T, size.value>(x, y, max_weight, out, ends, largest, spread, shape, reduction, threads);
    });
}

template <class T>
void backward(const T* grad_out, const uint8_t* ends, const int32_t* largest, const T* max_weight, T* grad_x, T* grad_y,
              IqeShape shape, Reduction reduction, int threads) {
    const int64_t size = shape.dim_per_component, num_components = shape.num_components, dim = num_components * size;
    const auto weights = reduction_weights(reduction, num_components, max_weight);
    const int64_t bytes = ends_bytes(size), rows_per_task = components_per_task / num_components + 1;
    const int64_t num_tasks = (shape.rows + rows_per_task - 1) / rows_per_task;
    const BitPlaces<T> places = bit_places<T>(size);
    parallel_for(num_tasks, threads_for(shape.rows * dim, 1 << 15, threads), [=](int64_t task) {
        const int64_t end = (task + 1) * rows_per_task < shape.rows ? (task + 1) * rows_per_task : shape.rows;
        const int64_t first = task * rows_per_task;
        const bool has_nan = any_marks_nan(ends + first * num_components * bytes, (end - first) * num_components, size);
        for (int64_t row = first; row < end; ++row) {
            const uint8_t* row_ends = ends + row * num_components * bytes;
            T *to_x = grad_x + row * dim, *to_y = grad_y + row * dim;
            if (reduction == Reduction::none) {
                for (int64_t c = 0; c < num_components; ++c)
                    components_backward(row_ends + c * bytes, grad_out[row * num_components + c], 1, size, places,
                                        to_x + c * size, to_y + c * size);
                if (has_nan) write_nan(row_ends, num_components, size, to_x, to_y);
                continue;
            }
            components_backward(row_ends, grad_out[row] * weights.every, num_components, size, places, to_x, to_y);
            if (largest && needs_largest(reduction)) {
                const int64_t c = largest[row];
                components_backward(row_ends + c * bytes, grad_out[row] * (weights.every + weights.largest), 1, size,
                                    places, to_x + c * size, to_y + c * size);
            }
            if (has_nan) write_nan(row_ends, num_components, size, to_x, to_y);
        }
    });
}

}  // namespace

template <class T>
constexpr IqeCpu<T> functions = {forward_any<T>, backward<T>, pairwise_workspace<T>, pairwise_forward<T>,
                                 pairwise_backward<T>};

extern const IqeCpu<float> iqe_float = functions<float>;
extern const IqeCpu<double> iqe_double = functions<double>;

}  // namespace qmk::QMK_TARGET
