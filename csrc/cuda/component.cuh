// The interface of heads like MRN and PQE, in which a component is a sum (or a maximum) over its values, in any order.
// rows.cuh and pairs_{forward,backward}.cuh have the loops; a head has the arithmetic:
//
//   kinds                       number of kinds of values
//   placed_kind                 -1, or a kind of which only the value at one place has a finite derivative
//   Sums                        over some values of one component; merge(other), merge_thread(distance)
//   PlacedSums                  the same, plus what backward needs
//   add(sums, kind, x, y, place)          place: index of the value in the component
//   of(row)                     the head of one row, or in pairs of one matrix: rows may have their own weights
//   form()                      what the settings choose; with_form(body) calls body(form) with a constant
//   component(sums, form)                 its value; weighted(sums, form, c): its contribution to the distance
//   Slopes                      numbers (T) from which the derivatives follow; slopes(sums, form, grad, c)
//   gradient(slopes, kind, x, y, place)   by x; that by y is its negative
//   padding(kind)               an x that, with y = 0, changes no sum
//
// For pairs, where at most one segment is of the placed kind and at most one is not:
//
//   PairSums                    those of backward; placed() makes PlacedSums of them
//   add_pack<kind>(sums, x, y, pack)      16 bytes of values; pack: its index in the slice, which sums.at keeps
//   find(sums, x, y)            which value of pack sums.at has the largest difference; then sums.at is -2 - place
//   gradient<kind>(slopes, x, y, place)   of kinds that are not placed
//   at_place(slopes, is_place)  the derivative of the placed kind at slopes.place, or elsewhere
//   has_weights                 whether a gradient by weights may be asked for
#pragma once

#include "launch.cuh"
#include "pack.cuh"
#include "warp.cuh"

namespace qmk::cuda {

namespace {

// The values of a component: up to two segments, each of one kind.
struct Segments {
    int size[2];
    int kind[2];

    __host__ __device__ __forceinline__ int total() const { return size[0] + size[1]; }
    __device__ __forceinline__ int kind_at(int place) const { return place >= size[0] ? kind[1] : kind[0]; }
};

// For some heads an index in a component is a T, and floats count to 2^24.
inline void check_components(const char* op, int64_t num_components, int64_t size) {
    check_row_size(op, num_components, size);
    if (size > int64_t(1) << 24)
        throw std::runtime_error(std::string(op) + ": a component may have up to 2^24 values, got " +
                                 std::to_string(size));
}

}  // namespace

}  // namespace qmk::cuda
