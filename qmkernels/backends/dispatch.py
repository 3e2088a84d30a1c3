"""The one place where a backend is chosen.

A backend is a module with an op's functions, ``<op>_forward`` and so on. All take and return the same, which
``backends/reference/<op>.py`` documents. `why_not` explains in one sentence why a backend cannot run an op on a device.
The sentence appears in the error if the backend was requested, in a DEBUG log line if the choice is automatic, and in
``qmkernels info``.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import os
import pkgutil
import warnings
from collections.abc import Callable, Iterator
from functools import cache, wraps
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from . import reference
from .native import core

OPS = tuple(sorted(module.name for module in pkgutil.iter_modules(reference.__path__)))
BACKENDS = ("cuda", "triton", "cpu", "reference")
_AUTO_ORDER = {"cuda": ("cuda", "triton", "reference"), "cpu": ("cpu", "reference")}
_MODULES = {"cuda": "native", "cpu": "native", "triton": "triton", "reference": "reference"}

_log = logging.getLogger("qmkernels")
_backend_in_use = "auto"


def check_name(backend: str, source: str = "backend") -> str:
    """Returns ``backend``; raises ValueError, which begins with its ``source``, unless it is a valid name."""
    if backend != "auto" and backend not in BACKENDS:
        raise ValueError(f"{source} must be 'auto' or one of {', '.join(BACKENDS)}, got {backend!r}.")
    return backend


def requested(backend: str | None) -> str:
    """Returns the backend from the ``backend=`` argument, else `use_backend`, else QMKERNELS_BACKEND, else "auto"."""
    return _backend_in_use if backend is None else check_name(backend)


@contextlib.contextmanager
def use_backend(backend: str) -> Iterator[None]:
    """Runs every op in the block on ``backend``: "auto", "cuda", "triton", "cpu" or "reference".

    It applies to the whole process, threads included. An op's backward pass runs on the backend of its forward pass.
    Raises ValueError for an unknown name; an op raises RuntimeError if the backend cannot run its tensors.
    """
    global _backend_in_use
    previous, _backend_in_use = _backend_in_use, check_name(backend)
    try:
        yield
    finally:
        _backend_in_use = previous


@cache
def why_not(backend: str, op: str, device_type: str) -> str | None:
    """Returns None if ``backend`` runs ``op`` on tensors of ``device_type``, otherwise a sentence that says why not."""
    if op not in OPS:
        return f"there is no op named {op!r}"
    if backend == "reference":
        return None
    if backend == "triton":
        if importlib.util.find_spec("triton") is None:
            return "the package triton is not installed: pip install qmkernels[triton]"
        interpreted = os.environ.get("TRITON_INTERPRET") == "1"
        if device_type == "cuda" or (device_type == "cpu" and interpreted):
            return None
        if device_type == "cpu":
            return "triton runs CPU tensors only under its interpreter (TRITON_INTERPRET=1)"
        return f"triton kernels are written for CUDA tensors, got a {device_type} tensor"
    if device_type != backend:
        return f"the {backend} kernels take {backend} tensors, got a {device_type} tensor"
    return core.why_not(backend)


class Backend(NamedTuple):
    """A backend's name, one of `BACKENDS`, and its module for an op."""

    name: str
    module: ModuleType


@cache
def _load(name: str, op: str) -> Backend:
    return Backend(name, importlib.import_module(f"{__package__}.{_MODULES[name]}.{op}"))


@cache
def _warn_once(sentence: str) -> None:
    warnings.warn(sentence, stacklevel=2)


@cache
def resolve(op: str, device_type: str, backend: str = "auto") -> Backend:
    """Returns the backend that runs ``op`` on tensors of ``device_type``.

    Raises RuntimeError if a requested backend cannot, with `why_not`'s sentence and the names of those that can. Warns
    once if the core has CUDA kernels, but none for this GPU.
    """
    if backend != "auto":
        reason = why_not(backend, op, device_type)
        if reason is not None:
            able = [name for name in BACKENDS if why_not(name, op, device_type) is None]
            raise RuntimeError(f"{op}: backend {backend!r} cannot run here: {reason}. Choose from: {', '.join(able)}.")
        return _load(backend, op)
    for name in _AUTO_ORDER.get(device_type, ("reference",)):
        reason = why_not(name, op, device_type)
        if reason is None:
            return _load(name, op)
        _log.debug("%s: backend %r passed over: %s", op, name, reason)
        if name == "cuda" and core.has_cuda() and torch.cuda.is_available():
            _warn_once(f"qmkernels: {reason}. Until then CUDA tensors take a slower backend.")
    raise AssertionError("unreachable: the reference runs everywhere")


def loads_half(op: str, device_type: str, backend: str) -> bool:
    """Returns whether the kernels that run ``op`` on tensors of ``device_type`` load half precision; others get
    float32. Raises as `resolve` does."""
    return resolve(op, device_type, backend).name in ("cuda", "triton")


# torch.compile takes the answer as a constant, as it does that of in_compiled_derivative in ops/torch_internals.py.
loads_half._dynamo_marked_constant = True


@cache
def functions(op: str, names: tuple[str, ...], device: torch.device, backend: str) -> tuple[Callable, ...]:
    """Returns the named functions of ``op``, from the backend that runs it on ``device``, for tensors of any strides;
    raises as `resolve` does."""
    module = resolve(op, device.type, backend).module
    return tuple(core.replayed(_of_any_strides(getattr(module, name))) for name in names)


def _of_any_strides(function: Callable) -> Callable:
    """Wraps a backend's function, which needs contiguous tensors, for tensors of any strides. Recorded launches are
    repeated only for contiguous tensors, so repeating them skips this check."""

    @wraps(function)
    def run(*arguments):
        return function(*(value.contiguous() if isinstance(value, Tensor) else value for value in arguments))

    return run


_backend_in_use = check_name(os.environ.get("QMKERNELS_BACKEND", "auto"), "QMKERNELS_BACKEND")
