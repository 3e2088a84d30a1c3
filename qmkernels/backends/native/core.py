"""Connects the compiled core to torch.

``kernels.<function>(...)`` runs a kernel on the device of its tensors, with the named arguments that csrc/ops/<op>.h
declares. Tensors are contiguous; the core reads their addresses itself and checks their dtypes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch  # before the core, so that both share torch's OpenMP runtime
from torch import Tensor

from ... import compiled

_core = compiled.core
kernels: Any = None if _core is None else _core.kernels


def _stream(device: torch.device) -> int:
    return torch.cuda.current_stream(device).cuda_stream


def _scratch(num_bytes: int, device: torch.device) -> Tensor:
    return torch.empty(num_bytes, dtype=torch.uint8, device=device)


def _materialised(tensor: Tensor) -> Tensor:
    """Returns zeros with memory for the memoryless zeros that autograd makes for zero tangents; TypeError otherwise."""
    if not tensor._is_zerotensor():
        raise TypeError(f"tensors must have memory that can be addressed, got {type(tensor).__name__}.")
    return torch.zeros(tensor.shape, dtype=tensor.dtype, device=tensor.device)


def _prototype(tensor: Tensor) -> Tensor:
    """Returns a tensor of one item and this shape, from which ``torch.empty_like`` makes contiguous tensors."""
    return tensor.new_empty(()).expand(tensor.shape)


def connect(core: ModuleType, scratch: Callable[[int, torch.device], Tensor] = _scratch) -> None:
    """Gives a core torch's dtypes, and functions for the number of threads, a device's stream and scratch memory."""
    dtypes = (torch.float32, torch.float64, torch.uint8, torch.int32, torch.int64, torch.bfloat16, torch.float16)
    exchange = getattr(Tensor, "__dlpack_c_exchange_api__", None)
    replaying = exchange, Tensor, torch.nn.Parameter, _prototype, torch.empty_like
    core.connect(dtypes, torch.get_num_threads, _stream, scratch, _materialised, replaying)


if _core is not None:
    connect(_core)


def _cannot_say(*values: object) -> bool:
    return False


# Takes any objects (x, y) or (x, y, size). True for dense tensors x and y of the same float dtype and device, with the
# same last size, at least 1, or ``size``; False for others, and if this core cannot tell.
are_embeddings = _cannot_say if _core is None else _core.are_embeddings
# Takes any objects (x, ...). The same, for tensors of one shape (..., B, D) with at least one value.
are_batches = _cannot_say if _core is None else _core.are_batches


def replayable(function: Callable) -> Callable:
    """Marks a backend's function whose launch may be recorded and then repeated without Python
    (csrc/bindings/replay.h).

    It must only allocate its results, uninitialised, and launch one kernel, both determined by the shapes, dtypes,
    device and settings of its arguments. A call that launches nothing is not recorded.
    """
    function.is_replayable = True
    return function


def replayed(function: Callable) -> Callable:
    """Returns ``function``, or if it is `replayable` a function that records and repeats it."""
    if _core is None or not getattr(function, "is_replayable", False):
        return function
    return _core.replayed(function)


def build_info() -> dict[str, Any] | None:
    """Returns how the core was built: version, compiler, isas, openmp, cuda_architectures; None without a core."""
    return None if _core is None else _core.build_info()


def isa_in_use() -> str | None:
    """Returns the instruction set of this process's CPU kernels, which QMKERNELS_ISA can restrict; None without a core.
    Unless it is restricted, small calls use at most avx2."""
    return None if _core is None else _core.isa_in_use()


def has_cuda() -> bool:
    """Returns whether the core was built with CUDA kernels, for whatever GPUs."""
    return _core is not None and _core.has_cuda


def why_not(device_type: str) -> str | None:
    """Returns None if the core has kernels for "cpu" or "cuda" that can run here, else a sentence that says why not."""
    if _core is None:
        return compiled.failure
    if device_type == "cpu":
        try:
            _core.isa_in_use()
        except ValueError as error:
            return str(error).rstrip(".")
        return None
    if not _core.has_cuda:
        return "the core was built without CUDA kernels (nvcc or a GPU was missing): reinstall with QMKERNELS_CUDA=ON"
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    built_for = _core.build_info()["cuda_architectures"]
    capabilities = [torch.cuda.get_device_capability(device) for device in range(torch.cuda.device_count())]
    if not any(_includes(built_for, capability) for capability in capabilities):
        gpus = ", ".join(f"sm_{major}{minor}" for major, minor in capabilities)
        return f"the core was built for the GPU architectures {built_for}, not for {gpus}: reinstall on this machine"
    return None


def _includes(architectures: str, capability: tuple[int, int]) -> bool:
    """Returns whether a GPU of this capability runs code built for one of these architectures. In CMake's notation
    80-real is machine code, for GPUs of the same major number; 80-virtual is PTX, for all newer GPUs; 80 is both."""
    for number, kind in re.findall(r"(\d+)(?:-(real|virtual))?", architectures):
        major, minor = divmod(int(number), 10)
        if kind != "virtual" and capability[0] == major and capability[1] >= minor:
            return True
        if kind != "real" and capability >= (major, minor):
            return True
    return False
