"""The CUDA kernels of iQRL's temporal consistency on a CPU (cuda_on_cpu.py) against backends/reference."""

from __future__ import annotations

import pytest
import torch
from backend_comparison import DTYPES, HALF, assert_alike, assert_same, points, with_special_values
from cuda_on_cpu import check_half_without_a_copy, kernels, needs_compiler, off_a_boundary

import qmkernels as qm
from qmkernels.backends.native import temporal_consistency as native
from qmkernels.backends.reference import temporal_consistency as reference

pytestmark = needs_compiler
temporal_consistency_kernels = kernels("temporal_consistency")


def _mask(steps: int, batch: int, dtype: torch.dtype) -> torch.Tensor:
    return (torch.rand(steps, batch, generator=torch.Generator().manual_seed(batch)) > 0.3).to(dtype)


def _agree(predicted, target, mask=None, discount=0.9) -> None:
    inputs = predicted, target, mask, discount
    kept = reference.temporal_consistency_forward(*inputs)
    assert_alike(native.temporal_consistency_forward(*inputs), kept)
    arguments = torch.tensor(-1.7, dtype=predicted.dtype), kept[2], predicted, target
    grads = [module.temporal_consistency_backward(*arguments) for module in (native, reference)]
    assert_alike(grads[:1], grads[1:])


# One thread per row and 32, full and partial packs of 16 bytes, several packs per thread; more rows than the blocks of
# a launch hold.
@pytest.mark.parametrize("masked", (False, True))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", (1, 3, 8, 33, 64, 507, 512))
def test_outputs_and_gradients_are_those_of_the_reference(size, dtype, masked):
    predicted, target = points(5, 7, size=size, dtype=dtype)
    _agree(predicted, target, _mask(5, 7, dtype) if masked else None)


# More rows per step than threads that sum them, and one.
@pytest.mark.parametrize("steps, batch", ((1, 1), (2, 513), (3, 1100), (40, 1)))
def test_any_number_of_rows_is_added_up(steps, batch):
    predicted, target = points(steps, batch, size=2, dtype=torch.float64)
    _agree(predicted, target, _mask(steps, batch, torch.float64))


@pytest.mark.parametrize("discount", (0.0, 1.0, -0.5))
def test_any_discount_weighs_the_steps(discount):
    _agree(*points(4, 5, size=9, dtype=torch.float64), discount=discount)


@pytest.mark.parametrize("moved", (0, 1))
@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors_off_a_boundary_of_16_bytes_are_taken_too(dtype, moved):
    both = list(points(3, 5, size=64, dtype=dtype))
    both[moved] = off_a_boundary(both[moved])
    _agree(*both)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("side", (0, 1))
@pytest.mark.parametrize("counts", (0.0, 1.0))
@pytest.mark.parametrize("value", (0.0, 1e-12, torch.nan, torch.inf))
def test_rows_without_a_direction_or_a_number_are_as_in_the_reference(value, counts, side, dtype):
    both = points(3, 5, size=20, dtype=dtype)
    both[side][1, 2] = value
    mask = _mask(3, 5, dtype)
    mask[1, 2] = counts
    _agree(*both, mask)


def test_two_runs_give_the_same_bits():
    inputs = *points(2, 600, size=5, dtype=torch.float32), None, 0.9
    for first, second in zip(*(native.temporal_consistency_forward(*inputs) for _ in "ab"), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("size", (3, 8, 12, 507))
def test_latents_in_half_precision_give_the_numbers_of_float32(size, dtype):
    latents = points(2, 9, size=size, dtype=dtype)
    mask = _mask(2, 9, torch.float32)
    for prepared in (lambda x, y: (x, y), with_special_values):
        prepared(*(rows[1] for rows in latents))
        results = []
        for rows in (latents, tuple(rows.float() for rows in latents)):
            kept = native.temporal_consistency_forward(*rows, mask, 0.9)
            results.append((kept, native.temporal_consistency_backward(torch.tensor(-1.7), kept[2], *rows)))
        (kept, grad), (expected, exact) = results
        assert_same(kept, expected)
        assert_same((grad,), (exact.to(dtype),))


def test_half_precision_reaches_the_kernels_without_a_copy(monkeypatch):
    predicted, target = points(3, 5, size=64, dtype=torch.float32)
    target = target.bfloat16()

    def loss(predicted):
        return qm.losses.temporal_consistency(predicted, target).loss

    check_half_without_a_copy(monkeypatch, loss, predicted=predicted)


def test_half_precision_off_a_boundary_is_taken_too():
    halves = [off_a_boundary(rows.bfloat16()) for rows in points(3, 5, size=64, dtype=torch.float32)]
    expected = reference.temporal_consistency_forward(*(rows.float() for rows in halves), None, 0.9)
    assert_alike(native.temporal_consistency_forward(*halves, None, 0.9), expected)
