"""qmkernels: compiled kernels for quasimetric learning in PyTorch. ``x`` is from, ``y`` is to."""

from importlib.metadata import PackageNotFoundError, version

from . import backends, compat, nn
from .backends.table import use_backend
from .ops.iqe import iqe, iqe_pairwise

try:
    __version__ = version("qmkernels")
except PackageNotFoundError:  # the sources alone, not installed
    __version__ = "0+sources"

__all__ = ["backends", "compat", "iqe", "iqe_pairwise", "nn", "use_backend"]
