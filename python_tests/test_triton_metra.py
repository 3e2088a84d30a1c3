"""The Triton functions of METRA's loss, on a GPU where there is one, else under the interpreter."""

from __future__ import annotations

import pytest
import torch
from backend_comparison import DTYPES, HALF, assert_alike, assert_same, with_special_values
from triton_testing import DEVICE, assert_rounded, import_kernels, interpreted, points

import qmkernels as qm
from qmkernels.backends.reference import metra as reference
from qmkernels.definitions.metra import NORMS

kernels = import_kernels("metra")
pytestmark = interpreted


def _inputs(*rows: int, size: int, dtype: torch.dtype, norm: str = "sum") -> list:
    """Makes the arguments of the two forward functions; some steps are longer than one, others shorter."""
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


# The last two exceed a tile.
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("size", (1, 2, 7, 16, 507, 1024, 1030))
def test_the_loss_and_its_gradients_are_those_of_the_reference(size, norm, dtype):
    inputs = _inputs(13, size=size, dtype=dtype, norm=norm)
    slopes = reference.metra_forward(*inputs)[3]
    assert (slopes == 0).any() and (slopes > 0).any()
    _agree(inputs)


@pytest.mark.parametrize("rows", ((1,), (2, 5), (1100,)))
def test_any_number_of_rows_is_added_up(rows):
    _agree(_inputs(*rows, size=2, dtype=torch.float64), needs_skill=False)


@pytest.mark.parametrize("value", (torch.nan, torch.inf))
@pytest.mark.parametrize("place", range(4), ids=("phi", "phi_next", "skill", "log_multiplier"))
def test_what_is_not_finite_gives_what_the_reference_gives(place, value):
    inputs = _inputs(7, size=5, dtype=torch.float64)
    inputs[place][(2, 3) if place < 3 else ()] = value
    _agree(inputs)


def test_public_function_runs_on_this_backend():
    phi, phi_next, skill, log_multiplier, slack, norm = _inputs(2, 9, size=4, dtype=torch.float32)
    leaves = [tensor.requires_grad_() for tensor in (phi, phi_next, log_multiplier)]
    results = []
    for backend in ("triton", "reference"):
        with qm.use_backend(backend):
            result = qm.losses.metra(phi, phi_next, skill, log_multiplier, slack=slack, norm=norm)
        results.append((*(tensor.detach() for tensor in result), *torch.autograd.grad(result.loss, leaves)))
    assert_alike(*results)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("size", (3, 16))
def test_rows_in_half_precision_give_the_numbers_of_float32(size, dtype):
    *rows, log_multiplier, slack, norm = _inputs(9, size=size, dtype=torch.float32)
    rows = [tensor.to(dtype) for tensor in rows]
    for prepared in (lambda x, y: (x, y), with_special_values):
        prepared(*rows[:2])
        results = []
        for given in (rows, [tensor.float() for tensor in rows]):
            kept = kernels.metra_forward(*given, log_multiplier, slack, norm)
            arguments = torch.tensor(-1.7, device=DEVICE), *given, *kept[2:], True
            results.append((kept, kernels.metra_backward(*arguments)))
        (kept, (*grads, of_multiplier)), (expected, (*exact, exact_of_multiplier)) = results
        assert_same((*kept, of_multiplier), (*expected, exact_of_multiplier))
        assert_rounded(grads, exact, dtype)
