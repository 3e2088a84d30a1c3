"""The TMD agent: its loss is that of its embeddings, and the temporal term does its job."""

from __future__ import annotations

import pytest
import torch
from agent_cases import line_batch

import qmkernels as qm
from qmkernels.agents import TMD, TMDConfig

SMALL = dict(critic_sizes=(33,), actor_sizes=(33,), latent_size=32, num_components=4)


def agent_of(config: TMDConfig | None = None, seed: int = 0, **kind) -> TMD:
    torch.manual_seed(seed)
    return TMD(4, 3, config or TMDConfig.small(**SMALL), **kind)


def test_the_temporal_term_brings_distances_nearer_to_the_backup():
    invariance = {}
    for zeta in (0.0, 5.0):
        agent = agent_of(TMDConfig.small(**SMALL, zeta=zeta))
        history = [agent.update(line_batch(agent, 123, seed)) for seed in range(150)]
        invariance[zeta] = torch.stack([metrics["critic/temporal_invariance"] for metrics in history[-10:]]).mean()
    assert invariance[5.0] < invariance[0.0] - 0.02


@pytest.mark.parametrize("scale", [None, 1.0])
def test_the_critic_is_the_loss_of_its_embeddings(scale: float | None):
    agent = agent_of(TMDConfig.small(**SMALL, contrastive_scale=scale))
    batch = line_batch(agent)
    state, critic = agent.state_inputs(batch["observation"]), agent.critic
    rows = (critic.psi(agent.goal_inputs(batch[name])) for name in ("observation", "next_observation", "goal"))
    expected = qm.losses.tmd_critic(critic.head, critic.phi(state, batch["action"]), *rows, scale=scale)
    torch.testing.assert_close(agent.critic_loss(batch)[0], expected.loss)


def test_a_discount_above_1_is_named():
    with pytest.raises(ValueError, match="TMDConfig: discount must be at most 1, got 1.5"):
        TMDConfig.published(discount=1.5)
