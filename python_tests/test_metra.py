"""METRA's loss as one op: against the loss composed of torch's own, on every backend, under torch."""

import pytest
import torch

import qmkernels as qm
from qmkernels.arguments.metra import MetraSettings
from qmkernels.backends import dispatch
from qmkernels.definitions.metra import NORMS
from qmkernels.ops.metra import composed

SLACK = 1e-3


def problem(*rows, dim, norm="sum", dtype=torch.float64):
    """Makes the leaves phi, phi_next, skill and log_multiplier; some steps are longer than one, others shorter."""
    generator = torch.Generator().manual_seed(dim)
    phi, step, skill = torch.randn(3, *rows, dim, dtype=torch.float64, generator=generator)
    length = torch.linspace(0.1, 2, step[..., 0].numel(), dtype=torch.float64).view(*rows, 1)
    step = length * torch.nn.functional.normalize(step, dim=-1) * (dim**0.5 if norm == "mean" else 1)
    log_multiplier = torch.tensor(0.3, dtype=torch.float64)
    return [tensor.to(dtype).requires_grad_() for tensor in (phi, phi + step, skill, log_multiplier)]


def loss_and_gradients(inputs, norm="sum", slack=SLACK):
    """Returns `metra`'s results and the gradients."""
    result = qm.losses.metra(*inputs, norm=norm, slack=slack)
    return *(value.detach() for value in result), *torch.autograd.grad(result.loss, inputs)


def plain_loss_and_gradients(inputs, norm="sum", slack=SLACK):
    """Returns the same from the formula."""
    phi, phi_next, skill, log_multiplier = inputs
    step = phi_next - phi
    reward = (step * skill).sum(dim=-1)
    squared = step.square().sum(dim=-1) if norm == "sum" else step.square().mean(dim=-1)
    constraint, multiplier = (1 - squared).clamp(max=slack).mean(), log_multiplier.detach().exp()
    loss = -reward.mean() - multiplier * constraint + log_multiplier * constraint.detach()
    result = loss, reward, constraint, multiplier, squared.mean()
    return *(value.detach() for value in result), *torch.autograd.grad(loss, inputs)


# Rows shorter than a vector of lanes, whole vectors, and both; one row; more tasks than one; an ensemble.
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("rows, dim", [((1,), 1), ((256,), 2), ((9,), 7), ((33,), 16), ((2, 3, 5), 40), ((123,), 507)])
def test_the_fused_loss_equals_its_formula(rows, dim, norm, dtype, backend):
    inputs = problem(*rows, dim=dim, norm=norm, dtype=dtype)
    tolerance = {"rtol": 1e-10, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 2e-5, "atol": 2e-6}
    torch.testing.assert_close(loss_and_gradients(inputs, norm), plain_loss_and_gradients(inputs, norm), **tolerance)


@pytest.mark.parametrize("slack", [0.0, 0.75, 1.0])
def test_where_the_constraint_equals_the_slack_the_gradient_passes_as_in_clamp(slack, backend):
    phi_next = (1 - slack) ** 0.5 * torch.eye(3, 4, dtype=torch.float64)
    inputs = [torch.zeros_like(phi_next), phi_next, torch.zeros_like(phi_next), torch.tensor(0.3, dtype=torch.float64)]
    inputs = [tensor.requires_grad_() for tensor in inputs]
    result = loss_and_gradients(inputs, slack=slack)
    torch.testing.assert_close(result, plain_loss_and_gradients(inputs, slack=slack))
    assert result[-3].any() == (slack != 1)  # with a step of zero the gradient is zero


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("place", range(4), ids=["phi", "phi_next", "skill", "log_multiplier"])
def test_what_is_not_finite_gives_what_the_formula_gives(place, value, backend):
    inputs = problem(20, dim=21)
    with torch.no_grad():
        inputs[place][(2, 3) if place < 3 else ()] = value
    result, plain = loss_and_gradients(inputs), plain_loss_and_gradients(inputs)
    torch.testing.assert_close(result, plain, equal_nan=True)
    assert not result[0].isfinite()


def test_second_derivatives_are_those_of_the_formula(backend):
    inputs = problem(5, dim=3)
    results = []
    for loss in (qm.losses.metra(*inputs).loss, composed(*inputs, *MetraSettings(SLACK))[0]):
        first = torch.autograd.grad(loss, inputs, create_graph=True)
        results.append(torch.autograd.grad(sum(grad.sin().sum() for grad in first[:3]), inputs[:3]))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("dim", [2, 513])
def test_results_do_not_depend_on_the_number_of_threads(dim):
    threads, runs = torch.get_num_threads(), []
    inputs = problem(20_000 if dim == 2 else 700, dim=dim, dtype=torch.float32)
    try:
        for count in (1, 3, threads):
            torch.set_num_threads(count)
            runs.append(loss_and_gradients(inputs))
    finally:
        torch.set_num_threads(threads)
    for other in runs[1:]:
        assert all(torch.equal(first, second) for first, second in zip(runs[0], other, strict=True))


def test_nothing_of_the_inputs_size_is_kept_or_made_in_between():
    if reason := dispatch.why_not("cpu", "metra", "cpu"):
        pytest.skip(reason)
    inputs = problem(64, dim=512, dtype=torch.float32)[:2] + [torch.randn(64, 512), torch.tensor(0.3)]
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(profile_memory=True, activities=activities) as profile:
        loss = qm.losses.metra(*inputs).loss
        grads = torch.autograd.grad(loss, inputs[:2])
    sizes = [e.nbytes() for e in profile.profiler.kineto_results.events() if e.name() == "[memory]" and e.nbytes() > 0]
    assert sum(size >= grads[0].nbytes for size in sizes) == len(grads)


@pytest.mark.parametrize("dim", [1, 16])
def test_float32_sums_over_many_rows_keep_their_digits(dim):
    phi, phi_next, _, log_multiplier = (tensor.detach() for tensor in problem(300_000, dim=dim, dtype=torch.float32))
    inputs = phi, phi_next, phi_next - phi, log_multiplier
    exact = qm.losses.metra(*(tensor.double() for tensor in inputs))
    result = qm.losses.metra(*inputs)
    for name in ("loss", "constraint", "multiplier", "distance"):
        torch.testing.assert_close(getattr(result, name).double(), getattr(exact, name), rtol=1e-7, atol=0, msg=name)
