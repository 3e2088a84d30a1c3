"""Backends: the same functions of an op on different hardware; `table` chooses, `native` reaches the compiled core."""

from . import native, table

__all__ = ["native", "table"]
