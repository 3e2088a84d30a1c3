"""Runs existing code, unchanged, on these kernels."""

from .accelerate import accelerate
from .torchqmet import install_torchqmet

__all__ = ["accelerate", "install_torchqmet"]
