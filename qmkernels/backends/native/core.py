"""The compiled core: loads it, and says what it needs of torch.

``kernels.<function>(...)`` runs a kernel on the device of its tensors: arguments are given by name, as csrc/ops/<op>.h
declares them. Tensors are contiguous; the core reads their addresses itself, and checks their dtypes.
"""

from __future__ import annotations

import importlib.util
import re
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


def _prototype(tensor: Tensor) -> Tensor:
    """One item, of which ``torch.empty_like`` makes a contiguous tensor of this one's shape."""
    return tensor.new_empty(()).expand(tensor.shape)


def connect(core: ModuleType, scratch: Callable[[int, torch.device], Tensor] = _scratch) -> None:
    """Tells a core torch's dtypes, and whom to ask for the number of threads, a device's stream and memory."""
    dtypes = (torch.float32, torch.float64, torch.uint8, torch.int32, torch.int64)
    exchange = getattr(Tensor, "__dlpack_c_exchange_api__", None)
    replaying = exchange, Tensor, torch.nn.Parameter, _prototype, torch.empty_like
    core.connect(dtypes, torch.get_num_threads, _stream, scratch, _materialised, replaying)


if _core is not None:
    connect(_core)


def _cannot_say(*values: object) -> bool:
    return False


# (x, y) or (x, y, size) of any objects: True for dense tensors x and y of one dtype, float32 or float64, on one device,
# with the same last size, at least 1, or ``size``; False for others, and where this core cannot say.
are_embeddings = _cannot_say if _core is None else _core.are_embeddings
# (x, ...) of any objects: the same, of one shape (..., B, D) with at least one value.
are_batches = _cannot_say if _core is None else _core.are_batches


def replayable(function: Callable) -> Callable:
    """Marks a function of a backend whose launch may be recorded and then repeated without Python
    (csrc/bindings/replay.h): all it does is to allocate its results, uninitialised, and to launch one kernel, as the
    shapes, dtypes, device and settings of its arguments say. Where it launches nothing it is called each time."""
    function.is_replayable = True
    return function


def replayed(function: Callable) -> Callable:
    """What runs in place of ``function``: one that records and repeats it, where it is `replayable`."""
    if _core is None or not getattr(function, "is_replayable", False):
        return function
    return _core.replayed(function)


def build_info() -> dict[str, Any] | None:
    """What the core was built with: version, compiler, isas, openmp, cuda_architectures; None without a core."""
    return None if _core is None else _core.build_info()


def isa_in_use() -> str | None:
    """The instruction set of the CPU kernels in this process (QMKERNELS_ISA narrows it), but for small calls, which use
    at most avx2 where none is named; None without a core."""
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
        return "the core was built without CUDA kernels, nvcc or a GPU was missing: reinstall with QMKERNELS_CUDA=ON"
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    built_for = _core.build_info()["cuda_architectures"]
    capabilities = [torch.cuda.get_device_capability(device) for device in range(torch.cuda.device_count())]
    if not any(_includes(built_for, capability) for capability in capabilities):
        gpus = ", ".join(f"sm_{major}{minor}" for major, minor in capabilities)
        return f"the core was built for the GPU architectures {built_for}, not for {gpus}: reinstall on this machine"
    return None


def _includes(architectures: str, capability: tuple[int, int]) -> bool:
    """Whether a GPU of this capability runs code for one of these architectures. In CMake's notation 80-real is machine
    code, for GPUs of the same major number, 80-virtual is PTX, for all newer GPUs, and 80 is both."""
    for number, kind in re.findall(r"(\d+)(?:-(real|virtual))?", architectures):
        major, minor = divmod(int(number), 10)
        if kind != "virtual" and capability[0] == major and capability[1] >= minor:
            return True
        if kind != "real" and capability >= (major, minor):
            return True
    return False
