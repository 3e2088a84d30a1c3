// What the kernels share of heads like MRN and PQE, in which a component is a sum (or a maximum) over its values, in
// any order. rows.cuh and pair_tiles.cuh do the loops; a head has the arithmetic:
//
//   kinds                       how many kinds of values there are
//   Sums                        of some values of one component; merge(other)
//   PlacedSums                  the same, and what backward needs besides
//   add<kind>(sums, x, y, place)          or with the kind as an argument; place: which value of the component
//   component(sums)             its value; weighted(sums, c) what it counts for in the distance
//   Slopes                      numbers (T) from which the derivatives follow; slopes(sums, grad, c)
//   gradient<kind>(slopes, x, y, place)   by x; by y it is the negative
//   padding(kind)               such an x beside y = 0 changes no sum
#pragma once

#include "launch.cuh"
#include "pack.cuh"
#include "warp.cuh"

namespace qmk::cuda {

namespace {

// The values of a component: up to two segments, of one kind each.
struct Segments {
    int size[2];
    int kind[2];

    __host__ __device__ __forceinline__ int total() const { return size[0] + size[1]; }
    __device__ __forceinline__ int kind_at(int place) const { return place >= size[0] ? kind[1] : kind[0]; }
};

}  // namespace

}  // namespace qmk::cuda
