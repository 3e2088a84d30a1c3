"""The GCBC agent: it learns the data's actions, given their goals."""

from __future__ import annotations

import pytest
import torch

from qmkernels.agents import GCBC, GCBCConfig

SMALL = GCBCConfig.small(actor_sizes=(33,), actor_learning_rate=1e-2)


def agent_of(config: GCBCConfig = SMALL, seed: int = 0, **kind) -> GCBC:
    torch.manual_seed(seed)
    return GCBC(4, 2, config, **kind)


def batch_for(agent: GCBC, size: int = 33, seed: int = 1) -> dict[str, torch.Tensor]:
    """The action covers half the way from state to goal, in two coordinates."""
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
    action = agent.act(batch["observation"], batch["goal"], deterministic=True)
    assert (action - batch["action"]).abs().mean() < 0.1 * batch["action"].abs().mean() + 0.02
