"""The compiled core: loads it, and says what it needs of torch.

``kernels.<function>(...)`` runs a kernel on the device of its tensors: arguments are given by name, as csrc/ops/<op>.h
declares them. Tensors are contiguous; the core reads their addresses itself, and checks their dtypes.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch  # before the core, so that both share torch's OpenMP runtime
from torch import Tensor

_core: ModuleType | None = None
_failure = ""
try:
    from qmkernels import _core  # type: ignore[no-redef]
except ImportError as error:
    if importlib.util.find_spec("qmkernels._core") is None:
        _failure = (
            "the compiled core qmkernels._core is missing: install the package (pip install .) and run Python outside "
            "the checkout's root, where the folder qmkernels holds only sources"
        )
    else:
        _failure = f"the compiled core failed to load: {error}"
    warnings.warn(f"qmkernels: {_failure}. Ops run on the slower reference backend.", stacklevel=2)

kernels: Any = None if _core is None else _core.kernels


def _stream(device: torch.device) -> int:
    return torch.cuda.current_stream(device).cuda_stream


def _scratch(num_bytes: int, device: torch.device) -> Tensor:
    return torch.empty(num_bytes, dtype=torch.uint8, device=device)


def _materialised(tensor: Tensor) -> Tensor:
    """Zeros with memory for the zeros without that autograd makes for zero tangents; TypeError for other tensors."""
    if not tensor._is_zerotensor():
        raise TypeError(f"tensors must have memory that can be addressed, got {type(tensor).__name__}.")
    return torch.zeros(tensor.shape, dtype=tensor.dtype, device=tensor.device)


def connect(core: ModuleType, scratch: Callable[[int, torch.device], Tensor] = _scratch) -> None:
    """Tells a core torch's dtypes, and whom to ask for the number of threads, a device's stream and memory."""
    dtypes = (torch.float32, torch.float64, torch.uint8, torch.int32, torch.int64)
    core.connect(dtypes, torch.get_num_threads, _stream, scratch, _materialised)


if _core is not None:
    connect(_core)


def build_info() -> dict[str, Any] | None:
    """What the core was built with: version, compiler, isas, openmp, cuda_architectures; None without a core."""
    return None if _core is None else _core.build_info()


def isa_in_use() -> str | None:
    """The instruction set of the CPU kernels in this process (QMKERNELS_ISA narrows it); None without a core."""
    return None if _core is None else _core.isa_in_use()


def why_not(device_type: str) -> str | None:
    """None where the core has kernels for "cpu" or "cuda" that can run here, else a sentence."""
    if _core is None:
        return _failure
    if device_type == "cpu":
        try:
            _core.isa_in_use()
        except ValueError as error:
            return str(error).rstrip(".")
        return None
    if not _core.has_cuda:
        return "the core was built without CUDA kernels (no nvcc at build time): reinstall with QMKERNELS_CUDA=ON"
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    return None
