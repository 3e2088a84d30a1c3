// Finite scalar quantisation: its kernels' arguments. Their contents: qmkernels/backends/reference/fsq.py.
#pragma once

#include "../math/fsq.h"
#include "../signature.h"

namespace qmk {

// `groups` groups of levels.count values.
template <class T>
struct FsqForward {
    Stored<const T> z;
    T* codes;
    int64_t* indices;
    int64_t groups;
    Integers<most_fsq_levels> levels;
    QMK_FIELDS(z, codes, indices, groups, levels)
    Sizes sizes() const { return {groups * levels.count, groups * levels.count, groups}; }
};

template <class T>
struct FsqBackward {
    const T* grad_codes;
    Stored<const T> z;
    Stored<T> grad_z;
    int64_t groups;
    Integers<most_fsq_levels> levels;
    QMK_FIELDS(grad_codes, z, grad_z, groups, levels)
    Sizes sizes() const { return {groups * levels.count, groups * levels.count, groups * levels.count}; }
};

QMK_KERNEL(fsq_forward, FsqForward)
QMK_KERNEL(fsq_backward, FsqBackward)
using fsq_kernels = Kernels<fsq_forward_kernel, fsq_backward_kernel>;

}  // namespace qmk
