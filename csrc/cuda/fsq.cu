// Finite scalar quantisation: one group per thread; the levels' constants are kernel parameters, the same for all
// threads of a warp at a time. Groups of up to four values have their own kernels, which load and store a group at once
// if it is aligned to its size. Bound by memory: forward reads z and writes codes and indices, backward reads two
// tensors and writes one. Arithmetic in T; z and its gradient may be stored in half precision, as numbers of type S.
#include "../math/fsq.h"
#include "../ops/fsq.h"
#include "half.cuh"
#include "launch.cuh"

namespace qmk::cuda {

namespace {

constexpr int block_threads = 256;

template <class T>
struct Levels {
    QMK_TARGET::FsqConstants<T> constants[most_fsq_levels];
    int64_t places[most_fsq_levels];
    int n;
};

template <class T>
Levels<T> levels_of(const int64_t* levels, int n) {
    Levels<T> result{};
    result.n = n;
    for (int j = 0; j < n; ++j) {
        result.constants[j] = QMK_TARGET::fsq_constants<T>(levels[j]);
        result.places[j] = j == 0 ? 1 : result.places[j - 1] * levels[j - 1];
    }
    return result;
}

template <class T>
struct Bits;
template <>
struct Bits<float> {
    using Type = int32_t;
};
template <>
struct Bits<double> {
    using Type = int64_t;
};

// The bytes of a group that one instruction moves: all of a group of one, two or four values, at most 16.
template <class T, int size>
constexpr int group_alignment = size == 3               ? sizeof(T)
                                : size * sizeof(T) < 16 ? size * sizeof(T)
                                                        : 16;

template <class T, int size>
struct alignas(group_alignment<T, size>) Group {
    T values[size];
};

template <class T, class S, int size>
__global__ void __launch_bounds__(block_threads)
    fsq_forward_kernel(const Group<S, size>* z, Group<T, size>* codes, int64_t* indices, int64_t groups,
                       Levels<T> levels) {
    for (int64_t g = int64_t(blockIdx.x) * block_threads + threadIdx.x; g < groups;
         g += int64_t(gridDim.x) * block_threads) {
        const Group<S, size> from = z[g];
        Group<T, size> to;
        int64_t index = 0;
        bool is_number = true;
#pragma unroll
        for (int j = 0; j < size; ++j) {
            const auto result =
                QMK_TARGET::fsq_quantised<T, typename Bits<T>::Type>(T(from.values[j]), levels.constants[j]);
            to.values[j] = result.code;
            index += result.level * levels.places[j];
            is_number = is_number && result.level >= 0;
        }
        codes[g] = to;
        indices[g] = is_number ? index : -1;
    }
}

// Groups of n values.
template <class T, class S>
__global__ void __launch_bounds__(block_threads)
    fsq_forward_any_kernel(const S* z, T* codes, int64_t* indices, int64_t groups, Levels<T> levels) {
    for (int64_t g = int64_t(blockIdx.x) * block_threads + threadIdx.x; g < groups;
         g += int64_t(gridDim.x) * block_threads) {
        int64_t index = 0;
        bool is_number = true;
        for (int j = 0; j < levels.n; ++j) {
            const auto result =
                QMK_TARGET::fsq_quantised<T, typename Bits<T>::Type>(T(z[g * levels.n + j]), levels.constants[j]);
            codes[g * levels.n + j] = result.code;
            index += result.level * levels.places[j];
            is_number = is_number && result.level >= 0;
        }
        indices[g] = is_number ? index : -1;
    }
}

template <class T, class S, int size>
__global__ void __launch_bounds__(block_threads)
    fsq_backward_kernel(const Group<T, size>* grad_codes, const Group<S, size>* z, Group<S, size>* grad_z,
                        int64_t groups, Levels<T> levels) {
    for (int64_t g = int64_t(blockIdx.x) * block_threads + threadIdx.x; g < groups;
         g += int64_t(gridDim.x) * block_threads) {
        const Group<S, size> from = z[g];
        const Group<T, size> grad = grad_codes[g];
        Group<S, size> to;
#pragma unroll
        for (int j = 0; j < size; ++j)
            to.values[j] = S(grad.values[j] * QMK_TARGET::fsq_slope<T>(T(from.values[j]), levels.constants[j]));
        grad_z[g] = to;
    }
}

template <class T, class S>
__global__ void __launch_bounds__(block_threads)
    fsq_backward_any_kernel(const T* grad_codes, const S* z, S* grad_z, int64_t groups, Levels<T> levels) {
    for (int64_t g = int64_t(blockIdx.x) * block_threads + threadIdx.x; g < groups;
         g += int64_t(gridDim.x) * block_threads)
        for (int j = 0; j < levels.n; ++j) {
            const int64_t at = g * levels.n + j;
            grad_z[at] = S(grad_codes[at] * QMK_TARGET::fsq_slope<T>(T(z[at]), levels.constants[j]));
        }
}

template <int size>
struct Size {
    static constexpr int value = size;
};

// Calls run(Size<n>) if there are kernels for groups of n values and all tensors are aligned for them, else
// run(Size<0>).
template <class Run>
void with_size(int n, std::initializer_list<const void*> tensors, Run&& run) {
    bool is_aligned = true;
    for (const void* tensor : tensors) is_aligned = is_aligned && is_aligned_to_16(tensor);
    if (n == 1) return run(Size<1>{});
    if (n == 2 && is_aligned) return run(Size<2>{});
    if (n == 3) return run(Size<3>{});
    if (n == 4 && is_aligned) return run(Size<4>{});
    return run(Size<0>{});
}

template <int size, class T>
auto as_groups(T* values) {
    using Value = std::remove_const_t<T>;
    using Result = std::conditional_t<std::is_const_v<T>, const Group<Value, size>, Group<Value, size>>;
    return reinterpret_cast<Result*>(values);
}

template <class S, class T>
void forward(const FsqForward<T>& call, Context context) {
    const int n = int(call.levels.count);
    const S* z = numbers_of<S>(call.z);
    const int64_t blocks = divide_up(call.groups, block_threads);
    with_size(n, {z, call.codes}, [&](auto size) {
        constexpr int fixed = decltype(size)::value;
        if constexpr (fixed == 0)
            launch("fsq_forward", fsq_forward_any_kernel<T, S>, blocks, block_threads, 0, context, z, call.codes,
                   call.indices, call.groups, levels_of<T>(call.levels.values, n));
        else
            launch("fsq_forward", fsq_forward_kernel<T, S, fixed>, blocks, block_threads, 0, context,
                   as_groups<fixed>(z), as_groups<fixed>(call.codes), call.indices, call.groups,
                   levels_of<T>(call.levels.values, n));
    });
}

template <class S, class T>
void backward(const FsqBackward<T>& call, Context context) {
    const int n = int(call.levels.count);
    const S* z = numbers_of<S>(call.z);
    S* grad_z = numbers_of<S>(call.grad_z);
    const int64_t blocks = divide_up(call.groups, block_threads);
    with_size(n, {call.grad_codes, z, grad_z}, [&](auto size) {
        constexpr int fixed = decltype(size)::value;
        if constexpr (fixed == 0)
            launch("fsq_backward", fsq_backward_any_kernel<T, S>, blocks, block_threads, 0, context, call.grad_codes, z,
                   grad_z, call.groups, levels_of<T>(call.levels.values, n));
        else
            launch("fsq_backward", fsq_backward_kernel<T, S, fixed>, blocks, block_threads, 0, context,
                   as_groups<fixed>(call.grad_codes), as_groups<fixed>(z), as_groups<fixed>(grad_z), call.groups,
                   levels_of<T>(call.levels.values, n));
    });
}

}  // namespace

template <class T>
void fsq_forward(const FsqForward<T>& call, Context context) {
    if (call.groups == 0) return;
    const DeviceGuard guard(context.device, "fsq_forward");
    with_storage<T>(call.z.storage, [&](auto number) { forward<decltype(number)>(call, context); });
}

template <class T>
void fsq_backward(const FsqBackward<T>& call, Context context) {
    if (call.groups == 0) return;
    const DeviceGuard guard(context.device, "fsq_backward");
    with_storage<T>(call.z.storage, [&](auto number) { backward<decltype(number)>(call, context); });
}

QMK_INSTANTIATE(fsq_forward, FsqForward, Context)
QMK_INSTANTIATE(fsq_backward, FsqBackward, Context)

}  // namespace qmk::cuda
