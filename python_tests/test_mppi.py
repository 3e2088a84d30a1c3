"""Planning by MPPI: with known dynamics and distance it reaches its goals, and its promises hold."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qmkernels.agents import MPPI, QRL, QRLConfig
from qmkernels.agents.latent_planning import plan_cost
from qmkernels.agents.mppi import first_actions

SMALL = dict(encoder_sizes=(9,), projector_sizes=(9,), dynamics_sizes=(9,), actor_sizes=(9,), embedding_size=16)
SMALL |= dict(latent_size=7, dim_per_component=8)


class Along(nn.Module):
    """The distance between x and y along the given coordinates."""

    def __init__(self, *coordinates: int) -> None:
        super().__init__()
        self.coordinates = list(coordinates)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (x - y)[..., self.coordinates].norm(dim=-1)


def world_agent(*heads: nn.Module, **more) -> QRL:
    """Makes an agent in a plane where exactly z' = z + 0.1 a; goals are places."""
    torch.manual_seed(0)
    config = QRLConfig.online(latent_size=2, dynamics_sizes=(), actor_sizes=(9,), num_critics=len(heads))
    agent = QRL(2, 2, config, **more)
    for critic, head in zip(agent.critics, heads, strict=True):
        critic.encoder = critic.projector = nn.Identity()
        with torch.no_grad():
            critic.residual[0].weight.copy_(torch.tensor([[0.0, 0.0, 0.1, 0.0], [0.0, 0.0, 0.0, 0.1]]))
            critic.residual[0].bias.zero_()
        critic.head = head
    return agent


def distance_after(agent: QRL, policy, steps: int = 25) -> torch.Tensor:
    """Returns how far from their goals 33 walks end, in actions along an axis."""
    generator = torch.Generator().manual_seed(1)
    place, goal = (torch.rand(33, 2, generator=generator) * 2 - 1 for _ in range(2))
    for _ in range(steps):
        place = place + 0.1 * policy(place, goal)
    return (place - goal).norm(dim=-1) * 10


@pytest.mark.parametrize("step_weight", [0.0, 1.0])
@pytest.mark.parametrize("horizon", [1, 5])
def test_it_arrives_where_random_actions_do_not(horizon, step_weight):
    agent = world_agent(Along(0, 1))
    settings = MPPI(horizon=horizon, samples=64, temperature=0.05, step_weight=step_weight)
    generator = torch.Generator().manual_seed(0)
    arrived = distance_after(agent, lambda place, goal: agent.plan(place, goal, mppi=settings, generator=generator))
    wandered = distance_after(agent, lambda place, goal: torch.rand(33, 2, generator=generator) * 2 - 1)
    assert arrived.max() < 2.0 < wandered.mean() / 4


def test_it_follows_the_largest_of_the_critics_distances():
    settings = MPPI(horizon=2, samples=64, temperature=0.01)

    def ends(*heads: nn.Module) -> torch.Tensor:
        agent, generator = world_agent(*heads), torch.Generator().manual_seed(0)
        return distance_after(agent, lambda place, goal: agent.plan(place, goal, mppi=settings, generator=generator))

    assert ends(Along(0), Along(1)).max() < 2.0
    assert ends(Along(0)).mean() > 3.0


def test_costs_are_the_distances_along_the_way_with_the_last_in_full():
    torch.manual_seed(0)
    agent = QRL(4, 3, QRLConfig.online(**SMALL))
    observation, goal, plans = torch.randn(2, 4), torch.randn(2, 4), torch.rand(2, 5, 3, 3) * 2 - 1
    for critic in agent.critics:
        critic.residual[-1].weight.data.normal_()
    for weight in (0.0, 0.25):
        settings = MPPI(horizon=3, step_weight=weight)
        with torch.no_grad():
            costs = plan_cost(agent.critics, observation, goal, settings)(plans)
        for row in range(2):
            for sample in range(5):
                latents, expected = [critic.encoder(observation[row]) for critic in agent.critics], 0.0
                for step, action in enumerate(plans[row, sample]):
                    both = zip(agent.critics, latents, strict=True)
                    latents = [critic.dynamics(latent, action) for critic, latent in both]
                    distance = max(
                        critic.head(critic.projector(latent), critic.embed(goal[row])).item()
                        for critic, latent in zip(agent.critics, latents, strict=True)
                    )
                    expected += distance * (1.0 if step == 2 else weight)
                assert costs[row, sample].item() == pytest.approx(expected, rel=1e-5)


def test_a_weighted_mean_of_two_plans():
    cost = torch.tensor([0.0, 1.0])
    seen = []

    def costs(plans: torch.Tensor) -> torch.Tensor:
        seen.append(plans)
        return cost

    settings = MPPI(horizon=1, samples=2, iterations=1, temperature=0.5, noise_scale=0.1)
    action = first_actions(costs, torch.tensor([2.0]), torch.tensor([3.0]), (), settings)
    weights = torch.softmax(-cost / 0.5, dim=0)
    torch.testing.assert_close(action, (weights * seen[0][:, 0, 0]).sum().reshape(1))
    assert seen[0][0].item() == 2.0 != seen[0][1].item()


@pytest.mark.parametrize("goal_size", [None, 2])
@pytest.mark.parametrize("leading", [(), (1,), (7,), (2, 3)])
def test_shapes_seeds_and_ranges(leading, goal_size):
    torch.manual_seed(0)
    low, high = torch.tensor([-1.0, 0.1, 5.0]), torch.tensor([1.0, 0.7, 9.0])
    agent = QRL(4, 3, QRLConfig.online(**SMALL), goal_size=goal_size, action_low=low, action_high=high)
    settings = MPPI(horizon=3, samples=17, iterations=2, noise_scale=3.0)

    def plan(observation, goal, seed: int):
        return agent.plan(observation, goal, mppi=settings, generator=torch.Generator().manual_seed(seed))

    observation = torch.randn(*leading, 4)
    for goal in (torch.randn(*leading, goal_size or 4), torch.randn(goal_size or 4)):
        action = plan(observation, goal, 3)
        assert action.shape == (*leading, 3) and not action.requires_grad
        assert ((action >= low - 1e-6) & (action <= high + 1e-6)).all()
        assert torch.equal(action, plan(observation, goal, 3)) and not torch.equal(action, plan(observation, goal, 4))


def test_a_rows_plan_does_not_depend_on_the_other_rows():
    torch.manual_seed(0)
    agent, settings = QRL(4, 3, QRLConfig.online(**SMALL)), MPPI(horizon=3, samples=17)
    observation, goal = torch.randn(5, 4), torch.randn(5, 4)
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    together = agent.plan(observation, goal, mppi=settings, generator=generators[0])
    alone = agent.plan(observation[2], goal[2], mppi=settings, generator=generators[1])
    torch.testing.assert_close(together[2], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["horizon", "samples", "iterations", "temperature", "noise_scale"])
def test_settings_that_are_not_positive_are_named(name):
    with pytest.raises(ValueError, match=f"{name} must be positive, got 0"):
        MPPI(**{name: 0})


def test_what_cannot_be_planned_is_named():
    with pytest.raises(ValueError, match="step_weight must be at least 0"):
        MPPI(step_weight=-1.0)
    for discrete, candidates in ((True, None), (False, torch.rand(5, 3))):
        agent = QRL(4, 3, QRLConfig.online(**SMALL), discrete=discrete)
        with pytest.raises(ValueError, match="mppi needs continuous actions and no candidate_actions"):
            agent.plan(torch.zeros(4), torch.zeros(4), candidates, mppi=MPPI())
