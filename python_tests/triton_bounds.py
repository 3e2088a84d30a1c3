"""Checks every address that interpreted Triton kernels read or write: it lies in one of the launch's tensors.

A compiled kernel would read another tensor's memory there, and so does the interpreter, mostly unnoticed.
"""

from __future__ import annotations

import numpy as np
import pytest
from triton.runtime.interpreter import GridExecutor, InterpreterBuilder, TensorHandle


def check_addresses(patch: pytest.MonkeyPatch) -> None:
    """Makes launches raise IndexError, until ``patch`` ends, where an address that no mask excludes is outside."""
    ranges = []  # of the launch's tensors, in bytes
    arguments_of, load, store = (
        GridExecutor._init_args_hst, InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store,
    )  # fmt: skip

    def recorded(self, *arguments):
        positional, named = arguments_of(self, *arguments)
        tensors = [value for value in (*positional, *named.values()) if hasattr(value, "data_ptr")]
        ranges[:] = {(start := tensor.data_ptr(), start + tensor.nbytes) for tensor in tensors}
        return positional, named

    def check(pointers: TensorHandle, mask: TensorHandle) -> None:
        first = pointers.data[np.broadcast_to(mask.data, pointers.data.shape).astype(bool)].astype(np.uint64)
        last = first + np.uint64(pointers.get_element_ty().primitive_bitwidth // 8)
        inside = np.zeros(first.shape, dtype=bool)
        for start, end in ranges:
            inside |= (start <= first) & (last <= end)
        if not inside.all():
            raise IndexError(f"{np.count_nonzero(~inside)} of {inside.size} addresses are outside of all tensors")

    def checked_load(self, pointers, mask, *rest):
        check(pointers, mask)
        return load(self, pointers, mask, *rest)

    def checked_store(self, pointers, value, mask, *rest):
        check(pointers, mask)
        return store(self, pointers, value, mask, *rest)

    patch.setattr(GridExecutor, "_init_args_hst", recorded)
    patch.setattr(InterpreterBuilder, "create_masked_load", checked_load)
    patch.setattr(InterpreterBuilder, "create_masked_store", checked_store)
