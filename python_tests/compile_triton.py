"""Compile every Triton kernel of an op for one target, without a GPU: python compile_triton.py iqe cuda:90:32 fp32.

A program of its own, because triton must not be under its interpreter here. What is launched, and with which constants,
is in triton_launches_<op>.py. Prints one line a kernel.
"""

from __future__ import annotations

import importlib
import sys

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from qmkernels.backends.triton import component_tiles

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
    source = ASTSource(kernel, types, constants, aligned)
    triton.compile(source, target=target, options={"num_warps": num_warps})
    print("compiled", kernel.__name__, constants)


def tile_constants(tile: component_tiles.ComponentTile, block_name: str) -> dict[str, int]:
    return {"ROWS": tile.rows, "BLOCK_C": tile.block_c, block_name: tile.block_s}


def main(op: str, target: str, dtype: str) -> None:
    backend, arch, warp_size = target.split(":")
    gpu = GPUTarget(backend, int(arch) if arch.isdigit() else arch, int(warp_size))
    for kernel, constants, num_warps in importlib.import_module(f"triton_launches_{op}").launches(TORCH_DTYPES[dtype]):
        compile_kernel(kernel, constants, num_warps, gpu, dtype)


if __name__ == "__main__":
    main(*sys.argv[1:])
