"""The CUDA kernels of finite scalar quantisation on a CPU (cuda_on_cpu.py) against backends/reference."""

from __future__ import annotations

import pytest
import torch
from backend_comparison import DTYPES, HALF, assert_alike, assert_same
from cuda_on_cpu import check_half_without_a_copy, kernels, needs_compiler, off_a_boundary

import qmkernels as qm
from qmkernels.backends.native import fsq as native
from qmkernels.backends.reference import fsq as reference

pytestmark = needs_compiler
fsq_kernels = kernels("fsq")

LEVELS = ([2], [8, 8], [8, 5, 3], [7, 5, 5, 5], [7, 5, 5, 5, 9], [2] * 62)
NAMES = [f"{levels[:5]} of {len(levels)}" for levels in LEVELS]
GROUPS = 3 * 256 + 3  # more than the threads of a grid of three blocks


def _values(levels: list[int], dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """Values away from the middles between two levels, where the reference may round to the other side."""
    generator = torch.Generator().manual_seed(seed)
    z = 2 * torch.randn(GROUPS, len(levels), generator=generator, dtype=torch.float64)
    nudged = z + 1e-5
    is_close = reference.fsq_forward(z - 1e-5, levels)[0] != reference.fsq_forward(nudged, levels)[0]
    return z.masked_fill(is_close, 0.1).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("levels", LEVELS, ids=NAMES)
def test_codes_and_indices_are_those_of_the_reference(levels, dtype):
    z = _values(levels, dtype)
    for moved in (z, off_a_boundary(z)):
        codes, indices = native.fsq_forward(moved, levels)
        expected, wanted_indices = reference.fsq_forward(z, levels)
        assert torch.equal(codes, expected) and torch.equal(indices, wanted_indices)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("levels", LEVELS, ids=NAMES)
def test_gradients_are_those_of_the_reference(levels, dtype):
    z, grad = _values(levels, dtype), _values(levels, dtype, seed=1)
    for moved in (z, off_a_boundary(z)):
        assert_alike((native.fsq_backward(grad, moved, levels),), (reference.fsq_backward(grad, z, levels),))


@pytest.mark.parametrize("levels", LEVELS, ids=NAMES)
def test_nan_stays_in_its_group(levels):
    z = _values(levels, torch.float64)
    z[5, 0] = z[400, -1] = torch.nan
    codes, indices = native.fsq_forward(z, levels)
    assert torch.equal(codes.isnan(), z.isnan())
    assert (indices == -1).nonzero()[:, 0].tolist() == [5, 400]
    assert torch.equal(native.fsq_backward(torch.ones_like(z), z, levels).isnan(), z.isnan())


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("levels", LEVELS, ids=NAMES)
def test_values_in_half_precision_give_the_numbers_of_float32(levels, dtype):
    z, grad = _values(levels, torch.float32).to(dtype), _values(levels, torch.float32, seed=1)
    z[5, 0], z[6, -1] = torch.nan, -torch.inf
    for moved in (z, off_a_boundary(z)):
        assert_same(native.fsq_forward(moved, levels), native.fsq_forward(z.float(), levels))
        exact = native.fsq_backward(grad, z.float(), levels)
        assert_same((native.fsq_backward(grad, moved, levels),), (exact.to(dtype),))


def test_half_precision_reaches_the_kernels_without_a_copy(monkeypatch):
    check_half_without_a_copy(monkeypatch, lambda z: qm.fsq(z, [8, 8]).codes.sum(), z=torch.randn(5, 8))
