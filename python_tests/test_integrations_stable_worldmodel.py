"""The planning cost for stable-worldmodel, with a stand-in for its protocols (protocols.py, August 2026)."""

from typing import Protocol, runtime_checkable

import pytest
import torch

import qmkernels as qm
from qmkernels.integrations.stable_worldmodel import DistanceCost

ENVIRONMENTS, CANDIDATES, HORIZON, DIM = 3, 7, 4, 16


@runtime_checkable
class Costable(Protocol):
    def criterion(self, info_dict, action_candidates): ...

    def get_cost(self, info_dict, action_candidates): ...


class Model(torch.nn.Module):
    """Latents are the sum of the actions so far, after one context frame, in a wider space."""

    def __init__(self):
        super().__init__()
        self.wide = torch.nn.Linear(2, DIM)

    def rollout(self, info_dict, action_candidates):
        start = info_dict["state"].unsqueeze(-2)
        info_dict["predicted_emb"] = self.wide(torch.cat([start, start + action_candidates.cumsum(dim=-2)], dim=-2))
        return info_dict


def encode_goal(model, info_dict):
    return model.wide(info_dict["goal"][:, 0])


def planning_problem():
    torch.manual_seed(0)
    info = {"state": torch.randn(ENVIRONMENTS, CANDIDATES, 2), "goal": torch.randn(ENVIRONMENTS, CANDIDATES, 1, 2)}
    return Model(), info, torch.randn(ENVIRONMENTS, CANDIDATES, HORIZON, 2, requires_grad=True)


@pytest.mark.parametrize("steps", ["last", "mean"])
def test_the_cost_is_each_candidates_distance_to_its_environments_goal(steps):
    model, info, candidates = planning_problem()
    head = qm.nn.IQE(DIM, 8)
    cost = DistanceCost(head, model, encode_goal=encode_goal, steps=steps)
    assert isinstance(cost, Costable)
    costs = cost.get_cost(dict(info), candidates)
    ahead = model.rollout(dict(info), candidates)["predicted_emb"]
    for environment in range(ENVIRONMENTS):
        goal = model.wide(info["goal"][environment, 0, 0])
        for candidate in range(CANDIDATES):
            path = head(ahead[environment, candidate], goal)
            wanted = path[-1] if steps == "last" else path.mean()
            torch.testing.assert_close(costs[environment, candidate], wanted)
    (grad,) = torch.autograd.grad(costs.sum(), candidates)  # plans by gradient need it
    assert (grad[..., 0, :] != 0).any(dim=-1).all()
    assert "model.wide.weight" in dict(cost.named_parameters())  # solvers take candidates' dtype from a parameter


def test_it_is_an_objective_of_what_was_rolled_out():
    model, info, candidates = planning_problem()
    cost = DistanceCost(qm.nn.IQE(DIM, 8))
    rolled = model.rollout({**info, "goal_emb": encode_goal(model, info)}, candidates)
    given = DistanceCost(cost.head, model).get_cost(dict(rolled), candidates)
    torch.testing.assert_close(cost(rolled), given)
    torch.testing.assert_close(cost.criterion(rolled, candidates), given)


def test_wrong_arguments_are_refused():
    head = qm.nn.IQE(DIM, 8)
    with pytest.raises(ValueError, match="steps must be one of"):
        DistanceCost(head, steps="first")
    with pytest.raises(ValueError, match="discount=0.9"):
        DistanceCost(qm.nn.IQE(DIM, 8, discount=0.9))
    with pytest.raises(ValueError, match="get_cost needs a model"):
        DistanceCost(head).get_cost({}, torch.zeros(1, 1, 1, 1))
    with pytest.raises(ValueError, match=r"goal_emb \(B, T_goal, D\), got \(2, 5, 3, 16\) and \(5, 1, 16\)"):
        DistanceCost(head)({"predicted_emb": torch.zeros(2, 5, 3, DIM), "goal_emb": torch.zeros(5, 1, DIM)})
    with pytest.raises(KeyError, match="goal_emb"):
        DistanceCost(head)({"predicted_emb": torch.zeros(2, 5, 3, DIM)})
