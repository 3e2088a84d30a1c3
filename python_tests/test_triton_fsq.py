"""The Triton functions of finite scalar quantisation, on a GPU if there is one, else under the interpreter."""

from __future__ import annotations

import pytest
import torch
from backend_comparison import DTYPES, HALF, assert_alike, assert_same
from triton_testing import DEVICE, assert_rounded, import_kernels, interpreted

import qmkernels as qm
from qmkernels.backends.reference import fsq as reference

kernels = import_kernels("fsq")
pytestmark = interpreted

LEVELS = ([2], [8, 8], [8, 5, 3], [7, 5, 5, 5, 9], [1000, 999], [2] * 62)
NAMES = [f"{levels[:5]} of {len(levels)}" for levels in LEVELS]


def _values(levels: list[int], dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """Makes one group more than full tiles hold, except with a few levels."""
    groups = kernels.TILE_VALUES // len(levels) + 1
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(groups, len(levels), generator=generator, dtype=torch.float64)).to(DEVICE, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("levels", LEVELS, ids=NAMES)
def test_codes_and_indices_are_those_of_the_reference(levels, dtype):
    z = _values(levels, dtype)
    (codes, indices), (expected, wanted_indices) = (module.fsq_forward(z, levels) for module in (kernels, reference))
    assert codes.dtype == dtype and indices.dtype == torch.int64 and indices.shape == wanted_indices.shape
    # A value close to the middle between two levels may go to either.
    assert (codes != expected).sum() <= 1e-3 * codes.numel()
    step = torch.tensor([1 / (count // 2) for count in levels], device=DEVICE)
    assert ((codes - expected).abs() <= 1.001 * step).all()
    same = (codes == expected).all(dim=-1)
    assert torch.equal(indices[same.unsqueeze(-1)], wanted_indices[same.unsqueeze(-1)])
    assert torch.equal(qm.fsq_codes(indices, levels, dtype), codes)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("levels", LEVELS, ids=NAMES)
def test_gradients_are_those_of_the_reference(levels, dtype):
    z, grad = _values(levels, dtype), _values(levels, dtype, seed=1)
    assert_alike((kernels.fsq_backward(grad, z, levels),), (reference.fsq_backward(grad, z, levels),))


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("levels", LEVELS[1:3], ids=NAMES[1:3])
def test_values_in_half_precision_give_the_numbers_of_float32(levels, dtype):
    z, grad = _values(levels, dtype), _values(levels, torch.float32, seed=1)
    z[5, 0], z[6, -1] = torch.nan, -torch.inf
    assert_same(kernels.fsq_forward(z, levels), kernels.fsq_forward(z.float(), levels))
    exact = kernels.fsq_backward(grad, z.float(), levels)
    assert_rounded((kernels.fsq_backward(grad, z, levels),), (exact,), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_infinities_are_outermost_and_nan_stays_in_its_group(dtype):
    z = torch.tensor([[torch.inf, 0.3], [-torch.inf, torch.nan], [-1e30, 1e30]], dtype=dtype, device=DEVICE)
    codes, indices = kernels.fsq_forward(z, [8, 5])
    expected, wanted_indices = reference.fsq_forward(z, [8, 5])
    torch.testing.assert_close(codes, expected, equal_nan=True, rtol=0, atol=0)
    assert torch.equal(indices, wanted_indices) and indices[1] == -1
    grad_z = kernels.fsq_backward(torch.ones_like(z), z, [8, 5])
    assert_alike((grad_z,), (reference.fsq_backward(torch.ones_like(z), z, [8, 5]),))


def test_empty_tensors_give_empty_tensors():
    empty = torch.zeros(0, 6, device=DEVICE)
    codes, indices = kernels.fsq_forward(empty, [3, 3])
    assert codes.shape == (0, 6) and indices.shape == (0, 3)
    assert kernels.fsq_backward(empty, empty, [3, 3]).shape == (0, 6)


def test_public_function_runs_on_this_backend():
    z = _values([8, 8], torch.float64).view(-1, 6)[:80].requires_grad_()
    results = []
    for backend in ("triton", "reference"):
        codes, indices = qm.fsq(z, [8, 8], backend=backend)
        results.append((codes.detach(), indices, *torch.autograd.grad(codes.square().sum(), z)))
    assert_alike(*results)
