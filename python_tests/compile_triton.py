"""Compiles files of Triton kernels for one target, without a GPU: python compile_triton.py cuda:90:32 fp32 all iqe mrn.

It is a separate program because triton must not run under its interpreter here. It compiles each file's ``launches``,
which cover every kernel at least once, all of them or the first of each kernel, and prints one line per launch.
"""

from __future__ import annotations

import importlib
import sys

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

DTYPES = {"fp32": torch.float32, "fp64": torch.float64}
TYPES = {torch.uint8: "u8", torch.int32: "i32", torch.int64: "i64", torch.bfloat16: "bf16"}
TYPES |= {dtype: name for name, dtype in DTYPES.items()}


def compile_kernel(kernel: triton.JITFunction, arguments: dict, target: GPUTarget, dtype: torch.dtype) -> None:
    """Compiles as a launch with these arguments would: None and 1 become constants, and multiples of 16 are marked so.
    Missing tensors have ``dtype``, missing numbers 32 bits."""
    types, constants, multiples = {}, {}, {}
    for place, parameter in enumerate(kernel.params):
        name, is_pointer = parameter.name, parameter.name.endswith("_ptr")
        if parameter.is_constexpr or (name in arguments and arguments[name] in (None, 1)):
            types[name], constants[name] = "constexpr", arguments[name]
            continue
        types[name] = "*" + TYPES[arguments.get(name, dtype)] if is_pointer else "i32"
        if is_pointer or arguments.get(name, 1) % 16 == 0:
            multiples[(place,)] = [["tt.divisibility", 16]]
    options = {name: value for name, value in arguments.items() if name not in types}
    triton.compile(ASTSource(kernel, types, constants, multiples), target=target, options=options)


def compile_file(file: str, target: GPUTarget, dtype: torch.dtype, which: str) -> None:
    module = importlib.import_module(f"qmkernels.backends.triton.{file}")
    missing = {value for name, value in vars(module).items() if name.endswith("_kernel")}
    for kernel, arguments in module.launches(dtype):
        if which == "first" and kernel not in missing:
            continue
        compile_kernel(kernel, arguments, target, dtype)
        print(f"{file}: compiled {kernel.__name__}", flush=True)
        missing.discard(kernel)
    if missing:
        sys.exit(f"{file}.launches leaves out {', '.join(kernel.__name__ for kernel in missing)}")


def main(target: str, dtype: str, which: str, *files: str) -> None:
    backend, arch, warp_size = target.split(":")
    gpu = GPUTarget(backend, int(arch) if arch.isdigit() else arch, int(warp_size))
    for file in files:
        compile_file(file, gpu, DTYPES[dtype], which)


if __name__ == "__main__":
    main(*sys.argv[1:])
