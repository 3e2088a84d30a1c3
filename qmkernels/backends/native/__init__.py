"""The compiled core, CPU and CUDA: `core` loads it, the other modules call it, one per op."""

from . import core

__all__ = ["core"]
