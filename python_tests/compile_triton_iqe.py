"""Compile every Triton kernel of IQE for one target, without a GPU: python compile_triton_iqe.py cuda:90:32 fp32.

A program of its own, because triton must not be under its interpreter here. Prints one line a kernel.
"""

from __future__ import annotations

import sys

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from qmkernels.backends.triton import iqe, iqe_pairwise

POINTERS_OF_THEIR_OWN_TYPE = {"ends_ptr": "*u8", "largest_ptr": "*i32", "position_ptr": "*i32"}
MULTIPLES_OF_16 = ("padded_y",)


def compile_kernel(kernel, target: GPUTarget, dtype: str, constants: dict) -> None:
    """Pointers and the sizes that are not among ``constants`` are what a launch would pass."""
    types = {}
    for name in kernel.arg_names:
        if name in constants:
            types[name] = "constexpr"
        elif name.endswith("_ptr"):
            types[name] = POINTERS_OF_THEIR_OWN_TYPE.get(name, f"*{dtype}")
        else:
            types[name] = "i32"
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, name in enumerate(kernel.arg_names)
        if types[name].startswith("*") or name in MULTIPLES_OF_16
    }
    source = ASTSource(kernel, types, constants, aligned)
    triton.compile(source, target=target, options={"num_warps": 4})
    print("compiled", kernel.__name__, constants)


def main(target: str, dtype: str) -> None:
    backend, arch, warp_size = target.split(":")
    gpu = GPUTarget(backend, int(arch) if arch.isdigit() else arch, int(warp_size))
    torch_dtype = {"fp32": torch.float32, "fp64": torch.float64}[dtype]
    highest = torch.finfo(torch_dtype).max
    for dim_per_component, num_components in ((1, 7), (5, 3), (16, 32), (1024, 1)):
        block_k = triton.next_power_of_2(dim_per_component)
        for reduction in ("maxmean", "none"):
            common = {"K": dim_per_component, "REDUCTION": reduction}
            if reduction != "maxmean":
                common["max_weight_ptr"] = None
            forward = {"HIGHEST": highest, "KEEP": reduction == "maxmean", **common}
            rows, block_c, _ = iqe.forward_tile(num_components, dim_per_component)
            tile = {"ROWS": rows, "BLOCK_C": block_c, "BLOCK_K": block_k}
            compile_kernel(iqe.iqe_forward_kernel, gpu, dtype, {**forward, **tile})
            compile_kernel(iqe.iqe_backward_kernel, gpu, dtype, {**common, "ROWS": 2, "BLOCK_D": 512})
            block_x, block_y = iqe_pairwise.pairwise_forward_tile(1000, 1000, torch_dtype.itemsize)
            tile = {"WIDE": False, "BLOCK_X": block_x, "BLOCK_Y": block_y}
            compile_kernel(iqe_pairwise.iqe_pairwise_forward_kernel, gpu, dtype, {**forward, **tile})
            block_x, block_y = iqe_pairwise.pairwise_backward_tile(1000, 1000, dim_per_component, torch_dtype.itemsize)
            tile = {"WIDE": True, "BLOCK_X": block_x, "BLOCK_Y": block_y, "BLOCK_K": block_k}
            backward = {"HIGHEST": highest, "SIGN": 1, "stride_x": 1, **common}
            compile_kernel(iqe_pairwise.iqe_pairwise_backward_kernel, gpu, dtype, {**backward, **tile})


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
