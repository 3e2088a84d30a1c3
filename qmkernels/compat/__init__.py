"""Existing code, unchanged, on these kernels."""

from .torchqmet import install_torchqmet

__all__ = ["install_torchqmet"]
