"""Quasimetric heads as modules, with torchqmet's constructor arguments, attributes, ``state_dict`` keys and repr."""

from . import reductions, transforms
from .iqe import IQE
from .mrn import MRN, LatentMRN, MRNFixed
from .neural_norms import DeepNorm, WideNorm
from .pqe import PQE, PQEGG, PQELH
from .quasimetric_base import QuasimetricBase
from .simple import Simple

__all__ = [
    "DeepNorm",
    "IQE",
    "LatentMRN",
    "MRN",
    "MRNFixed",
    "PQE",
    "PQEGG",
    "PQELH",
    "QuasimetricBase",
    "Simple",
    "WideNorm",
    "reductions",
    "transforms",
]
