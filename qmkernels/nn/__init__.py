"""Quasimetric heads as modules, with torchqmet's constructor arguments, attributes, ``state_dict`` keys and repr."""

from . import reductions, transforms
from .iqe import IQE
from .quasimetric_base import QuasimetricBase

__all__ = ["IQE", "QuasimetricBase", "reductions", "transforms"]
