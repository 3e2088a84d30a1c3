"""The GCBC agent: it learns the data's actions by their goals, keeps to the range, and its state goes on."""

from __future__ import annotations

import pytest
import torch

from qmkernels.agents import GCBC, GCBCConfig

SMALL = GCBCConfig.small(actor_sizes=(33,), actor_learning_rate=1e-2)


def agent_of(config: GCBCConfig = SMALL, seed: int = 0, **kind) -> GCBC:
    torch.manual_seed(seed)
    return GCBC(4, 2, config, **kind)


def batch_for(agent: GCBC, size: int = 33, seed: int = 1) -> dict[str, torch.Tensor]:
    """The action goes half the way, in two coordinates, from state to goal."""
    generator = torch.Generator().manual_seed(seed)
    state, goal = torch.rand(2, size, 4, generator=generator)
    batch = {"observation": state, "action": (goal - state)[:, :2] / 2, "next_observation": state}
    return {**batch, "goal": goal[:, : agent.goal_size or 4]}


@pytest.mark.parametrize("kind", [{}, {"goal_size": 2}], ids=["observation goals", "set goals"])
def test_actions_towards_goals_are_learned_from_rows_that_were_not_seen_in_training(kind):
    agent = agent_of(**kind)
    agent.standardise(*(batch_for(agent, 507, 0)[name] for name in ("observation", "goal")))
    before = agent.update(batch_for(agent, 123, 1))["actor/log_prob"]
    for seed in range(2, 300):
        metrics = agent.update(batch_for(agent, 123, seed))
    assert metrics["actor/log_prob"] > before + 2
    batch = batch_for(agent, 123, 1000)
    found = agent.act(batch["observation"], batch["goal"], deterministic=True)
    assert (found - batch["action"]).abs().mean() < 0.1 * batch["action"].abs().mean() + 0.02


@pytest.mark.parametrize("leading", [(), (7,), (2, 3)])
def test_actions_have_the_shape_of_their_rows_and_stay_in_their_range(leading):
    low, high = torch.tensor([-1.0, 5.0]), torch.tensor([1.0, 9.0])
    agent = agent_of(action_low=low, action_high=high)
    for deterministic in (False, True):
        action = agent.act(10 * torch.randn(*leading, 4), torch.randn(4), deterministic)
        assert action.shape == (*leading, 2) and ((action >= low) & (action <= high)).all()


def test_a_saved_state_goes_on_bit_for_bit_and_another_agents_is_refused():
    agent, other = agent_of(), agent_of(seed=5)
    batch = batch_for(agent)
    for _ in range(3):
        agent.update(batch)
    other.load_state_dict(agent.state_dict())
    for each in (agent, other):
        each.update(batch)
    for one, two in zip(agent.networks.parameters(), other.networks.parameters(), strict=True):
        assert torch.equal(one, two)
    with pytest.raises(ValueError, match="GCBC.load_state_dict: .*goal_size is None there, 2 here"):
        agent_of(goal_size=2).load_state_dict(agent.state_dict())


def test_what_is_wrong_is_named():
    with pytest.raises(ValueError, match="GCBCConfig: actor_learning_rate must be positive, got 0"):
        GCBCConfig.published(actor_learning_rate=0)
    agent = agent_of()
    batch = batch_for(agent)
    del batch["goal"]
    with pytest.raises(ValueError, match="GCBC.update: the batch lacks goal"):
        agent.update(batch)
