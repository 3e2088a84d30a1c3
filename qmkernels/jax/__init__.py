"""The distances and losses of qmkernels for JAX arrays, by the same compiled kernels; imports no torch."""

from . import losses
from .mrn import euclidean_pairwise, mrn, mrn_pairwise

__all__ = ["euclidean_pairwise", "losses", "mrn", "mrn_pairwise"]
