"""The CUDA kernels of QRL's latent dynamics on a CPU (cuda_on_cpu.py) against backends/reference."""

from __future__ import annotations

import pytest
import torch
from backend_comparison import HALF, assert_alike, assert_same, points, with_special_values
from cuda_on_cpu import check_half_without_a_copy, kernels, needs_compiler, off_a_boundary

import qmkernels as qm
from qmkernels.arguments.latent_dynamics import LatentDynamicsSettings
from qmkernels.backends.native import latent_dynamics as native
from qmkernels.backends.reference import latent_dynamics as reference
from qmkernels.definitions import iqe as iqe_definition

pytestmark = needs_compiler
latent_dynamics_kernels = kernels("latent_dynamics")

# 4, 8, 16, 32 and, in float32, 64 have their own kernel.
DIM_PER_COMPONENT = (1, 4, 5, 8, 16, 32, 33, 64)
CASES = [(reduction, torch.float32) for reduction in ("sum", "mean", "max", "maxmean")]
CASES += [(reduction, torch.float64) for reduction in ("sum", "maxmean")]


def _inputs(rows, num_components, dim_per_component, dtype, reduction="maxmean", power=2):
    """Makes the arguments of the two forward functions."""
    x, y = points(rows, size=num_components * dim_per_component, dtype=dtype)
    max_weight = torch.tensor(0.3, dtype=dtype) if reduction == "maxmean" else None
    return [x, y, max_weight, *LatentDynamicsSettings(dim_per_component, reduction, "sigmoid", power)]


def _agree(inputs: list) -> None:
    kept = reference.latent_dynamics_forward(*inputs)
    assert_alike(native.latent_dynamics_forward(*inputs), kept)
    arguments = torch.tensor(-1.7, dtype=kept[0].dtype), *kept[2:], inputs[2], inputs[0], *inputs[3:6]
    assert_alike(native.latent_dynamics_backward(*arguments), reference.latent_dynamics_backward(*arguments))


@pytest.mark.parametrize("power", (1, 2))
@pytest.mark.parametrize("reduction, dtype", CASES)
@pytest.mark.parametrize("dim_per_component", DIM_PER_COMPONENT)
def test_the_loss_and_its_gradients_agree_with_the_reference(dim_per_component, reduction, dtype, power):
    inputs = _inputs(47, 7, dim_per_component, dtype, reduction, power)
    inputs[0], inputs[1] = inputs[0] * 0.4, inputs[1] * 0.4  # sums of squares within the tolerance of distances
    _agree(inputs)


@pytest.mark.parametrize("dim_per_component", (4, 5))
@pytest.mark.parametrize("num_components", (1, 2, 31, 128, 129, 300))
def test_any_number_of_components_is_reduced(num_components, dim_per_component):
    _agree(_inputs(5, num_components, dim_per_component, torch.float64))


@pytest.mark.parametrize("rows", (1, 2, 1100))  # more rows than threads that sum them
@pytest.mark.parametrize("dim_per_component", (1, 4))
def test_any_number_of_rows_is_added_up(dim_per_component, rows):
    _agree(_inputs(rows, 1, dim_per_component, torch.float64))


def test_one_component_may_span_all_values():
    _agree(_inputs(2, 1, 1030, torch.float64))


@pytest.mark.parametrize("moved", (0, 1), ids=("predicted", "target"))
def test_tensors_off_a_boundary_of_16_bytes_are_taken_too(moved):
    inputs = _inputs(9, 3, 8, torch.float32)
    inputs[moved] = off_a_boundary(inputs[moved])
    _agree(inputs)


@pytest.mark.parametrize("side", (0, 1))
@pytest.mark.parametrize("reduction", ("sum", "max", "maxmean"))
@pytest.mark.parametrize("dim_per_component", (4, 5))
def test_nan_reaches_the_loss_and_only_its_rows_slopes(dim_per_component, reduction, side):
    inputs = _inputs(7, 3, dim_per_component, torch.float64, reduction)
    inputs[side][2, dim_per_component + 1] = torch.nan
    actual, expected = native.latent_dynamics_forward(*inputs), reference.latent_dynamics_forward(*inputs)
    assert actual[0].isnan()
    assert expected[2].isnan().sum() == 2
    for place in (0, 1, 2, 5):  # loss, stats, slopes, spread; which ends a NaN leaves does not matter
        torch.testing.assert_close(actual[place], expected[place], equal_nan=True)


@pytest.mark.parametrize("infinity", (torch.inf, -torch.inf))
@pytest.mark.parametrize("side", (0, 1))
@pytest.mark.parametrize("dim_per_component", (4, 5))
def test_infinity_counts_as_the_largest_finite_number(dim_per_component, side, infinity):
    inputs = _inputs(5, 3, dim_per_component, torch.float32, "max", 1)
    inputs[side][2, dim_per_component + 1] = infinity
    actual, expected = native.latent_dynamics_forward(*inputs), reference.latent_dynamics_forward(*inputs)
    assert_alike(actual, expected)


@pytest.mark.parametrize("dim_per_component", (4, 5, 16, 33))
def test_tied_ends_add_up_to_the_reference_subgradient(dim_per_component):
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randint(0, 5, (2, 57, 2 * dim_per_component), generator=generator).double()
    form = LatentDynamicsSettings(dim_per_component, "max")
    actual = native.latent_dynamics_forward(x, y, None, *form)
    truth = reference.latent_dynamics_forward(x, y, None, *form)
    assert_alike([*actual[:3], actual[4]], [*truth[:3], truth[4]])
    both = torch.stack([x, y]), torch.stack([y, x])
    ends = iqe_definition.unpack_ends(actual[3], dim_per_component)
    for marked, expected, coordinate in zip(ends, iqe_definition.ends(*both, dim_per_component), both, strict=True):
        coordinate = coordinate.unflatten(-1, (-1, dim_per_component))
        for tied in range(5):
            here = coordinate == tied
            assert torch.equal((marked.bool() & here).sum(dim=-1), (expected & here).sum(dim=-1))


def test_two_runs_give_the_same_bits():
    inputs = _inputs(600, 3, 5, torch.float32)
    for first, second in zip(
        native.latent_dynamics_forward(*inputs), native.latent_dynamics_forward(*inputs), strict=True
    ):
        assert torch.equal(first, second)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("dim_per_component", (4, 5, 8, 16, 32))
def test_latents_in_half_precision_give_the_numbers_of_float32(dim_per_component, dtype):
    predicted, target, *settings = _inputs(9, 3, dim_per_component, torch.float32)
    latents = predicted.to(dtype), target.to(dtype)
    for prepared in (lambda x, y: (x, y), with_special_values):
        prepared(*latents)
        results = []
        for rows in (latents, tuple(rows.float() for rows in latents)):
            kept = native.latent_dynamics_forward(*rows, *settings)
            arguments = torch.tensor(-1.7), *kept[2:], settings[0], rows[0], *settings[1:4]
            results.append((kept, native.latent_dynamics_backward(*arguments)))
        (kept, (*grads, of_weight)), (expected, (*exact, exact_of_weight)) = results
        assert_same((*kept, of_weight), (*expected, exact_of_weight))
        assert_same(grads, (grad.to(dtype) for grad in exact))


def test_half_precision_reaches_the_kernels_without_a_copy(monkeypatch):
    x, y = points(5, size=24, dtype=torch.float32)

    def loss(predicted, target):
        return qm.losses.latent_dynamics(qm.nn.IQE(24, 8), predicted, target).loss

    check_half_without_a_copy(monkeypatch, loss, predicted=x, target=y)


def test_half_precision_off_a_boundary_is_taken_too():
    predicted, target, *settings = _inputs(9, 3, 8, torch.float32)
    halves = [off_a_boundary(rows.bfloat16()) for rows in (predicted, target)]
    expected = reference.latent_dynamics_forward(*(rows.float() for rows in halves), *settings)
    assert_alike(native.latent_dynamics_forward(*halves, *settings), expected)
