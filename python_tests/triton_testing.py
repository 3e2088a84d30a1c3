"""Shared by the tests of Triton kernels, which run on a GPU if there is one, else under Triton's interpreter.

Triton reads TRITON_INTERPRET when a function is decorated, even in its own library. So the variable is set around the
first import. If triton was imported before without it, the tests run again in their own process (test_triton.py).
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from functools import partial
from types import ModuleType

import backend_comparison
import pytest
import torch

if importlib.util.find_spec("triton") is None:
    pytest.skip("the package triton is not installed", allow_module_level=True)

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"
points = partial(backend_comparison.points, device=DEVICE)
pair_points = partial(backend_comparison.pair_points, device=DEVICE)


def import_kernels(name: str) -> ModuleType:
    """Imports ``qmkernels.backends.triton.<name>``, with its functions interpreted if there is no GPU."""
    with pytest.MonkeyPatch.context() as patch:
        if not ON_GPU:
            patch.setenv("TRITON_INTERPRET", "1")
        return importlib.import_module(f"qmkernels.backends.triton.{name}")


def _runs_here() -> bool:
    if ON_GPU:
        return True
    import_kernels("iqe")
    from triton.language import standard
    from triton.runtime.interpreter import InterpretedFunction

    return isinstance(standard.cdiv, InterpretedFunction)


RUNS_HERE = _runs_here()
# The marks of a file whose tests launch kernels.
interpreted = [
    pytest.mark.skipif(
        not RUNS_HERE,
        reason="triton was imported before without its interpreter; test_triton.py starts a process for the file",
    ),
    pytest.mark.usefixtures("triton_interpreter"),
]


def environment(interpret: bool) -> dict[str, str]:
    """Returns the environment of a separate process that imports these files."""
    variables = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return variables | {"PYTHONPATH": os.pathsep.join(sys.path)} | ({"TRITON_INTERPRET": "1"} if interpret else {})


def assert_rounded(actual: tuple[torch.Tensor, ...], exact: tuple[torch.Tensor, ...], dtype: torch.dtype) -> None:
    """Asserts float32 numbers rounded to half precision, by the interpreter to bfloat16 towards zero."""
    rounding = 0.0 if ON_GPU or dtype is torch.float16 else torch.finfo(dtype).eps
    for ours, number in zip(actual, exact, strict=True):
        torch.testing.assert_close(ours, number.to(dtype), rtol=rounding, atol=0, equal_nan=True)
