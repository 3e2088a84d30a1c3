"""Runs an op's CUDA kernels without a GPU, for tests: compiled as C++, thread by thread on a CPU.

Every shared-memory index, barrier, warp shuffle, tile edge and launch size is the one a GPU would use. Only a GPU's
memory model and speed are missing. The threads run in random order (csrc/tests/cuda_on_cpu).

QMKERNELS_SANITIZE=1 compiles them with AddressSanitizer and UndefinedBehaviorSanitizer: .ci/sanitize_cuda.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from qmkernels.backends import dispatch
from qmkernels.backends.native import core

CSRC = Path(__file__).parents[1] / "csrc"
COMPILER = shutil.which("g++")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="g++ was not found")


def _scratch(num_bytes: int, device: torch.device) -> torch.Tensor:
    return torch.full((num_bytes,), 0xFF, dtype=torch.uint8, device=device)


def _compile(arguments: list[str | Path], **options: Any) -> None:
    command = [COMPILER, "-std=c++17", "-O1", "-fPIC", "-Wno-unknown-pragmas", "-U_FORTIFY_SOURCE"]
    # At most three blocks, so that a block handles several tiles.
    command += ["-DQMK_TARGET=cuda", "-DQMK_MOST_BLOCKS=3", "-DQMK_CUDA_ON_CPU"]
    if os.environ.get("QMKERNELS_SANITIZE") == "1":
        # Without checks of the stack, whose frames threads leave by jumps, and of virtual tables, which Python loads.
        command += ["-g1", "-fsanitize=address,undefined", "--param", "asan-stack=0"]
        command += ["-fno-sanitize=vptr", "-fno-sanitize-recover=undefined"]
    command += ["-fno-extern-tls-init"]  # dynamic shared memory is declared in a kernel, and needs no constructor
    command += [f"-I{CSRC / 'tests' / 'cuda_on_cpu'}", f"-I{sysconfig.get_paths()['include']}"]
    subprocess.run([*command, *arguments], check=True, **options)


_BINDINGS = tempfile.TemporaryDirectory()


@cache
def _bindings_of_any_op() -> list[Path]:
    """Compiles what knows no op, once for all test files of a process."""
    folder = Path(_BINDINGS.name)
    sources = [path for path in (CSRC / "bindings").glob("*.cpp") if path.name != "module.cpp"]
    _compile(["-c", *sources, CSRC / "call_memory.cpp"], cwd=folder)
    return list(folder.glob("*.o"))


def _build(op: str, heads: tuple[str, ...], folder: Path) -> ModuleType:
    """Builds the Python module of one op, as the build does for all ops, with its CUDA kernels, and those for rows of
    ``heads``, ops on which it builds, compiled as C++."""
    (folder / "ops.h").write_text(
        f'#include "{CSRC}/ops/{op}.h"\n'
        "namespace qmk {\n"
        f'constexpr const char* op_names[] = {{"{op}"}};\n'
        f"constexpr auto all_kernels = {op}_kernels{{}};\n"
        "}\n"
    )
    # One file per op, because its kernels share the dynamic shared memory.
    of_op = sorted({*CSRC.glob(f"cuda/{op}.cu"), *CSRC.glob(f"cuda/{op}_*.cu")})
    for name, sources in {op: of_op, **{head: [CSRC / "cuda" / f"{head}.cu"] for head in heads}}.items():
        (folder / f"{name}.cpp").write_text(
            "".join(f'#include "{source}"\n' for source in sources)
            + "namespace qmk::cuda { namespace { CUDA_ON_CPU_DYNAMIC_SHARED } }\n"
        )
    sources = [*folder.glob("*.cpp"), CSRC / "bindings" / "module.cpp"]
    _compile(["-shared", f"-I{folder}", "-o", folder / "_core.so", *sources, *_bindings_of_any_op()])
    spec = importlib.util.spec_from_file_location("_core", folder / "_core.so")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def kernels(op: str, *heads: str) -> Callable:
    """Makes a fixture for the module, in which the native backend calls the op's CUDA kernels on CPU tensors. ``heads``
    are ops whose kernels for rows it launches.

    It fills new tensors and scratch memory with NaN, to show what a kernel leaves out or reads too early.
    """

    @pytest.fixture(scope="module", autouse=True)
    def use_kernels(tmp_path_factory) -> Iterator[None]:
        module = _build(op, heads, tmp_path_factory.mktemp("cuda_on_cpu"))
        core.connect(module, scratch=_scratch)
        filled = torch.utils.deterministic.fill_uninitialized_memory
        assert filled, "torch fills new tensors where algorithms are deterministic"
        torch.use_deterministic_algorithms(True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(core, "kernels", module.kernels)
            patch.setattr(core, "replayed", lambda function: function)
            patch.setattr(dispatch, "loads_half", lambda *_: True)
            dispatch.functions.cache_clear()
            yield
        dispatch.functions.cache_clear()
        torch.use_deterministic_algorithms(False)

    return use_kernels


def off_a_boundary(tensor: torch.Tensor) -> torch.Tensor:
    """Returns a copy that starts one item past a boundary of 16 bytes."""
    moved = torch.cat([tensor.new_zeros(1), tensor.flatten()])[1:].view(tensor.shape)
    assert moved.data_ptr() % 16 != 0
    return moved


def recorded_calls(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """Returns a list to which every later call of a kernel adds its arguments by name."""
    calls, real = [], core.kernels

    def recording(name: str) -> Callable:
        return lambda **arguments: (calls.append(arguments), getattr(real, name)(**arguments))

    names = [name for name in dir(real) if not name.startswith("_")]
    monkeypatch.setattr(core, "kernels", SimpleNamespace(**{name: recording(name) for name in names}))
    return calls


def check_half_without_a_copy(
    monkeypatch: pytest.MonkeyPatch, scalar: Callable[..., torch.Tensor], **tensors: torch.Tensor
) -> None:
    """Checks that kernels load bfloat16 tensors where they are, and that autograd returns the gradients they stored.

    ``scalar`` maps the tensors to a number by one kernel, which has arguments of their names.
    """
    calls = recorded_calls(monkeypatch)
    leaves = [tensor.bfloat16().requires_grad_() for tensor in tensors.values()]
    grads = torch.autograd.grad(scalar(*leaves), leaves)
    forward, backward = calls
    for name, leaf, grad in zip(tensors, leaves, grads, strict=True):
        assert all(call[name].data_ptr() == leaf.data_ptr() for call in calls if name in call)
        assert name in forward
        assert grad.dtype == torch.bfloat16 and grad.data_ptr() == backward[f"grad_{name}"].data_ptr()
