"""The Triton functions of temporal consistency, on a GPU where there is one, else under the interpreter."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from triton_testing import (  # noqa: E402
    DEVICE,
    DTYPES,
    TARGETS,
    assert_alike,
    compiled_ahead_of_time,
    import_kernels,
    interpreter,  # noqa: F401
    only_where,
    points,
    run_in_own_process,
)

kernels, RUNS_HERE = import_kernels("temporal_consistency", "temporal_consistency_forward_kernel")
runs_here = only_where(RUNS_HERE)

import qmkernels as qm  # noqa: E402
from qmkernels.backends.reference import temporal_consistency as reference  # noqa: E402


@pytest.mark.skipif(RUNS_HERE, reason="every test of the file runs in this process")
def test_whole_file_passes_in_a_process_whose_triton_is_interpreted():
    run_in_own_process(__file__)


def _both(predicted, target, mask, discount):
    """What forward and backward return, ours and the reference's, each from the reference's slopes."""
    grad_loss = torch.tensor(-1.7, dtype=predicted.dtype, device=DEVICE)
    inputs = predicted, target, mask, discount
    kept = [module.temporal_consistency_forward(*inputs) for module in (kernels, reference)]
    arguments = grad_loss, kept[1][2], predicted, target
    grads = [module.temporal_consistency_backward(*arguments) for module in (kernels, reference)]
    return [(*outputs, grad) for outputs, grad in zip(kept, grads, strict=True)]


def _mask(steps, batch, dtype):
    generator = torch.Generator().manual_seed(batch)
    return (torch.rand(steps, batch, generator=generator) > 0.3).to(DEVICE, dtype)


# Whole tiles of rows and broken ones, rows of more than one tile, more rows a step than one block adds up.
@runs_here
@pytest.mark.parametrize("masked", (False, True))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 7, 16), (2, 33, 123), (2, 3, 2500), (2, 1100, 4)], ids=str)
def test_outputs_and_gradients_are_those_of_the_reference(shape, dtype, masked):
    predicted, target = points(*shape[:2], size=shape[2], dtype=dtype)
    assert_alike(*_both(predicted, target, _mask(*shape[:2], dtype) if masked else None, 0.9))


@runs_here
@pytest.mark.parametrize("discount", (0.0, 1.0, -0.5))
def test_any_discount_weighs_the_steps(discount):
    predicted, target = points(4, 5, size=9, dtype=torch.float64)
    assert_alike(*_both(predicted, target, None, discount))


@runs_here
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("side", (0, 1))
@pytest.mark.parametrize("value", (0.0, 1e-12, torch.nan, torch.inf))
def test_rows_without_a_direction_or_a_number_are_as_in_the_reference(value, side, dtype):
    both = points(3, 5, size=20, dtype=dtype)
    both[side][1, 2] = value
    mask = _mask(3, 5, dtype)
    mask[1, 2] = 1
    for one in (None, mask, 1 - mask):
        assert_alike(*_both(*both, one, 0.9))


@runs_here
def test_public_function_runs_on_this_backend():
    predicted, target = points(3, 7, size=24, dtype=torch.float64)
    results = []
    for backend in ("triton", "reference"):
        leaf = predicted.clone().requires_grad_()
        with qm.use_backend(backend):
            found = qm.losses.temporal_consistency(leaf, target, _mask(3, 7, torch.bool))
            results.append((found.loss.detach(), found.similarity, *torch.autograd.grad(found.loss, leaf)))
    assert_alike(*results)


@pytest.mark.parametrize("dtype", ("fp32", "fp64"))
@pytest.mark.parametrize("target", TARGETS)
def test_every_kernel_compiles_ahead_of_time(target, dtype, tmp_path):
    assert compiled_ahead_of_time("temporal_consistency", target, dtype, tmp_path) == 3 * 3 * 2
