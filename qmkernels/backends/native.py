"""The compiled core: loads it, and is the only file that hands tensors' addresses to it."""

from __future__ import annotations

import importlib.util
import threading
import warnings
from types import ModuleType
from typing import Any

import torch  # before the core, so that both share torch's OpenMP runtime
from torch import Tensor

_KEPT_SCRATCH_BYTES = 4 << 20
_NUMBERS = frozenset({int, float, bool})
_thread = threading.local()
_core: ModuleType | None = None
_failure = ""
if importlib.util.find_spec("qmkernels._core") is None:
    _failure = (
        "the compiled core qmkernels._core is missing: install the package (pip install .) and run Python outside the "
        "checkout's root, where the folder qmkernels holds only sources"
    )
else:
    try:
        from qmkernels import _core  # type: ignore[no-redef]
    except ImportError as error:
        _failure = f"the compiled core failed to load: {error}"
        warnings.warn(f"qmkernels: {_failure}. Ops run on the slower reference backend.", stacklevel=2)


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
    if not hasattr(_core, "cuda"):
        return "the core was built without CUDA kernels (no nvcc at build time): reinstall with QMKERNELS_CUDA=ON"
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    return None


def call(function: str, device: torch.device, *arguments: Any) -> Any:
    """Calls a function of the core that only computes sizes."""
    return getattr(getattr(_core, device.type), function)(*arguments)


def scratch(num_bytes: int, device: torch.device) -> Tensor:
    """Uninitialised memory for one kernel call, used before this thread's next call.

    On a CPU a small one is kept for the thread's next call: fresh memory costs a page fault every 4 KiB,
    which can take as long as the kernel. On a GPU it is torch's to keep.
    """
    if device.type != "cpu" or num_bytes > _KEPT_SCRATCH_BYTES:
        return torch.empty(num_bytes, dtype=torch.uint8, device=device)
    kept = getattr(_thread, "scratch", None)
    if kept is None or kept.numel() < num_bytes:
        kept = _thread.scratch = torch.empty(num_bytes, dtype=torch.uint8)
    return kept


def _with_memory(function: str, tensor: Tensor, kept: list[Tensor]) -> int:
    """The address of zeros for those without memory that autograd makes of zero tangents; ``kept`` keeps them alive."""
    if not tensor._is_zerotensor():
        raise TypeError(f"{function}: tensors must have memory that can be addressed, got {type(tensor).__name__}.")
    kept.append(torch.zeros(tensor.shape, dtype=tensor.dtype, device=tensor.device))
    return kept[-1].data_ptr()


def launch(function: str, device: torch.device, *arguments: Tensor | int | float | None) -> None:
    """Runs a kernel. Tensors, contiguous and on ``device``, become addresses; None and empty tensors become 0."""
    kept: list[Tensor] = []
    addresses = [
        argument
        if type(argument) in _NUMBERS
        else 0
        if argument is None
        else argument.data_ptr() or (argument.numel() and _with_memory(function, argument, kept))
        for argument in arguments
    ]
    if device.type == "cpu":
        getattr(_core.cpu, function)(*addresses, torch.get_num_threads())
    else:
        stream = torch.cuda.current_stream(device).cuda_stream
        getattr(_core.cuda, function)(*addresses, device.index, stream)
