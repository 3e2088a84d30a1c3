"""QRL's CUDA kernels on a CPU (cuda_on_cpu.py) against backends/reference."""

from __future__ import annotations

import pytest
import torch
from backend_comparison import HALF, assert_alike, assert_same, points, with_special_values
from cuda_on_cpu import check_half_without_a_copy, kernels, needs_compiler, off_a_boundary

import qmkernels as qm
from qmkernels.arguments.qrl_critic import QrlCriticSettings
from qmkernels.backends.native import qrl_critic as native
from qmkernels.backends.reference import qrl_critic as reference
from qmkernels.definitions import iqe as iqe_definition

pytestmark = needs_compiler
qrl_critic_kernels = kernels("qrl_critic")

# 4, 8, 16, 32 and, in float32, 64 have their own kernel.
DIM_PER_COMPONENT = (1, 4, 5, 8, 16, 32, 33, 64)
CASES = [(reduction, torch.float32) for reduction in ("sum", "mean", "max", "maxmean")]
CASES += [(reduction, torch.float64) for reduction in ("sum", "maxmean")]
WITH_GOAL = pytest.mark.parametrize("with_goal", (False, True), ids=("rolled", "goal"))


def _inputs(rows, num_components, form, dtype, with_goal, cost_of_each):
    """Makes the arguments of the two forward functions. Offset and cost lie amid the distances: no term is flat for all
    rows."""
    x, y = points(rows, size=num_components * form.dim_per_component, dtype=dtype)
    goal = x.roll(1, dims=1) + 0.3 if with_goal else None
    max_weight = torch.tensor(0.3, dtype=dtype) if form.reduction == "maxmean" else None
    to_goal, local = reference.definition.distances(x, y, goal, max_weight, form)
    cost = local.flip(0) if cost_of_each else local.mean().reshape(1)
    form = form._replace(softplus_offset=to_goal.mean().item())
    return [x, y, goal, max_weight, torch.tensor(0.4, dtype=dtype), cost.contiguous(), *form]


def _form(dim_per_component, reduction="maxmean", multiplier="softplus") -> QrlCriticSettings:
    return QrlCriticSettings(dim_per_component, reduction, "one_minus_sigmoid", 0.7, 0.0, multiplier, 0.1)


def _agree(inputs: list) -> None:
    kept = reference.qrl_critic_forward(*inputs)
    assert_alike(native.qrl_critic_forward(*inputs), kept)
    _, _, goal, max_weight, _, _, *settings = inputs
    grad_loss = torch.tensor(-1.7, dtype=kept[0].dtype)
    arguments = grad_loss, *kept[1:], max_weight, inputs[0], goal is not None, *settings[:3]
    assert_alike(native.qrl_critic_backward(*arguments), reference.qrl_critic_backward(*arguments))


@WITH_GOAL
@pytest.mark.parametrize("reduction, dtype", CASES)
@pytest.mark.parametrize("dim_per_component", DIM_PER_COMPONENT)
def test_the_loss_and_its_gradients_agree_with_the_reference(dim_per_component, reduction, dtype, with_goal):
    form = _form(dim_per_component, reduction, "exp" if with_goal else "softplus")
    _agree(_inputs(47, 7, form, dtype, with_goal, cost_of_each=with_goal))


@WITH_GOAL
@pytest.mark.parametrize("multiplier", ("softplus", "exp"))
@pytest.mark.parametrize("cost_of_each", (False, True))
def test_either_multiplier_and_cost_go_with_either_goal(cost_of_each, multiplier, with_goal):
    _agree(_inputs(9, 3, _form(8, multiplier=multiplier), torch.float64, with_goal, cost_of_each))


@WITH_GOAL
@pytest.mark.parametrize("dim_per_component", (4, 5))
@pytest.mark.parametrize("num_components", (1, 2, 31, 128, 129, 300))
def test_any_number_of_components_is_reduced(num_components, dim_per_component, with_goal):
    _agree(_inputs(5, num_components, _form(dim_per_component), torch.float64, with_goal, True))


# A row that is its own goal, two that are each other's; more rows than threads that sum them.
@pytest.mark.parametrize("rows", (1, 2, 1100))
@pytest.mark.parametrize("dim_per_component", (1, 4))
def test_any_number_of_rows_is_added_up(dim_per_component, rows):
    _agree(_inputs(rows, 1, _form(dim_per_component), torch.float64, False, True))


def test_one_component_may_span_all_values():
    _agree(_inputs(2, 1, _form(1030), torch.float64, True, False))


@pytest.mark.parametrize("moved", ("x", "y", "goal"))
def test_tensors_off_a_boundary_of_16_bytes_are_taken_too(moved):
    inputs = _inputs(9, 3, _form(8), torch.float32, True, True)
    place = ("x", "y", "goal").index(moved)
    inputs[place] = off_a_boundary(inputs[place])
    _agree(inputs)


@pytest.mark.parametrize(
    "side, with_goal", [*[(side, False) for side in ("x", "y", "cost")], ("y", True), ("goal", True)]
)
@pytest.mark.parametrize("reduction", ("sum", "max", "maxmean"))
@pytest.mark.parametrize("dim_per_component", (4, 5))
def test_nan_reaches_the_loss_and_only_its_pairs_slopes(dim_per_component, reduction, side, with_goal):
    inputs = _inputs(7, 3, _form(dim_per_component, reduction), torch.float64, with_goal, True)
    changed = inputs[("x", "y", "goal", "", "", "cost").index(side)]
    changed[(2,) if side == "cost" else (2, dim_per_component + 1)] = torch.nan
    actual, truth = native.qrl_critic_forward(*inputs), reference.qrl_critic_forward(*inputs)
    assert actual[0].isnan()
    assert truth[2].isnan().any()
    for place in (0, 1, 2, 5):  # loss, stats, slopes, spread; which ends a NaN leaves does not matter
        torch.testing.assert_close(actual[place], truth[place], equal_nan=True)
    arguments = torch.ones((), dtype=torch.float64), *truth[1:], inputs[3], inputs[0], with_goal, *inputs[6:9]
    actual, expected = native.qrl_critic_backward(*arguments), reference.qrl_critic_backward(*arguments)
    for first, second in zip(actual[3:], expected[3:], strict=True):
        torch.testing.assert_close(first, second, equal_nan=True)
    # The gradient of the row with NaN is undefined.
    for first, second in zip(actual[:3], expected[:3], strict=True):
        assert (first is None) == (second is None)
        if second is not None:
            rows = ~second.isnan().any(dim=-1)
            torch.testing.assert_close(first[rows], second[rows])


@pytest.mark.parametrize("infinity", (torch.inf, -torch.inf))
@pytest.mark.parametrize("side", (0, 1))
@pytest.mark.parametrize("dim_per_component", (4, 5))
def test_infinity_counts_as_the_largest_finite_number(dim_per_component, side, infinity):
    inputs = _inputs(5, 3, _form(dim_per_component, "max"), torch.float32, False, True)
    inputs[side][2, dim_per_component + 1] = infinity
    actual, expected = native.qrl_critic_forward(*inputs), reference.qrl_critic_forward(*inputs)
    assert_alike(actual, expected)


@WITH_GOAL
@pytest.mark.parametrize("dim_per_component", (4, 5, 16, 33))
def test_tied_ends_add_up_to_the_reference_subgradient(dim_per_component, with_goal):
    generator = torch.Generator().manual_seed(1)
    x, y, goal = torch.randint(0, 5, (3, 57, 2 * dim_per_component), generator=generator).double()
    zero = torch.zeros((), dtype=torch.float64)
    goal = goal if with_goal else None
    form = _form(dim_per_component, "max")
    actual = native.qrl_critic_forward(x, y, goal, None, zero, zero.reshape(1), *form)
    truth = reference.qrl_critic_forward(x, y, goal, None, zero, zero.reshape(1), *form)
    assert_alike([*actual[:3], actual[4]], [*truth[:3], truth[4]])
    to = torch.stack([y.roll(1, dims=0) if goal is None else goal, y])
    x = x.expand_as(to)
    ends = iqe_definition.unpack_ends(actual[3], dim_per_component)
    for marked, expected, coordinate in zip(ends, iqe_definition.ends(x, to, dim_per_component), (x, to), strict=True):
        coordinate = coordinate.unflatten(-1, (-1, dim_per_component))
        for tied in range(5):
            here = coordinate == tied
            assert torch.equal((marked.bool() & here).sum(dim=-1), (expected & here).sum(dim=-1))


def test_two_runs_give_the_same_bits():
    inputs = _inputs(600, 3, _form(5), torch.float32, False, True)
    for first, second in zip(native.qrl_critic_forward(*inputs), native.qrl_critic_forward(*inputs), strict=True):
        assert torch.equal(first, second)


@WITH_GOAL
@pytest.mark.parametrize("dim_per_component", (4, 5))
def test_an_infinite_slope_of_a_maximum_reaches_only_its_component(dim_per_component, with_goal):
    inputs = _inputs(5, 3, _form(dim_per_component, "max"), torch.float32, with_goal, False)
    kept = list(reference.qrl_critic_forward(*inputs)[1:])
    kept[1][1, 2] = torch.inf
    arguments = torch.ones(()), *kept, None, inputs[0], with_goal, *inputs[6:9]
    actual = native.qrl_critic_backward(*arguments)
    assert_alike(actual, reference.qrl_critic_backward(*arguments))
    assert actual[0].isinf().any() and not actual[0].isnan().any()


@WITH_GOAL
@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("dim_per_component", (4, 5, 8, 16, 32))
def test_rows_in_half_precision_give_the_numbers_of_float32(dim_per_component, dtype, with_goal):
    inputs = _inputs(9, 3, _form(dim_per_component), torch.float32, with_goal, True)
    embeddings = [None if rows is None else rows.to(dtype) for rows in inputs[:3]]
    for prepared in (lambda x, y: (x, y), with_special_values):
        prepared(*embeddings[:2])
        results = []
        for rows in (embeddings, [None if rows is None else rows.float() for rows in embeddings]):
            kept = native.qrl_critic_forward(*rows, *inputs[3:])
            arguments = torch.tensor(-1.7), *kept[1:], inputs[3], rows[0], with_goal, *inputs[6:9]
            results.append((kept, native.qrl_critic_backward(*arguments)))
        (kept, grads), (expected, exact) = results
        assert_same(kept, expected)
        rounded = [None if grad is None else grad.to(dtype) for grad in exact[:3]]
        assert_same(grads, (*rounded, *exact[3:]))


@WITH_GOAL
def test_half_precision_reaches_the_kernels_without_a_copy(with_goal, monkeypatch):
    x, y = points(5, size=24, dtype=torch.float32)
    goal = {"goal": x.roll(1, dims=1)} if with_goal else {}

    def loss(x, y, goal=None):
        return qm.losses.qrl_critic(qm.nn.IQE(24, 8), x, y, torch.tensor(0.3), goal=goal).loss

    check_half_without_a_copy(monkeypatch, loss, x=x, y=y, **goal)


def test_half_precision_off_a_boundary_is_taken_too():
    inputs = _inputs(9, 3, _form(8), torch.float32, True, True)
    halves = [off_a_boundary(rows.bfloat16()) for rows in inputs[:3]]
    floats = [rows.float() for rows in halves]
    assert_alike(native.qrl_critic_forward(*halves, *inputs[3:]), reference.qrl_critic_forward(*floats, *inputs[3:]))
