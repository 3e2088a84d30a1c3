"""The Triton functions of QRL's critic, on a GPU where there is one, else under the interpreter."""

from __future__ import annotations

import pytest
import torch
from backend_comparison import HALF, assert_alike, assert_same, with_special_values
from triton_testing import DEVICE, assert_rounded, import_kernels, interpreted, points

import qmkernels as qm
from qmkernels.arguments.qrl_critic import QrlCriticSettings
from qmkernels.backends.reference import qrl_critic as reference
from qmkernels.definitions.iqe import WEIGHT_LINKS

kernels = import_kernels("qrl_critic")
pytestmark = interpreted
CASES = [(reduction, torch.float32) for reduction in ("sum", "mean", "max", "maxmean", "spread")]
CASES += [(reduction, torch.float64) for reduction in ("sum", "maxmean")]
WITH_GOAL = pytest.mark.parametrize("with_goal", (False, True), ids=("rolled", "goal"))


def _inputs(rows, num_components, form, dtype=torch.float64, with_goal=True, cost_of_each=True) -> list:
    """Makes the arguments of the two forward functions. Offset and cost lie amid the distances: no term is flat for all
    rows."""
    x, y = points(rows, size=num_components * form.dim_per_component, dtype=dtype)
    goal = x.roll(1, dims=1) + 0.3 if with_goal else None
    max_weight = torch.tensor(0.3, dtype=dtype, device=DEVICE) if form.reduction == "maxmean" else None
    to_goal, local = reference.definition.distances(x, y, goal, max_weight, form)
    cost = local.flip(0) if cost_of_each else local.mean().reshape(1)
    form = form._replace(softplus_offset=to_goal.mean().item())
    return [x, y, goal, max_weight, torch.tensor(0.4, dtype=dtype, device=DEVICE), cost.contiguous(), *form]


def _form(dim_per_component, reduction="maxmean", multiplier="softplus", link="one_minus_sigmoid") -> QrlCriticSettings:
    return QrlCriticSettings(dim_per_component, reduction, link, 0.7, 0.0, multiplier, 0.1)


def _agree(inputs: list) -> tuple[torch.Tensor, ...]:
    """Compares all that both functions return, and returns the gradients."""
    kept = reference.qrl_critic_forward(*inputs)
    assert_alike(kernels.qrl_critic_forward(*inputs), kept)
    goal, max_weight, *_ = inputs[2:]
    grad_loss = torch.tensor(-1.7, dtype=kept[0].dtype, device=DEVICE)
    # As ops do, empty tensors for what is not kept.
    kept = [torch.empty(0, device=DEVICE) if tensor is None else tensor for tensor in kept]
    arguments = grad_loss, *kept[1:], max_weight, inputs[0], goal is not None, *inputs[6:9]
    grads = kernels.qrl_critic_backward(*arguments)
    assert_alike(grads, reference.qrl_critic_backward(*arguments))
    return grads


@WITH_GOAL
@pytest.mark.parametrize("reduction, dtype", CASES)
@pytest.mark.parametrize("dim_per_component", (1, 5, 8))
def test_the_loss_and_its_gradients_are_those_of_the_reference(dim_per_component, reduction, dtype, with_goal):
    form = _form(dim_per_component, reduction, "exp" if with_goal else "softplus")
    _agree(_inputs(7, 3, form, dtype, with_goal, cost_of_each=not with_goal))


@WITH_GOAL
@pytest.mark.parametrize("dim_per_component", (3, 16, 32, 77))
def test_any_size_of_a_component_is_taken(dim_per_component, with_goal):
    _agree(_inputs(3, 3, _form(dim_per_component), with_goal=with_goal))


# A row that is its own goal, two that are each other's, and rows one below, at and one above the 256 of a program; the
# last have more distances than a block of the weight's gradient.
@pytest.mark.parametrize("rows", (1, 2, 255, 256, 257, 520))
def test_any_number_of_rows_is_added_up(rows):
    assert kernels.row_tile(2, 2)["ROWS"] == 256
    _agree(_inputs(rows, 2, _form(2), with_goal=False))


def test_more_programs_than_a_block_are_added_up():
    programs = kernels.SUM_BLOCK + 1
    sums = torch.rand(4, programs, dtype=torch.float64, device=DEVICE)
    raw, loss, stats = sums.new_zeros(()), sums.new_empty(()), sums.new_empty(6)
    constants = {"MULTIPLIER": "exp", "THRESHOLD": 0.1, "BLOCK": kernels.SUM_BLOCK}
    kernels.qrl_critic_sums_kernel[(1,)](sums, raw, loss, stats, programs, programs, **constants)
    assert_alike((stats[[0, 1, 3, 4]],), (sums.mean(dim=1),))


# Components one below, at and one above the 128 of a program.
@WITH_GOAL
@pytest.mark.parametrize("num_components", (127, 128, 129))
def test_any_number_of_components_is_reduced(num_components, with_goal):
    assert kernels.row_tile(num_components, 8)["BLOCK_C"] == 128
    _agree(_inputs(2, num_components, _form(8), with_goal=with_goal))


@pytest.mark.parametrize("link", WEIGHT_LINKS)
def test_any_link_leads_to_the_gradient_by_its_weight(link):
    grad_max_weight = _agree(_inputs(9, 4, _form(4, link=link)))[3]
    assert grad_max_weight != 0


@WITH_GOAL
@pytest.mark.parametrize("value", (torch.nan, torch.inf, -torch.inf))
@pytest.mark.parametrize("place", (0, 1, 5), ids=("x", "y", "cost"))
def test_what_is_not_finite_gives_what_the_reference_gives(place, value, with_goal):
    inputs = _inputs(7, 3, _form(5, "maxmean" if value != value else "max"), with_goal=with_goal)
    inputs[place][(2,) if place == 5 else (2, 6)] = value
    _agree(inputs)


@pytest.mark.parametrize("raw", (-800.0, -40.0, 0.0, 40.0, torch.inf, torch.nan))
@pytest.mark.parametrize("multiplier", ("softplus", "exp"))
def test_any_raw_multiplier_is_taken(multiplier, raw):
    inputs = _inputs(5, 2, _form(4, multiplier=multiplier))
    inputs[4].fill_(raw)
    _agree(inputs)


def test_two_runs_give_the_same_bits():
    inputs = _inputs(70, 3, _form(3), torch.float32, with_goal=False)
    runs = [kernels.qrl_critic_forward(*inputs) for _ in range(2)]
    assert all(torch.equal(first, second) for first, second in zip(*runs, strict=True))


def test_public_function_runs_on_this_backend():
    x, y = points(9, size=24, dtype=torch.float64)
    raw = torch.tensor(0.4, dtype=torch.float64, device=DEVICE, requires_grad=True)
    head = qm.nn.IQE(24, 8).to(DEVICE, torch.float64)
    leaves = [x.requires_grad_(), y.requires_grad_(), raw, *head.parameters()]
    results = []
    for backend in ("triton", "reference"):
        with qm.use_backend(backend):
            result = qm.losses.qrl_critic(head, x, y, raw)
        results.append((*(tensor.detach() for tensor in result), *torch.autograd.grad(result.loss, leaves)))
    assert_alike(*results)


@WITH_GOAL
@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("dim_per_component", (5, 8))
def test_rows_in_half_precision_give_the_numbers_of_float32(dim_per_component, dtype, with_goal):
    inputs = _inputs(9, 3, _form(dim_per_component), torch.float32, with_goal)
    embeddings = [None if rows is None else rows.to(dtype) for rows in inputs[:3]]
    for prepared in (lambda x, y: (x, y), with_special_values):
        prepared(*embeddings[:2])
        results = []
        for rows in (embeddings, [None if rows is None else rows.float() for rows in embeddings]):
            kept = kernels.qrl_critic_forward(*rows, *inputs[3:])
            grad_loss = torch.tensor(-1.7, device=DEVICE)
            arguments = grad_loss, *kept[1:], inputs[3], rows[0], with_goal, *inputs[6:9]
            results.append((kept, kernels.qrl_critic_backward(*arguments)))
        (kept, (*grads, of_weight, of_raw)), (expected, (*exact, exact_of_weight, exact_of_raw)) = results
        assert_same((*kept, of_weight, of_raw), (*expected, exact_of_weight, exact_of_raw))
        count = 3 if with_goal else 2
        assert_rounded(grads[:count], exact[:count], dtype)
