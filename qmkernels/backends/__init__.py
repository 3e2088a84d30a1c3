"""Backends: the same functions for every op, on different hardware; `dispatch` chooses one."""

from . import dispatch, native

__all__ = ["dispatch", "native"]
