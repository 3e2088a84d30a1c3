"""The checks of every row of op_cases.py on every device: test_op_contract.py runs them on the CPU, test_cuda.py on a
GPU. Each check takes a row, the backend's name and a device."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch
from op_cases import Case
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import qmkernels as qm


def value_and_gradients(case: Case, tensors: list[Tensor], backend: str, size: int, grad=None) -> list[Tensor]:
    """Returns the result, and its gradients by the tensors that require them, for ``grad`` (default: ones)."""
    with qm.use_backend(backend):
        out = case.at(size)(*tensors)
        grad = torch.ones_like(out) if grad is None else grad.to(out.dtype)
        leaves = [tensor for tensor in tensors if tensor.requires_grad]
        return [out.detach(), *torch.autograd.grad(out, leaves, grad)]


def clones(tensors: list[Tensor], dtype: torch.dtype | None = None) -> list[Tensor]:
    """Returns new leaves with the same numbers, which require gradients where these do."""
    return [
        tensor.detach().clone().to(dtype or tensor.dtype).requires_grad_(tensor.requires_grad) for tensor in tensors
    ]


class _Calls(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        if function.namespace == "qmkernels":
            detached = [tensor.detach() if isinstance(tensor, Tensor) else tensor for tensor in arguments]
            self.calls.append((function, detached))
        return function(*arguments, **(named or {}))


def calls_of(case: Case, backend: str = "auto", device: str = "cpu", size: int = 5) -> list[tuple]:
    """Returns the registered ops that a row calls, forward and backward, and their arguments."""
    with recorded() as calls:
        value_and_gradients(case, case.tensors(size=size, device=device), backend, size)
    return calls


@contextlib.contextmanager
def recorded() -> Iterator[list[tuple]]:
    """Yields a list to which calls of registered ops within the block are added, with their arguments."""
    with _Calls() as mode:
        yield mode.calls


def check_error_is_no_worse_than_that_of_plain_torch(case, backend, device, dtype=torch.float32, *, size=5, rows=4):
    """Checks results and gradients, for upstream gradients of both signs, against the reference in float64."""
    tensors = case.tensors(dtype, size=size, rows=rows, device=device)
    plain = value_and_gradients(case, tensors, "reference", size)
    grad = torch.randn(plain[0].shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(device)
    exact = clones(tensors, torch.float64)
    truth, plain, ours = (
        value_and_gradients(case, *run, size, grad)
        for run in ((exact, "reference"), (tensors, "reference"), (tensors, backend))
    )
    for place, (actual, usual, expected) in enumerate(zip(ours, plain, truth, strict=True)):
        if actual.numel():
            # Sums in another order have as many roundings, of other numbers: a hundred units in the last place of the
            # largest. A loss may be a small difference of numbers around 1.
            scale = expected.abs().max().clamp(min=1.0 if case.kind == "loss" and place == 0 else 0.0)
            allowed = (usual - expected).abs().max() + 100 * torch.finfo(dtype).eps * scale
            assert (actual - expected).abs().max() <= allowed, (place, actual, expected)


def check_runs_repeat_bit_for_bit(case, backend, device, *, size=5, rows=4):
    tensors = case.tensors(torch.float32, size=size, rows=rows, device=device)
    first, second = (value_and_gradients(case, tensors, backend, size) for _ in "ab")
    assert all(torch.equal(before, after) for before, after in zip(first, second, strict=True))


def check_nan_stays_in_its_row(case, backend, device, *, size=5, rows=4):
    """Checks that a NaN in a row reaches the loss, or only this row's results; other rows keep their gradients."""
    clean = value_and_gradients(case, case.tensors(size=size, rows=rows, device=device), backend, size)
    for place, tensor in enumerate(case.detached(size=size, rows=rows)):
        if tensor.dim() < 2:
            continue
        tensors = case.tensors(size=size, rows=rows, device=device)
        with torch.no_grad():
            tensors[place].flatten(0, -2)[2, 1] = torch.nan
        dirty = value_and_gradients(case, tensors, backend, size)
        if case.kind == "loss":
            assert dirty[0].isnan()
        else:
            results, expected = (
                (value[0].movedim(place, 0) if case.kind == "pairs" else value[0]) for value in (dirty, clean)
            )
            assert results[2].isnan().any()
            others = torch.arange(len(results), device=device) != 2
            torch.testing.assert_close(results[others], expected[others])
        if place in case.with_gradient:
            grads = [value[1 + case.with_gradient.index(place)].flatten(0, -2) for value in (dirty, clean)]
            others = torch.arange(len(grads[0]), device=device) != 2
            torch.testing.assert_close(grads[0][others], grads[1][others])


def check_half_inputs_are_computed_in_float32(case, backend, device, dtype=torch.bfloat16, *, size=5, rows=4):
    """Checks that results, and gradients rounded to the input's dtype, equal those of the same numbers in float32."""
    tensors = case.tensors(dtype, size=size, rows=rows, device=device)
    actual = value_and_gradients(case, tensors, backend, size)
    expected = value_and_gradients(case, clones(tensors, torch.float32), backend, size)
    assert actual[0].dtype == torch.float32
    torch.testing.assert_close(actual[0], expected[0])
    for place, value, exact in zip(case.with_gradient, actual[1:], expected[1:], strict=True):
        assert value.dtype == case.dtype_of(place, dtype)
        # nearest sums the rows that it found in their dtype, with a few roundings.
        torch.testing.assert_close(value.float(), exact.float(), rtol=4 * torch.finfo(value.dtype).eps, atol=1e-5)


def check_views_give_the_numbers_of_contiguous_tensors(case, backend, device, *, size=5, rows=4):
    """Checks strided inputs, inputs at an offset in their storage, and upstream gradients of any strides."""
    dense = case.tensors(size=size, rows=rows, device=device)
    strided = [
        torch.stack([tensor, tensor + 1], dim=-1)[..., 0]
        for tensor in case.detached(size=size, rows=rows, device=device)
    ]
    offset = [torch.cat([tensor.new_zeros(1), tensor.flatten()])[1:].view(tensor.shape) for tensor in strided]
    expected = value_and_gradients(case, dense, backend, size)
    shape = expected[0].shape
    for views in (strided, offset):
        views = [view.detach().requires_grad_(tensor.requires_grad) for view, tensor in zip(views, dense, strict=True)]
        actual = value_and_gradients(case, views, backend, size)
        assert all(torch.equal(value, tensor) for value, tensor in zip(actual, expected, strict=True))
    generator = torch.Generator().manual_seed(1)
    turned = (
        torch.randn(shape[::-1], generator=generator, dtype=torch.float64)
        .to(device)
        .permute(tuple(range(len(shape)))[::-1])
    )
    sliced = torch.randn(*shape, 2, generator=generator, dtype=torch.float64).to(device)[..., 1]
    expanded = torch.full((), 0.7, dtype=torch.float64, device=device).expand(shape)
    for grad in (turned, sliced, expanded):
        actual = value_and_gradients(case, dense, backend, size, grad)
        expected = value_and_gradients(case, dense, backend, size, grad.clone(memory_format=torch.contiguous_format))
        assert all(torch.equal(value, tensor) for value, tensor in zip(actual, expected, strict=True))


def check_expanded_rows_get_summed_gradients(case, backend, device, *, size=5, rows=4):
    """Checks one row of the first tensor with rows, expanded to all rows."""
    place = next(i for i, tensor in enumerate(case.detached()) if tensor.dim() > 1 and i in case.with_gradient)
    tensors = case.detached(size=size, rows=rows, device=device)
    shape, row = tensors[place].shape, tensors[place][..., :1, :]
    results = []
    for copied in (False, True):
        leaf = row.clone().requires_grad_()
        wide = leaf.expand(shape).clone() if copied else leaf.expand(shape)
        with qm.use_backend(backend):
            out = case.at(size)(*tensors[:place], wide, *tensors[place + 1 :])
            results.append((out, *torch.autograd.grad(out.sum(), leaf)))
    torch.testing.assert_close(*results)


def check_what_forward_keeps_is_the_same_on_both_backends(case, first, second, device, *, size=5):
    """Checks that every call of a registered op, with what forward kept on one backend, gives the same on both."""
    for backend in (first, second):
        for function, (*arguments, _) in calls_of(case, backend, device, size):
            torch.testing.assert_close(function(*arguments, first), function(*arguments, second), equal_nan=True)


def check_a_backend_of_another_device_is_refused(case, backend, device):
    message = (
        f"backend '{backend}' cannot run here: the {backend} kernels take {backend} tensors, got a {device} tensor"
    )
    with qm.use_backend(backend), pytest.raises(RuntimeError, match=message):
        case.at(5)(*case.tensors(device=device))


def check_tensors_on_two_devices_are_refused(case, backend, device, other_device):
    """Moves the last tensor with as many dimensions as the first; an op of one tensor has nothing to refuse."""
    tensors = case.detached(device=device)
    dims = [tensor.dim() for tensor in tensors]
    place = len(dims) - 1 - dims[::-1].index(max(dims))
    tensors[place] = tensors[place].to(other_device)
    if len(tensors) > 1:
        with qm.use_backend(backend), pytest.raises(RuntimeError, match="device"):
            case.at(5)(*tensors)
