"""Planning costs: candidates over a horizon against one goal per environment, in one call and without copies."""

import pytest
import torch

import qmkernels as qm
from qmkernels import measurement

ENVIRONMENTS, CANDIDATES, HORIZON = 3, 41, 5


def points(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


HEADS = {
    "IQE": lambda: qm.nn.IQE(48, 8),
    "IQE K=1": lambda: qm.nn.IQE(48, 1, reduction="maxmean_ogbench"),
    "IQE sum": lambda: qm.nn.IQE(48, 12, reduction="sum"),
    "LatentMRN": lambda: qm.nn.LatentMRN(48),
    "LatentMRN to minus from": lambda: qm.nn.LatentMRN(48, preset="x_jepa", to_minus_from=True),
    "MRNFixed": lambda: qm.nn.MRNFixed(48),
    "PQELH": lambda: qm.nn.PQELH(48),
    "PQELH mean": lambda: qm.nn.PQELH(48, 6, reduction="mean"),
    "PQEGG": lambda: qm.nn.PQEGG(48),
    "WideNorm": lambda: qm.nn.WideNorm(48, 4),
}


def with_gradients(distance, head, candidates, goal):
    candidates, goal = candidates.clone().requires_grad_(), goal.clone().requires_grad_()
    out = distance(candidates, goal)
    weights = torch.arange(out.numel(), dtype=out.dtype).cos().view_as(out)
    return out, *torch.autograd.grad(out, [candidates, goal, *head.parameters()], weights)


@pytest.mark.parametrize("order", ["to the goal", "from the goal"])
@pytest.mark.parametrize("name", HEADS)
def test_a_cost_and_its_gradients_are_those_of_copied_goals(name, order):
    torch.manual_seed(0)
    head = HEADS[name]().double()
    candidates = points(ENVIRONMENTS, CANDIDATES, HORIZON, 48)
    goal = points(ENVIRONMENTS, 1, 1, 48, seed=1)
    distance = head if order == "to the goal" else lambda x, y: head(y, x)
    copied = lambda x, y: distance(x, y.expand_as(x).contiguous())  # noqa: E731
    found = with_gradients(distance, head, candidates, goal)
    assert found[0].shape == (ENVIRONMENTS, CANDIDATES, HORIZON)
    for one, expected in zip(found, with_gradients(copied, head, candidates, goal), strict=True):
        torch.testing.assert_close(one, expected)


@pytest.mark.parametrize("order", ["to the goal", "from the goal"])
@pytest.mark.parametrize("name", ["IQE", "LatentMRN", "PQELH"])
def test_a_cost_takes_no_memory_of_the_candidates_size(name, order):
    head = HEADS[name]().requires_grad_(False)  # as a planner holds it
    candidates, goal = points(8, 3000, 5, 48, dtype=torch.float32), points(8, 1, 1, 48, seed=1, dtype=torch.float32)
    size = candidates.numel() * 4

    def cost(candidates):
        return head(candidates, goal) if order == "to the goal" else head(goal, candidates)

    def gradient():
        return torch.autograd.grad(cost(candidates.requires_grad_()).sum(), candidates)

    with torch.no_grad():
        cost(candidates)
        forward = measurement.peak_mib(lambda: cost(candidates), size // 48, torch.device("cpu"))
    gradient()
    backward = measurement.peak_mib(gradient, size, torch.device("cpu"))
    if forward is None:
        pytest.skip("the system does not tell the peak of a process's memory")
    assert forward * 2**20 < size / 4, forward
    assert backward * 2**20 < size / 4, backward
