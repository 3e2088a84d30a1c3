"""Compiled kernels for quasimetric learning in PyTorch. Distances go from ``x`` to ``y``."""

from importlib.metadata import PackageNotFoundError, version

from . import agents, backends, compat, data, distributed, losses, nn
from .backends.dispatch import use_backend
from .ops.fsq import fsq, fsq_codes
from .ops.iqe import iqe, iqe_pairwise
from .ops.mrn import euclidean_pairwise, mrn, mrn_pairwise
from .ops.nearest import nearest
from .ops.poisson import log_poisson_le, poisson_gt, poisson_le
from .ops.pqe import pqe, pqe_pairwise
from .ops.shortest_paths import shortest_paths
from .ops.through import through

try:
    __version__ = version("qmkernels")
except PackageNotFoundError:  # the sources, without an installation
    __version__ = "0+sources"

__all__ = [
    "agents",
    "backends",
    "compat",
    "data",
    "distributed",
    "euclidean_pairwise",
    "fsq",
    "fsq_codes",
    "iqe",
    "iqe_pairwise",
    "log_poisson_le",
    "losses",
    "mrn",
    "mrn_pairwise",
    "nearest",
    "nn",
    "poisson_gt",
    "poisson_le",
    "pqe",
    "pqe_pairwise",
    "shortest_paths",
    "through",
    "use_backend",
]
