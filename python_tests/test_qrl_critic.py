"""QRL's critic as one op: against the loss composed of distances, on every backend, under torch."""

import pytest
import torch

import qmkernels as qm

# Distances on both sides of the softplus's offset and of the cost.
OPTIONS = {"softplus_beta": 0.3, "softplus_offset": 3.0}


def problem(rows, dim, has_goal=False, dtype=torch.float64):
    generator = torch.Generator().manual_seed(rows + dim)
    x, y, goal = (torch.randn(rows, dim, dtype=dtype, generator=generator).requires_grad_() for _ in range(3))
    raw = torch.tensor(0.3, dtype=dtype, requires_grad=True)
    cost = torch.rand(rows, dtype=dtype, generator=generator) if has_goal else 1.0
    return x, y, raw, {"goal": goal if has_goal else None, "cost": cost, **OPTIONS}


def loss_and_gradients(head, x, y, raw, options):
    result = qm.losses.qrl_critic(head, x, y, raw, **options)
    goal = [] if options["goal"] is None else [options["goal"]]
    return *result, *torch.autograd.grad(result.loss, [x, y, raw, *goal, *head.parameters()])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("has_goal", [False, True], ids=["rolled", "goal"])
@pytest.mark.parametrize("reduction", ["sum", "mean", "max", "maxmean", "maxmean_ogbench"])
@pytest.mark.parametrize(
    "size, count, rows", [(1, 3, 4), (4, 5, 9), (5, 2, 3), (8, 64, 40), (16, 1, 2), (32, 2, 7), (33, 3, 6)]
)
def test_the_fused_critic_equals_the_composed_one(size, count, rows, reduction, has_goal, dtype, backend, monkeypatch):
    head = qm.nn.IQE(count * size, size, reduction=reduction).to(dtype)
    arguments = problem(rows, count * size, has_goal, dtype)
    assert head.fused_iqe(arguments[0]) is not None
    fused = loss_and_gradients(head, *arguments)
    monkeypatch.setattr(type(head), "fused_iqe", lambda self, x: None)
    composed = loss_and_gradients(head, *arguments)
    tolerance = {"rtol": 1e-10, "atol": 1e-11} if dtype == torch.float64 else {"rtol": 2e-5, "atol": 5e-6}
    torch.testing.assert_close(fused, composed, **tolerance)


@pytest.mark.parametrize("multiplier", ["softplus", "exp"])
@pytest.mark.parametrize("raw", [-40.0, -1.0, 0.0, 30.0])
def test_the_multiplier_and_its_reversed_gradient(raw, multiplier, backend):
    head = qm.nn.IQE(16, 8).double()
    x, y, _, options = problem(6, 16)
    raw = torch.tensor(raw, dtype=torch.float64, requires_grad=True)
    result = qm.losses.qrl_critic(head, x, y, raw, multiplier=multiplier, epsilon=0.3, **options)
    weight = torch.nn.functional.softplus(raw) if multiplier == "softplus" else raw.exp()
    excess = result.violation - 0.09
    torch.testing.assert_close(result.loss, result.push + weight * excess)
    torch.testing.assert_close(torch.autograd.grad(result.loss, raw)[0], -torch.autograd.grad(weight, raw)[0] * excess)


def test_nan_in_a_row_gives_nan_and_other_rows_keep_their_gradients(backend):
    head = qm.nn.IQE(16, 8, reduction="sum").double()
    x, y, raw, options = problem(6, 16)
    with torch.no_grad():
        x[2, 3] = torch.nan
    result = qm.losses.qrl_critic(head, x, y, raw, **options)
    assert result.loss.isnan()
    of_x, of_y = (grad.isnan() for grad in torch.autograd.grad(result.loss, (x, y)))
    for nan, rows in ((of_x, [2]), (of_y, [1, 2])):  # row 1 of y is row 2's goal
        assert nan[rows, :8].all() and nan.any(dim=1).nonzero().flatten().tolist() == rows


@pytest.mark.parametrize("has_goal", [False, True], ids=["rolled", "goal"])
@pytest.mark.parametrize("size", [1, 8, 33])
@pytest.mark.parametrize("reduction", ["sum", "maxmean"])
def test_nan_in_a_goal_gives_nan_to_its_component_in_every_row_that_has_it(size, reduction, has_goal, backend):
    head = qm.nn.IQE(2 * size, size, reduction=reduction).double()
    x, y, raw, options = problem(6, 2 * size, has_goal)
    to = options["goal"] if has_goal else y
    with torch.no_grad():
        to[2, size] = torch.nan
    result = qm.losses.qrl_critic(head, x, y, raw, **options)
    of_x, of_to = (grad.isnan() for grad in torch.autograd.grad(result.loss, (x, to)))
    for nan, rows in ((of_x, [2] if has_goal else [2, 3]), (of_to, [2])):
        assert nan[rows, size:].all() and nan.any(dim=1).nonzero().flatten().tolist() == rows


@pytest.mark.parametrize("cost", [0.5, torch.linspace(0, 2, 6), torch.tensor(0.5)])
def test_costs_may_be_a_number_or_one_per_row(cost, backend):
    head = qm.nn.IQE(16, 8)
    x, y, raw, _ = problem(6, 16, dtype=torch.float32)
    result = qm.losses.qrl_critic(head, x, y, raw, cost=cost)
    torch.testing.assert_close(result.violation, (head(x, y) - cost).relu().square().mean().detach())


@pytest.mark.parametrize("has_goal", [False, True], ids=["rolled", "goal"])
def test_float32_sums_over_many_rows_keep_their_digits(has_goal):
    head = qm.nn.IQE(16, 8)
    x, y, raw, options = problem(200_000, 16, has_goal, dtype=torch.float32)
    actual = loss_and_gradients(head, x, y, raw, options)
    doubled = {name: value.double() if torch.is_tensor(value) else value for name, value in options.items()}
    exact = loss_and_gradients(head.double(), *(tensor.double() for tensor in (x, y, raw)), doubled)
    single_numbers = [(value, other) for value, other in zip(actual, exact, strict=True) if value.dim() == 0]
    assert len(single_numbers) == 8  # loss, five statistics, the gradients by raw and by the weight of the maximum
    for value, other in single_numbers:
        torch.testing.assert_close(value.detach().double(), other.detach(), rtol=5e-7, atol=0)


@pytest.mark.parametrize("has_goal", [False, True], ids=["rolled", "goal"])
@pytest.mark.parametrize("size", [4, 5, 33])
def test_the_overflowing_slope_of_a_maximum_leaves_other_components_numbers(size, has_goal, backend):
    # Violation and slope of row 2 are infinite; random cases found NaN at the ends of all its components.
    head, (x, y, raw, options) = (
        qm.nn.IQE(3 * size, size, reduction="max"),
        problem(6, 3 * size, has_goal, torch.float32),
    )
    with torch.no_grad():
        x[2, size] = -torch.inf
    result = loss_and_gradients(head, x, y, raw, options)
    assert result[0].isinf()
    for grad in result[6:8]:
        components = grad.unflatten(-1, (3, size))
        assert components[:, [0, 2]].isfinite().all()
    assert result[6][2, size] == -torch.inf
