"""The Triton functions of finite scalar quantisation, on a GPU where there is one, else under the interpreter."""

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
    run_in_own_process,
)

kernels, RUNS_HERE = import_kernels("fsq", "fsq_forward_kernel")
runs_here = only_where(RUNS_HERE)

import qmkernels as qm  # noqa: E402
from qmkernels.backends.reference import fsq as reference  # noqa: E402

LEVELS = ([2], [8, 8], [8, 5, 3], [7, 5, 5, 5, 9], [1000, 999], [2] * 62)
NAMES = [f"{levels[:5]} of {len(levels)}" for levels in LEVELS]


@pytest.mark.skipif(RUNS_HERE, reason="every test of the file runs in this process")
def test_whole_file_passes_in_a_process_whose_triton_is_interpreted():
    run_in_own_process(__file__)


def _values(levels: list[int], dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """One group more than tiles are full, but for a few levels."""
    groups = kernels.TILE_VALUES // len(levels) + 1
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(groups, len(levels), generator=generator, dtype=torch.float64)).to(DEVICE, dtype)


@runs_here
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("levels", LEVELS, ids=NAMES)
def test_codes_and_indices_are_those_of_the_reference(levels, dtype):
    z = _values(levels, dtype)
    (codes, indices), (wanted, wanted_indices) = (one.fsq_forward(z, levels) for one in (kernels, reference))
    assert codes.dtype == dtype and indices.dtype == torch.int64 and indices.shape == wanted_indices.shape
    # A value close to the middle between two levels may go to either.
    assert (codes != wanted).sum() <= 1e-3 * codes.numel()
    step = torch.tensor([1 / (count // 2) for count in levels], device=DEVICE)
    assert ((codes - wanted).abs() <= 1.001 * step).all()
    same = (codes == wanted).all(dim=-1)
    assert torch.equal(indices[same.unsqueeze(-1)], wanted_indices[same.unsqueeze(-1)])
    assert torch.equal(qm.fsq_codes(indices, levels, dtype), codes)


@runs_here
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("levels", LEVELS, ids=NAMES)
def test_gradients_are_those_of_the_reference(levels, dtype):
    z, grad = _values(levels, dtype), _values(levels, dtype, seed=1)
    assert_alike((kernels.fsq_backward(grad, z, levels),), (reference.fsq_backward(grad, z, levels),))


@runs_here
@pytest.mark.parametrize("dtype", DTYPES)
def test_infinities_are_outermost_and_nan_stays_in_its_group(dtype):
    z = torch.tensor([[torch.inf, 0.3], [-torch.inf, torch.nan], [-1e30, 1e30]], dtype=dtype, device=DEVICE)
    codes, indices = kernels.fsq_forward(z, [8, 5])
    wanted, wanted_indices = reference.fsq_forward(z, [8, 5])
    torch.testing.assert_close(codes, wanted, equal_nan=True, rtol=0, atol=0)
    assert torch.equal(indices, wanted_indices) and indices[1] == -1
    grad_z = kernels.fsq_backward(torch.ones_like(z), z, [8, 5])
    assert_alike((grad_z,), (reference.fsq_backward(torch.ones_like(z), z, [8, 5]),))


@runs_here
def test_empty_tensors_give_empty_tensors():
    empty = torch.zeros(0, 6, device=DEVICE)
    codes, indices = kernels.fsq_forward(empty, [3, 3])
    assert codes.shape == (0, 6) and indices.shape == (0, 3)
    assert kernels.fsq_backward(empty, empty, [3, 3]).shape == (0, 6)


@runs_here
def test_public_function_runs_on_this_backend():
    z = _values([8, 8], torch.float64).view(-1, 6)[:80].requires_grad_()
    results = []
    for backend in ("triton", "reference"):
        codes, indices = qm.fsq(z, [8, 8], backend=backend)
        results.append((codes.detach(), indices, *torch.autograd.grad(codes.square().sum(), z)))
    assert_alike(*results)


@pytest.mark.parametrize("dtype", ("fp32", "fp64"))
@pytest.mark.parametrize("target", TARGETS)
def test_every_kernel_compiles_ahead_of_time(target, dtype, tmp_path):
    assert compiled_ahead_of_time("fsq", target, dtype, tmp_path) == 4 * 2
