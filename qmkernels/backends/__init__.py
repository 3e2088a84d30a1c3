"""Backends: the same functions of an op on different hardware; `dispatch` chooses."""

from . import dispatch, native

__all__ = ["dispatch", "native"]
