"""METRA's CUDA kernels on a CPU (cuda_on_cpu.py) against backends/reference."""

from __future__ import annotations

import pytest
import torch
from backend_comparison import DTYPES, HALF, assert_alike, assert_same, points, with_special_values
from cuda_on_cpu import check_half_without_a_copy, kernels, needs_compiler, off_a_boundary

import qmkernels as qm
from qmkernels.backends.native import metra as native
from qmkernels.backends.reference import metra as reference
from qmkernels.definitions.metra import NORMS

pytestmark = needs_compiler
metra_kernels = kernels("metra")


def _inputs(*rows, size, dtype, norm="sum"):
    """Makes the arguments of the two forward functions; some steps are longer than one, others shorter."""
    phi, skill = points(*rows, size=size, dtype=dtype)
    scale = torch.linspace(0.1, 2, phi[..., 0].numel(), dtype=dtype).view(*rows, 1) / (
        1 if norm == "mean" else size**0.5
    )
    phi_next = phi + scale * phi.roll(1, dims=-1).sign()
    return [phi, phi_next, skill, torch.tensor(0.4, dtype=dtype), 1e-3, norm]


def _agree(inputs: list, needs_skill: bool = True) -> None:
    kept = reference.metra_forward(*inputs)
    assert_alike(native.metra_forward(*inputs), kept)
    arguments = torch.tensor(-1.7, dtype=kept[0].dtype), *inputs[:3], *kept[2:], needs_skill
    assert_alike(native.metra_backward(*arguments), reference.metra_backward(*arguments))


# Rows handled by one thread, some, and all of a warp, by packs of 16 bytes and value by value.
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("size", (1, 2, 4, 7, 16, 33, 124, 507, 512))
def test_the_loss_and_its_gradients_agree_with_the_reference(size, norm, dtype):
    inputs = _inputs(47, size=size, dtype=dtype, norm=norm)
    slopes = reference.metra_forward(*inputs)[3]
    assert (slopes == 0).any() and (slopes > 0).any()
    _agree(inputs)


@pytest.mark.parametrize("size", (2, 33))
@pytest.mark.parametrize("rows", ((1,), (2, 5), (1100,)))
def test_any_number_of_rows_is_added_up(rows, size):
    _agree(_inputs(*rows, size=size, dtype=torch.float64), needs_skill=False)


@pytest.mark.parametrize("moved", range(3), ids=("phi", "phi_next", "skill"))
def test_tensors_off_a_boundary_of_16_bytes_are_taken_too(moved):
    inputs = _inputs(9, size=8, dtype=torch.float32)
    inputs[moved] = off_a_boundary(inputs[moved])
    _agree(inputs)


@pytest.mark.parametrize("value", (torch.nan, torch.inf, -torch.inf))
@pytest.mark.parametrize("place", range(4), ids=("phi", "phi_next", "skill", "log_multiplier"))
def test_what_is_not_finite_gives_what_the_reference_gives(place, value):
    inputs = _inputs(7, size=5, dtype=torch.float64)
    inputs[place][(2, 3) if place < 3 else ()] = value
    _agree(inputs)


@pytest.mark.parametrize("slack", (0.0, 1.0))
def test_a_row_whose_constraint_is_the_slack_itself_has_a_gradient(slack):
    phi, skill = torch.zeros(3, 4, dtype=torch.float64), torch.ones(3, 4, dtype=torch.float64)
    phi_next = torch.eye(3, 4, dtype=torch.float64) * (1 - slack) ** 0.5
    inputs = [phi, phi_next, skill, torch.tensor(0.4, dtype=torch.float64), slack, "sum"]
    assert (reference.metra_forward(*inputs)[3] > 0).all()
    _agree(inputs)


def test_two_runs_give_the_same_bits():
    inputs = _inputs(600, size=33, dtype=torch.float32)
    for first, second in zip(native.metra_forward(*inputs), native.metra_forward(*inputs), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("size", (3, 8, 12, 507))
def test_rows_in_half_precision_give_the_numbers_of_float32(size, dtype):
    *rows, log_multiplier, slack, norm = _inputs(9, size=size, dtype=torch.float32)
    rows = [tensor.to(dtype) for tensor in rows]
    for prepared in (lambda x, y: (x, y), with_special_values):
        prepared(*rows[:2])
        results = []
        for given in (rows, [tensor.float() for tensor in rows]):
            kept = native.metra_forward(*given, log_multiplier, slack, norm)
            arguments = torch.tensor(-1.7), *given, *kept[2:], True
            results.append((kept, native.metra_backward(*arguments)))
        (kept, (*grads, of_multiplier)), (expected, (*exact, exact_of_multiplier)) = results
        assert_same((*kept, of_multiplier), (*expected, exact_of_multiplier))
        assert_same(grads, (grad.to(dtype) for grad in exact))


def test_half_precision_reaches_the_kernels_without_a_copy(monkeypatch):
    phi, phi_next, skill, *_ = _inputs(5, size=8, dtype=torch.float32)

    def loss(phi, phi_next, skill):
        return qm.losses.metra(phi, phi_next, skill, torch.tensor(0.4)).loss

    check_half_without_a_copy(monkeypatch, loss, phi=phi, phi_next=phi_next, skill=skill)


def test_half_precision_off_a_boundary_is_taken_too():
    *rows, log_multiplier, slack, norm = _inputs(9, size=8, dtype=torch.float32)
    halves = [off_a_boundary(tensor.bfloat16()) for tensor in rows]
    expected = reference.metra_forward(*(tensor.float() for tensor in halves), log_multiplier, slack, norm)
    assert_alike(native.metra_forward(*halves, log_multiplier, slack, norm), expected)
