"""What every row of op_cases.py is checked for on every device: here on the CPU by test_op_contract.py, on a GPU by
test_cuda.py. Each check takes a row, the backend's name and a device."""

from __future__ import annotations

import pytest
import torch
from op_cases import Case
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import qmkernels as qm


def value_and_gradients(case: Case, tensors: list[Tensor], backend: str, size: int, grad=None) -> list[Tensor]:
    """The result, and its gradients by the tensors that require one, of ones or of ``grad``."""
    with qm.use_backend(backend):
        out = case.at(size)(*tensors)
        grad = torch.ones_like(out) if grad is None else grad.to(out.dtype)
        leaves = [one for one in tensors if one.requires_grad]
        return [out.detach(), *torch.autograd.grad(out, leaves, grad)]


def clones(tensors: list[Tensor], dtype: torch.dtype | None = None) -> list[Tensor]:
    """New leaves of the same numbers, which require gradients where these do."""
    return [one.detach().clone().to(dtype or one.dtype).requires_grad_(one.requires_grad) for one in tensors]


class _Calls(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        if function.namespace == "qmkernels":
            detached = [one.detach() if isinstance(one, Tensor) else one for one in arguments]
            self.found.append((function, detached))
        return function(*arguments, **(named or {}))


def calls_of(case: Case, backend: str = "auto", device: str = "cpu", size: int = 5) -> list[tuple]:
    """The registered ops that a row calls, forward and backward, and with what."""
    with _Calls() as calls:
        value_and_gradients(case, case.tensors(size=size, device=device), backend, size)
    return calls.found


def check_error_is_no_worse_than_that_of_plain_torch(case, backend, device, dtype=torch.float32, *, size=5, rows=4):
    """Results and gradients, by an upstream gradient of either sign: the truth is the reference's in float64."""
    tensors = case.tensors(dtype, size=size, rows=rows, device=device)
    plain = value_and_gradients(case, tensors, "reference", size)
    grad = torch.randn(plain[0].shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(device)
    exact = clones(tensors, torch.float64)
    truth, plain, found = (
        value_and_gradients(case, *run, size, grad)
        for run in ((exact, "reference"), (tensors, "reference"), (tensors, backend))
    )
    for place, (got, usual, wanted) in enumerate(zip(found, plain, truth, strict=True)):
        if got.numel():
            # Sums in another order: as many roundings, of other numbers. A hundred of the last place of the largest;
            # a loss may be a small difference of numbers around 1.
            scale = wanted.abs().max().clamp(min=1.0 if case.kind == "loss" and place == 0 else 0.0)
            allowed = (usual - wanted).abs().max() + 100 * torch.finfo(dtype).eps * scale
            assert (got - wanted).abs().max() <= allowed, (place, got, wanted)


def check_runs_repeat_bit_for_bit(case, backend, device, *, size=5, rows=4):
    tensors = case.tensors(torch.float32, size=size, rows=rows, device=device)
    first, second = (value_and_gradients(case, tensors, backend, size) for _ in "ab")
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def check_nan_stays_in_its_row(case, backend, device, *, size=5, rows=4):
    """A NaN in a row of a tensor: in the loss, or in the results of this row alone; other rows keep their gradients."""
    clean = value_and_gradients(case, case.tensors(size=size, rows=rows, device=device), backend, size)
    for place, one in enumerate(case.detached(size=size, rows=rows)):
        if one.dim() < 2:
            continue
        tensors = case.tensors(size=size, rows=rows, device=device)
        with torch.no_grad():
            tensors[place].flatten(0, -2)[2, 1] = torch.nan
        found = value_and_gradients(case, tensors, backend, size)
        if case.kind == "loss":
            assert found[0].isnan()
        else:
            results, wanted = (
                (value[0].movedim(place, 0) if case.kind == "pairs" else value[0]) for value in (found, clean)
            )
            assert results[2].isnan().any()
            others = torch.arange(len(results), device=device) != 2
            torch.testing.assert_close(results[others], wanted[others])
        if place in case.with_gradient:
            grads = [value[1 + case.with_gradient.index(place)].flatten(0, -2) for value in (found, clean)]
            others = torch.arange(len(grads[0]), device=device) != 2
            torch.testing.assert_close(grads[0][others], grads[1][others])


def check_half_inputs_are_computed_in_float32(case, backend, device, dtype=torch.bfloat16, *, size=5, rows=4):
    """Results are those of the same numbers in float32; so are gradients, rounded to the input's dtype."""
    tensors = case.tensors(dtype, size=size, rows=rows, device=device)
    found = value_and_gradients(case, tensors, backend, size)
    wanted = value_and_gradients(case, clones(tensors, torch.float32), backend, size)
    assert found[0].dtype == torch.float32
    torch.testing.assert_close(found[0], wanted[0])
    for place, got, exact in zip(case.with_gradient, found[1:], wanted[1:], strict=True):
        assert got.dtype == case.dtype_of(place, dtype)
        # nearest adds up the rows it found in their dtype; a few roundings.
        torch.testing.assert_close(got.float(), exact.float(), rtol=4 * torch.finfo(got.dtype).eps, atol=1e-5)


def check_views_give_the_numbers_of_contiguous_tensors(case, backend, device, *, size=5, rows=4):
    """Inputs with strides or behind another storage's beginning, and upstream gradients of any strides."""
    dense = case.tensors(size=size, rows=rows, device=device)
    strided = [
        torch.stack([one, one + 1], dim=-1)[..., 0] for one in case.detached(size=size, rows=rows, device=device)
    ]
    offset = [torch.cat([one.new_zeros(1), one.flatten()])[1:].view(one.shape) for one in strided]
    wanted = value_and_gradients(case, dense, backend, size)
    shape = wanted[0].shape
    for views in (strided, offset):
        views = [view.detach().requires_grad_(one.requires_grad) for view, one in zip(views, dense, strict=True)]
        found = value_and_gradients(case, views, backend, size)
        assert all(torch.equal(got, one) for got, one in zip(found, wanted, strict=True))
    generator = torch.Generator().manual_seed(1)
    turned = (
        torch.randn(shape[::-1], generator=generator, dtype=torch.float64)
        .to(device)
        .permute(tuple(range(len(shape)))[::-1])
    )
    sliced = torch.randn(*shape, 2, generator=generator, dtype=torch.float64).to(device)[..., 1]
    expanded = torch.full((), 0.7, dtype=torch.float64, device=device).expand(shape)
    for grad in (turned, sliced, expanded):
        found = value_and_gradients(case, dense, backend, size, grad)
        wanted = value_and_gradients(case, dense, backend, size, grad.clone(memory_format=torch.contiguous_format))
        assert all(torch.equal(got, one) for got, one in zip(found, wanted, strict=True))


def check_expanded_rows_get_summed_gradients(case, backend, device, *, size=5, rows=4):
    """One row of the first tensor that has any, expanded to all."""
    place = next(i for i, one in enumerate(case.detached()) if one.dim() > 1 and i in case.with_gradient)
    tensors = case.detached(size=size, rows=rows, device=device)
    shape, row = tensors[place].shape, tensors[place][..., :1, :]
    found = []
    for copied in (False, True):
        leaf = row.clone().requires_grad_()
        wide = leaf.expand(shape).clone() if copied else leaf.expand(shape)
        with qm.use_backend(backend):
            out = case.at(size)(*tensors[:place], wide, *tensors[place + 1 :])
            found.append((out, *torch.autograd.grad(out.sum(), leaf)))
    torch.testing.assert_close(*found)


def check_what_forward_keeps_is_the_same_on_both_backends(case, one, other, device, *, size=5):
    """Every call of a registered op, with what the forward pass kept on one backend, gives the same on both."""
    for backend in (one, other):
        for function, (*arguments, _) in calls_of(case, backend, device, size):
            torch.testing.assert_close(function(*arguments, one), function(*arguments, other), equal_nan=True)


def check_a_backend_of_another_device_is_refused(case, backend, device):
    message = (
        f"backend '{backend}' cannot run here: the {backend} kernels take {backend} tensors, got a {device} tensor"
    )
    with qm.use_backend(backend), pytest.raises(RuntimeError, match=message):
        case.at(5)(*case.tensors(device=device))


def check_tensors_on_two_devices_are_refused(case, backend, device, other_device):
    """The last tensor of as many dimensions as the first is elsewhere; an op of one tensor has nothing to refuse."""
    tensors = case.detached(device=device)
    dims = [one.dim() for one in tensors]
    place = len(dims) - 1 - dims[::-1].index(max(dims))
    tensors[place] = tensors[place].to(other_device)
    if len(tensors) > 1:
        with qm.use_backend(backend), pytest.raises(RuntimeError, match="device"):
            case.at(5)(*tensors)
