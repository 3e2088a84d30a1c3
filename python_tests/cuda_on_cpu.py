"""What the tests of CUDA kernels without a GPU share: an op's kernels, compiled as C++, run on a CPU thread by thread.

Every shared-memory index, barrier, warp shuffle, tile edge and launch size is the one a GPU would use; what only a GPU
can show is missing: its memory model and its speed. The threads run in a random order (csrc/tests/cuda_on_cpu).
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from qmkernels.backends.native import core

SOURCES = Path(__file__).parents[1] / "csrc" / "tests" / "cuda_on_cpu"
COMPILER = shutil.which("g++")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="g++ was not found")


def _compile(op: str, into: Path, *options: str) -> ctypes.CDLL:
    command = [COMPILER, "-std=c++17", "-O2", "-fPIC", "-shared", "-Wno-unknown-pragmas", "-U_FORTIFY_SOURCE"]
    # Three blocks at most, so that a block does one tile after another.
    command += ["-DQMK_TARGET=cuda", "-DQMK_MOST_BLOCKS=3"]
    command += ["-fno-extern-tls-init"]  # dynamic shared memory is declared in a kernel, and needs no constructor
    subprocess.run([*command, f"-I{SOURCES}", *options, SOURCES / f"{op}_library.cpp", "-o", into], check=True)
    return ctypes.CDLL(str(into))


def _argument(value) -> ctypes.c_int64 | ctypes.c_double | ctypes.c_void_p:
    if isinstance(value, float):
        return ctypes.c_double(value)
    if isinstance(value, int):
        return ctypes.c_int64(value)
    return ctypes.c_void_p(value.data_ptr() if value is not None and value.numel() else None)


def kernels(op: str, *macros: str) -> Callable:
    """A fixture for the module: the compiled backend calls the op's CUDA kernels, on CPU tensors.

    The library is built once, and once more for each macro, and a function is taken from the first that has it. New
    tensors and scratch memory are filled with NaN, so that what a kernel leaves out or reads too early shows.
    """

    @pytest.fixture(scope="module", autouse=True)
    def use_kernels(tmp_path_factory) -> Iterator[None]:
        folder = tmp_path_factory.mktemp("cuda_on_cpu")
        libraries = [_compile(op, folder / f"{op}.so")]
        libraries += [_compile(op, folder / f"{op}_{macro}.so", f"-D{macro}") for macro in macros]

        def call(function, device, *arguments):
            native_function = next(getattr(library, function) for library in libraries if hasattr(library, function))
            native_function.restype = ctypes.c_int64
            return native_function(*map(_argument, arguments))

        def scratch(num_bytes, device):
            return torch.full((num_bytes,), 0xFF, dtype=torch.uint8, device=device)

        filled = torch.utils.deterministic.fill_uninitialized_memory
        assert filled, "torch fills new tensors where algorithms are deterministic"
        torch.use_deterministic_algorithms(True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(core, "call", call)
            patch.setattr(core, "launch", call)
            patch.setattr(core, "scratch", scratch)
            yield
        torch.use_deterministic_algorithms(False)

    return use_kernels


def off_a_boundary(tensor: torch.Tensor) -> torch.Tensor:
    """A copy that starts one item past a boundary of 16 bytes."""
    moved = torch.cat([tensor.new_zeros(1), tensor.flatten()])[1:].view(tensor.shape)
    assert moved.data_ptr() % 16 != 0
    return moved
