"""The distances and losses of qmkernels for JAX arrays, by the same compiled kernels; imports no torch."""

from . import losses
from .fsq import fsq
from .iqe import iqe, iqe_pairwise
from .mrn import euclidean_pairwise, mrn, mrn_pairwise
from .nearest import nearest
from .pqe import pqe, pqe_pairwise

__all__ = [
    "euclidean_pairwise",
    "fsq",
    "iqe",
    "iqe_pairwise",
    "losses",
    "mrn",
    "mrn_pairwise",
    "nearest",
    "pqe",
    "pqe_pairwise",
]
