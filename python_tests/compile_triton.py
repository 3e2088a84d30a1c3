"""Compile every Triton kernel of an op for one target, without a GPU: python compile_triton.py iqe cuda:90:32 fp32.

A program of its own, because triton must not be under its interpreter here. Prints one line a kernel.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from qmkernels.backends.triton import component_tiles
from qmkernels.definitions.mrn import MrnSettings
from qmkernels.definitions.pair_loss import KINDS, PairLossSettings
from qmkernels.definitions.poisson import COMPARISONS

TYPES_OF_THEIR_OWN = {
    "ends_ptr": "*u8",
    "largest_ptr": "*i32",
    "position_ptr": "*i32",
    "indices_ptr": "*i64",
    "merged_indices_ptr": "*i64",
}
MULTIPLES_OF_16 = ("padded_y",)
TORCH_DTYPES = {"fp32": torch.float32, "fp64": torch.float64}

# A kernel, its constants, and how many warps run it.
Launch = tuple[triton.JITFunction, dict, int]


def compile_kernel(kernel, constants: dict, num_warps: int, target: GPUTarget, dtype: str) -> None:
    """Pointers and the sizes that are not among ``constants`` are what a launch would pass."""
    types = {}
    for name in kernel.arg_names:
        if name in constants:
            types[name] = "constexpr"
        elif name.endswith("_ptr"):
            types[name] = TYPES_OF_THEIR_OWN.get(name, f"*{dtype}")
        else:
            types[name] = "i32"
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, name in enumerate(kernel.arg_names)
        if types[name].startswith("*") or name in MULTIPLES_OF_16
    }
    options = {name: value for name, value in constants.items() if name not in types}
    source = ASTSource(kernel, types, {name: constants[name] for name in constants.keys() - options}, aligned)
    triton.compile(source, target=target, options={"num_warps": num_warps} | options)
    print("compiled", kernel.__name__, constants)


def module(name: str):
    return importlib.import_module(f"qmkernels.backends.triton.{name}")


def iqe(dtype: torch.dtype) -> Iterator[Launch]:
    rows, pairs = module("iqe"), module("iqe_pairwise")
    for dim_per_component, num_components in ((1, 7), (5, 3), (16, 32), (1024, 1)):
        block_k = triton.next_power_of_2(dim_per_component)
        for reduction in ("maxmean", "none"):
            common = {"K": dim_per_component, "REDUCTION": reduction}
            if reduction != "maxmean":
                common["max_weight_ptr"] = None
            forward = {"HIGHEST": torch.finfo(dtype).max, "KEEP": reduction == "maxmean", **common}
            num_rows, block_c, _ = rows.forward_tile(num_components, dim_per_component)
            tile = {"ROWS": num_rows, "BLOCK_C": block_c, "BLOCK_K": block_k}
            yield rows.iqe_forward_kernel, {**forward, **tile}, 4
            yield rows.iqe_backward_kernel, {**common, **tile}, 4
            block_x, block_y = pairs.pairwise_forward_tile(1000, 1000, dtype.itemsize)
            tile = {"WIDE": False, "BLOCK_X": block_x, "BLOCK_Y": block_y}
            yield pairs.iqe_pairwise_forward_kernel, {**forward, **tile}, 4
            block_x, block_y = pairs.pairwise_backward_tile(1000, 1000, dim_per_component, dtype.itemsize)
            tile = {"WIDE": True, "BLOCK_X": block_x, "BLOCK_Y": block_y, "BLOCK_K": block_k}
            backward = {"HIGHEST": torch.finfo(dtype).max, "SIGN": 1, "stride_x": 1, **common}
            yield pairs.iqe_pairwise_backward_kernel, {**backward, **tile}, 4


def tile_constants(tile: component_tiles.ComponentTile, block_name: str) -> dict[str, int]:
    return {"ROWS": tile.rows, "BLOCK_C": tile.block_c, block_name: tile.block_s}


def mrn(dtype: torch.dtype) -> Iterator[Launch]:
    rows, pairs, common = module("mrn"), module("mrn_pairwise"), module("mrn_common")
    block_x, block_y = component_tiles.pair_tile(1000, 1000, dtype.itemsize)
    for form, size in (
        (MrnSettings(8, eps=1e-6, reduction="mean"), 64),
        (MrnSettings(asymmetric="second", squares="mean", eps=1e-12, eps_form="max", reduction="none"), 512),
        (MrnSettings(100, "none", exponent=2.0, eps=1e-8, eps_form="difference"), 1),
        (MrnSettings(exponent=1.5), 2047),
    ):
        constants = common.constants(form, size)
        tile = component_tiles.component_tile(form.num_components, size)
        for kernel in (rows.mrn_forward_kernel, rows.mrn_backward_kernel):
            yield kernel, {**constants, **tile_constants(tile, "BLOCK_S")}, tile.num_warps
        yield pairs.mrn_pairwise_forward_kernel, {**constants, "BLOCK_X": block_x, "BLOCK_Y": block_y}, 4
        tile = component_tiles.own_tile(1000, form.num_components, size)
        constants |= {"SIGN": -1, "stride_own": 1, **tile_constants(tile, "BLOCK_S")}
        yield pairs.mrn_pairwise_backward_kernel, constants, tile.num_warps


def pqe(dtype: torch.dtype) -> Iterator[Launch]:
    rows, pairs = module("pqe"), module("pqe_pairwise")
    block_x, block_y = component_tiles.pair_tile(1000, 1000, dtype.itemsize)
    without, unneeded = {"weights_ptr": None, "grad_weights_ptr": None}, {"grad_weights_ptr": None}
    for num_components, size, given in (
        (128, 4, {}),
        (128, 4, unneeded),
        (7, 1, without),
        (3, 33, without),
        (1, 1024, {}),
    ):
        forward = {"K": size, **{name: given[name] for name in given if name == "weights_ptr"}}
        tile = component_tiles.component_tile(num_components, size)
        of_tile = tile_constants(tile, "BLOCK_K")
        yield rows.pqe_forward_kernel, {**forward, **of_tile}, tile.num_warps
        yield rows.pqe_backward_kernel, {"K": size, **given, **of_tile}, tile.num_warps
        yield pairs.pqe_pairwise_forward_kernel, {**forward, "BLOCK_X": block_x, "BLOCK_Y": block_y}, 4
        tile = component_tiles.own_tile(1000, num_components, size)
        of_tile = {"SIGN": 1, "stride_other": 1, **tile_constants(tile, "BLOCK_K")}
        yield pairs.pqe_pairwise_backward_kernel, {"K": size, **given, **of_tile}, tile.num_warps


def poisson(dtype: torch.dtype) -> Iterator[Launch]:
    kernels = module("poisson")
    for form in COMPARISONS:
        constants = {"FORM": form, "BLOCK": kernels.BLOCK}
        yield kernels.poisson_forward_kernel, constants, 4
        yield kernels.poisson_backward_kernel, constants, 4


def nearest(dtype: torch.dtype) -> Iterator[Launch]:
    kernels = module("nearest")
    yield kernels.nearest_merge_kernel, {"BLOCK": 1024}, 4
    yield kernels.nearest_merge_kernel, {"BLOCK": 16, "k": 1}, 4


def fsq(dtype: torch.dtype) -> Iterator[Launch]:
    kernels = module("fsq")
    for levels in ([8, 8], [8, 5, 3], [1000] * 6, [2] * 62):
        yield kernels.fsq_forward_kernel, kernels.forward_constants(levels), 4
        yield kernels.fsq_backward_kernel, kernels.backward_constants(levels), 4


def metra(dtype: torch.dtype) -> Iterator[Launch]:
    kernels = module("metra")
    yield kernels.metra_sums_kernel, {"BLOCK": kernels.SUM_BLOCK}, 4
    for dim, norm, sizes in ((1, "mean", {"num_rows": 1, "dim": 1}), (507, "mean", {}), (2048, "sum", {})):
        constants = {**kernels.tile(dim), **sizes}
        yield kernels.metra_forward_kernel, {"NORM": norm, **constants}, 4
        for unneeded in ({}, {"grad_skill_ptr": None}):
            yield kernels.metra_backward_kernel, {**unneeded, **constants}, 4


def temporal_consistency(dtype: torch.dtype) -> Iterator[Launch]:
    kernels = module("temporal_consistency")
    for size in (5, 512, 3000):
        for masked in ({}, {"mask_ptr": None}):
            yield kernels.temporal_consistency_forward_kernel, {"EPS": kernels.EPS, **kernels.tile(size), **masked}, 4
            yield kernels.temporal_consistency_sums_kernel, {"BLOCK": 16 if size == 5 else 256, **masked}, 4
            yield kernels.temporal_consistency_backward_kernel, kernels.tile(size), 4


def pair_loss(dtype: torch.dtype) -> Iterator[Launch]:
    kernels = module("pair_loss")
    number, alone = {"log_discounts_ptr": None}, {"after_ptr": None, "log_discounts_ptr": None}
    for kind, missing in (*((kind, {}) for kind in KINDS), ("backward", number), ("symmetric", alone)):
        form = PairLossSettings(kind, 0.05, 0.1, log_discount=-0.01)
        yield kernels.pair_loss_forward_kernel, kernels.forward_constants(form) | missing, 4
        yield kernels.pair_loss_backward_kernel, kernels.backward_constants(form) | missing, 4


LAUNCHES = {
    function.__name__: function
    for function in (iqe, mrn, pqe, poisson, nearest, fsq, metra, pair_loss, temporal_consistency)
}


def main(op: str, target: str, dtype: str) -> None:
    backend, arch, warp_size = target.split(":")
    gpu = GPUTarget(backend, int(arch) if arch.isdigit() else arch, int(warp_size))
    for kernel, constants, num_warps in LAUNCHES[op](TORCH_DTYPES[dtype]):
        compile_kernel(kernel, constants, num_warps, gpu, dtype)


if __name__ == "__main__":
    main(*sys.argv[1:])
