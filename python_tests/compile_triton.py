"""Compile a file of Triton kernels for one target, without a GPU: python compile_triton.py iqe cuda:90:32 fp32.

A program of its own, because triton must not be under its interpreter here. What is compiled is what the file's
``launches`` say, every kernel of it at least once. Prints one line a kernel.
"""

from __future__ import annotations

import importlib
import sys

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

DTYPES = {"fp32": torch.float32, "fp64": torch.float64}
TYPES = {torch.uint8: "u8", torch.int32: "i32", torch.int64: "i64"} | {dtype: name for name, dtype in DTYPES.items()}


def compile_kernel(kernel: triton.JITFunction, given: dict, target: GPUTarget, dtype: torch.dtype) -> None:
    """As a launch with these arguments would: None and 1 become constants, multiples of 16 are known to be some.
    Tensors that are not given are of ``dtype``, numbers that are not given any of 32 bits."""
    types, constants, multiples = {}, {}, {}
    for place, parameter in enumerate(kernel.params):
        name, is_pointer = parameter.name, parameter.name.endswith("_ptr")
        if parameter.is_constexpr or (name in given and given[name] in (None, 1)):
            types[name], constants[name] = "constexpr", given[name]
            continue
        types[name] = "*" + TYPES[given.get(name, dtype)] if is_pointer else "i32"
        if is_pointer or given.get(name, 1) % 16 == 0:
            multiples[(place,)] = [["tt.divisibility", 16]]
    options = {name: value for name, value in given.items() if name not in types}
    triton.compile(ASTSource(kernel, types, constants, multiples), target=target, options=options)
    print("compiled", kernel.__name__, constants)


def main(file: str, target: str, dtype: str) -> None:
    backend, arch, warp_size = target.split(":")
    gpu = GPUTarget(backend, int(arch) if arch.isdigit() else arch, int(warp_size))
    module = importlib.import_module(f"qmkernels.backends.triton.{file}")
    missing = {value for name, value in vars(module).items() if name.endswith("_kernel")}
    for kernel, given in module.launches(DTYPES[dtype]):
        compile_kernel(kernel, given, gpu, DTYPES[dtype])
        missing.discard(kernel)
    if missing:
        sys.exit(f"{file}.launches leaves out {', '.join(kernel.__name__ for kernel in missing)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
