"""What the tests of Triton kernels share: they run on a GPU where there is one, else under Triton's interpreter.

Triton reads TRITON_INTERPRET where a function is decorated, its own library's included. So the variable is set around
the first import; where triton was imported before without it, a file's tests run once more in a process of their own.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest
import torch

if importlib.util.find_spec("triton") is None:
    pytest.skip("the package triton is not installed", allow_module_level=True)

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"
DTYPES = (torch.float32, torch.float64)
# float32: sums over components, and over the other side, in another order than the reference's.
TOLERANCE = {torch.float32: {"rtol": 3e-6, "atol": 1e-5}, torch.float64: {"rtol": 1e-12, "atol": 1e-12}}
TARGETS = ("cuda:80:32", "cuda:90:32", "hip:gfx942:64")


@contextmanager
def _interpreting() -> Iterator[None]:
    """Sets the variable, and puts the environment back for other files' tests."""
    before = os.environ.get("TRITON_INTERPRET")
    os.environ["TRITON_INTERPRET"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TRITON_INTERPRET"]
        else:
            os.environ["TRITON_INTERPRET"] = before


def import_kernels(name: str, kernel: str) -> tuple[ModuleType, bool]:
    """``qmkernels.backends.triton.<name>``, and whether its functions, such as ``kernel``, run in this process."""
    if ON_GPU:
        return importlib.import_module(f"qmkernels.backends.triton.{name}"), True
    with _interpreting():
        import triton.language
        from triton.runtime.interpreter import InterpretedFunction

        module = importlib.import_module(f"qmkernels.backends.triton.{name}")
    needed = (triton.language.standard.cdiv, getattr(module, kernel))
    return module, all(isinstance(function, InterpretedFunction) for function in needed)


@pytest.fixture(autouse=True)
def interpreter(monkeypatch):
    """Parts of triton are imported at the first launch and must find the variable too; so must the choice of backends.

    Import it into a test file, whose every test then has it.
    """
    from qmkernels.backends import dispatch

    if not ON_GPU:
        monkeypatch.setenv("TRITON_INTERPRET", "1")
    for function in (dispatch.why_not, dispatch.resolve):
        function.cache_clear()
    yield
    for function in (dispatch.why_not, dispatch.resolve):
        function.cache_clear()


def only_where(runs_here: bool) -> pytest.MarkDecorator:
    """Skips a test of kernels that do not run in this process."""
    return pytest.mark.skipif(
        not runs_here,
        reason="triton was imported before without its interpreter; the file runs in a process of its own",
    )


def run_in_own_process(file: str) -> None:
    """Every test of the file that needs it, in a process whose triton is interpreted."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "pytest", "-q", "--import-mode=importlib", "-k", "not ahead_of_time", file]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def compiled_ahead_of_time(op: str, target: str, dtype: str, cache: Path) -> int:
    """How many kernels compile_triton.py compiled; it needs no GPU, and a triton that is not interpreted."""
    environment = {**os.environ, "TRITON_CACHE_DIR": str(cache), "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, str(Path(__file__).parent / "compile_triton.py"), op, target, dtype]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout.count("compiled")


def points(*rows: int, size: int, dtype: torch.dtype, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """x and y (*rows, size)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*rows, size, generator=generator, dtype=torch.float64)
    y = torch.randn(*rows, size, generator=generator, dtype=torch.float64) + 0.5
    return x.to(DEVICE, dtype), y.to(DEVICE, dtype)


def pair_points(num_x: int, num_y: int, size: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """x (2, num_x, size) and y (2, num_y, size)."""
    x, y = points(2, max(num_x, num_y), size=size, dtype=dtype)
    return x[:, :num_x].contiguous(), y[:, :num_y].contiguous()


def assert_alike(got: tuple[torch.Tensor, ...], wanted: tuple[torch.Tensor, ...]) -> None:
    """Of the same shapes and dtypes; equal, floats within TOLERANCE."""
    for one, other in zip(got, wanted, strict=True):
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        if one.is_floating_point():
            torch.testing.assert_close(one, other, equal_nan=True, **TOLERANCE[one.dtype])
        else:
            assert torch.equal(one, other)
