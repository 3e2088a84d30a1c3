"""The Triton functions of METRA's loss, on a GPU where there is one, else under the interpreter."""

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

kernels, RUNS_HERE = import_kernels("metra", "metra_forward_kernel")
runs_here = only_where(RUNS_HERE)

import qmkernels as qm  # noqa: E402
from qmkernels.backends.reference import metra as reference  # noqa: E402
from qmkernels.definitions.metra import NORMS  # noqa: E402


@pytest.mark.skipif(RUNS_HERE, reason="every test of the file runs in this process")
def test_whole_file_passes_in_a_process_whose_triton_is_interpreted():
    run_in_own_process(__file__)


def _inputs(*rows: int, size: int, dtype: torch.dtype, norm: str = "sum") -> list:
    """What the two forward functions take; some steps are longer than one, others shorter."""
    phi, skill = points(*rows, size=size, dtype=dtype)
    scale = torch.linspace(0.1, 2, phi[..., 0].numel(), dtype=dtype, device=DEVICE).view(*rows, 1)
    phi_next = phi + scale / (1 if norm == "mean" else size**0.5) * phi.roll(1, dims=-1).sign()
    return [phi, phi_next, skill, torch.tensor(0.4, dtype=dtype, device=DEVICE), 1e-3, norm]


def _agree(inputs: list, needs_skill: bool = True) -> None:
    kept = reference.metra_forward(*inputs)
    assert_alike(kernels.metra_forward(*inputs), kept)
    grad_loss = torch.tensor(-1.7, dtype=kept[0].dtype, device=DEVICE)
    arguments = grad_loss, *inputs[:3], *kept[2:], needs_skill
    assert_alike(kernels.metra_backward(*arguments), reference.metra_backward(*arguments))


# The last two are more than a tile.
@runs_here
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("size", (1, 2, 7, 16, 507, 1024, 1030))
def test_the_loss_and_its_gradients_are_those_of_the_reference(size, norm, dtype):
    inputs = _inputs(13, size=size, dtype=dtype, norm=norm)
    slopes = reference.metra_forward(*inputs)[3]
    assert (slopes == 0).any() and (slopes > 0).any()
    _agree(inputs)


@runs_here
@pytest.mark.parametrize("rows", ((1,), (2, 5), (1100,)))
def test_any_number_of_rows_is_added_up(rows):
    _agree(_inputs(*rows, size=2, dtype=torch.float64), needs_skill=False)


@runs_here
@pytest.mark.parametrize("value", (torch.nan, torch.inf))
@pytest.mark.parametrize("place", range(4), ids=("phi", "phi_next", "skill", "log_multiplier"))
def test_what_is_not_finite_gives_what_the_reference_gives(place, value):
    inputs = _inputs(7, size=5, dtype=torch.float64)
    inputs[place][(2, 3) if place < 3 else ()] = value
    _agree(inputs)


@runs_here
def test_public_function_runs_on_this_backend():
    phi, phi_next, skill, log_multiplier, slack, norm = _inputs(2, 9, size=4, dtype=torch.float32)
    leaves = [one.requires_grad_() for one in (phi, phi_next, log_multiplier)]
    results = []
    for backend in ("triton", "reference"):
        with qm.use_backend(backend):
            found = qm.losses.metra(phi, phi_next, skill, log_multiplier, slack=slack, norm=norm)
        results.append((*(one.detach() for one in found), *torch.autograd.grad(found.loss, leaves)))
    assert_alike(*results)


@pytest.mark.parametrize("dtype", ("fp32", "fp64"))
@pytest.mark.parametrize("target", TARGETS)
def test_every_kernel_compiles_ahead_of_time(target, dtype, tmp_path):
    assert compiled_ahead_of_time("metra", target, dtype, tmp_path) == 1 + 3 * 3
