"""Backends: the same functions for every op, on different hardware; `dispatch` chooses one."""

import torch as torch  # first: as soon as it is there, ops are registered (torch_ops.py), which imports this package

from . import dispatch, native

__all__ = ["dispatch", "native"]
