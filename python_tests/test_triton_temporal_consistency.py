"""The Triton functions of temporal consistency, on a GPU where there is one, else under the interpreter."""

from __future__ import annotations

import pytest
import torch
from backend_comparison import DTYPES, HALF, assert_alike, assert_same, with_special_values
from triton_testing import DEVICE, assert_rounded, import_kernels, interpreted, points

import qmkernels as qm
from qmkernels.backends.reference import temporal_consistency as reference

kernels = import_kernels("temporal_consistency")
pytestmark = interpreted


def _both(predicted, target, mask, discount):
    """Returns the results of forward and backward, ours and the reference's, both from the reference's slopes."""
    grad_loss = torch.tensor(-1.7, dtype=predicted.dtype, device=DEVICE)
    inputs = predicted, target, mask, discount
    kept = [module.temporal_consistency_forward(*inputs) for module in (kernels, reference)]
    arguments = grad_loss, kept[1][2], predicted, target
    grads = [module.temporal_consistency_backward(*arguments) for module in (kernels, reference)]
    return [(*outputs, grad) for outputs, grad in zip(kept, grads, strict=True)]


def _mask(steps, batch, dtype):
    generator = torch.Generator().manual_seed(batch)
    return (torch.rand(steps, batch, generator=generator) > 0.3).to(DEVICE, dtype)


# Full and partial tiles of rows, rows of more than one tile, more rows per step than one block sums.
@pytest.mark.parametrize("masked", (False, True))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 7, 16), (2, 33, 123), (2, 3, 2500), (2, 1100, 4)], ids=str)
def test_outputs_and_gradients_are_those_of_the_reference(shape, dtype, masked):
    predicted, target = points(*shape[:2], size=shape[2], dtype=dtype)
    assert_alike(*_both(predicted, target, _mask(*shape[:2], dtype) if masked else None, 0.9))


@pytest.mark.parametrize("discount", (0.0, 1.0, -0.5))
def test_any_discount_weighs_the_steps(discount):
    predicted, target = points(4, 5, size=9, dtype=torch.float64)
    assert_alike(*_both(predicted, target, None, discount))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("side", (0, 1))
@pytest.mark.parametrize("value", (0.0, 1e-12, torch.nan, torch.inf))
def test_rows_without_a_direction_or_a_number_are_as_in_the_reference(value, side, dtype):
    both = points(3, 5, size=20, dtype=dtype)
    both[side][1, 2] = value
    mask = _mask(3, 5, dtype)
    mask[1, 2] = 1
    for weights in (None, mask, 1 - mask):
        assert_alike(*_both(*both, weights, 0.9))


def test_public_function_runs_on_this_backend():
    predicted, target = points(3, 7, size=24, dtype=torch.float64)
    results = []
    for backend in ("triton", "reference"):
        leaf = predicted.clone().requires_grad_()
        with qm.use_backend(backend):
            result = qm.losses.temporal_consistency(leaf, target, _mask(3, 7, torch.bool))
            results.append((result.loss.detach(), result.similarity, *torch.autograd.grad(result.loss, leaf)))
    assert_alike(*results)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("size", (3, 16))
def test_latents_in_half_precision_give_the_numbers_of_float32(size, dtype):
    latents = points(2, 9, size=size, dtype=dtype)
    mask = _mask(2, 9, torch.float32)
    for prepared in (lambda x, y: (x, y), with_special_values):
        prepared(*(rows[1] for rows in latents))
        results = []
        for rows in (latents, tuple(rows.float() for rows in latents)):
            kept = kernels.temporal_consistency_forward(*rows, mask, 0.9)
            results.append(
                (kept, kernels.temporal_consistency_backward(torch.tensor(-1.7, device=DEVICE), kept[2], *rows))
            )
        (kept, grad), (expected, exact) = results
        assert_same(kept, expected)
        assert_rounded((grad,), (exact,), dtype)
