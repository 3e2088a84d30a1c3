// What the bindings of an op share: pointers arrive as integers, 0 for none, and the GIL is released in kernels.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>

#include "../cpu/isa.h"

namespace qmk {

using Pointer = std::uintptr_t;

template <class T>
T* as(Pointer pointer) {
    return reinterpret_cast<T*>(pointer);
}

// Calls `function` with a float or a double, after the bytes of an item.
template <class Function>
auto with_item_type(int item_size, Function&& function) {
    if (item_size == sizeof(float)) return function(float{});
    if (item_size == sizeof(double)) return function(double{});
    throw std::invalid_argument("items must have 4 or 8 bytes, got " + std::to_string(item_size));
}

// Of an op's function tables, one for each instruction set in the order of QMK_ISAS, the one in use.
template <class Table>
const Table& in_use(std::initializer_list<const Table*> tables) {
    return *tables.begin()[int(isa_in_use())];
}

// Each op's bindings: its functions in the submodules `cpu` and, where built, `cuda`.
void bind_fsq(pybind11::module_& cpu, pybind11::module_* cuda);
void bind_iqe(pybind11::module_& cpu, pybind11::module_* cuda);
void bind_latent_dynamics(pybind11::module_& cpu, pybind11::module_* cuda);
void bind_metra(pybind11::module_& cpu, pybind11::module_* cuda);
void bind_mrn(pybind11::module_& cpu, pybind11::module_* cuda);
void bind_nearest(pybind11::module_& cpu, pybind11::module_* cuda);
void bind_pair_loss(pybind11::module_& cpu, pybind11::module_* cuda);
void bind_poisson(pybind11::module_& cpu, pybind11::module_* cuda);
void bind_pqe(pybind11::module_& cpu, pybind11::module_* cuda);
void bind_qrl_critic(pybind11::module_& cpu, pybind11::module_* cuda);
void bind_temporal_consistency(pybind11::module_& cpu, pybind11::module_* cuda);

}  // namespace qmk
