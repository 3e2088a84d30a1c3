"""The CRL agent: its loss follows the formula, and its logits learn the odds of goals."""

from __future__ import annotations

import math

import torch
from agent_cases import line_batch
from torch.nn import functional

from qmkernels.agents import CRL, CRLConfig
from qmkernels.agents.crl import InnerProduct

SMALL = dict(critic_sizes=(33,), actor_sizes=(33,), latent_size=32)


def agent_of(config: CRLConfig | None = None, seed: int = 0, **kind) -> CRL:
    torch.manual_seed(seed)
    return CRL(4, 3, config or CRLConfig.small(**SMALL), **kind)


NUM_STATES, DISCOUNT = 7, 0.7


def ring_batch(size: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Walks that keep their direction around a ring; the goal is k steps after the next state, k with weight
    discount^k.
    """
    state = torch.randint(NUM_STATES, (size,), generator=generator)
    action = torch.rand(size, 1, generator=generator) * 2 - 1
    steps = 1 + torch.multinomial(DISCOUNT ** torch.arange(NUM_STATES), size, replacement=True, generator=generator)
    way = action.sign().long().squeeze(-1)
    others = torch.randint(NUM_STATES, (size,), generator=generator)
    places = {"observation": state, "next_observation": state + way, "goal": state + way * steps, "actor_goal": others}
    rows = {name: functional.one_hot(place % NUM_STATES, NUM_STATES).float() for name, place in places.items()}
    return {**rows, "action": action}


def test_on_a_ring_logits_are_the_log_odds_of_goals_and_larger_for_the_shorter_way():
    """The optimum of the loss: the log of p(g after s, a) / p(g), minus the log of the number of other goals."""
    torch.manual_seed(0)
    size, generator = 128, torch.Generator().manual_seed(0)
    sizes = dict(critic_sizes=(64,), actor_sizes=(64,), latent_size=16, behaviour_cloning_weight=0.0)
    agent = CRL(NUM_STATES, 1, CRLConfig(**sizes))
    for rate in (5e-3, 5e-4):  # the smaller one for the remaining noise
        agent.optimizers["critic"].param_groups[0]["lr"] = rate
        for _ in range(400):
            agent.update(ring_batch(size, generator))
    states = torch.eye(NUM_STATES)
    steps = (torch.arange(NUM_STATES) - torch.arange(NUM_STATES)[:, None]) % NUM_STATES  # to the right, 0 for none
    logits = []
    for action, forward in ((0.75, steps), (-0.75, -steps % NUM_STATES)):
        with torch.no_grad():
            phi = agent.critic.phi(states, torch.full((NUM_STATES, 1), action))
            logit = agent.logit(phi[:, :, None], agent.critic.psi(states)[:, None])
        share = DISCOUNT ** ((forward - 1) % NUM_STATES) * (1 - DISCOUNT) / (1 - DISCOUNT**NUM_STATES)
        expected = (share * NUM_STATES).log() - math.log(size - 1)
        assert (logit - expected).abs().max() < 1.5 and (logit - expected).abs().mean() < 0.3
        logits.append(logit)
    is_clear = torch.isin(
        steps, torch.tensor([1, 2, NUM_STATES - 2, NUM_STATES - 1])
    )  # others are equally far both ways
    assert torch.equal((logits[0] > logits[1])[is_clear], (steps <= NUM_STATES // 2)[is_clear])


def test_the_critics_loss_is_binary_cross_entropy_of_inner_products_over_the_root_of_their_size():
    agent = agent_of()
    batch = line_batch(agent)
    phi, psi = agent.critic.phi(batch["observation"], batch["action"]), agent.critic.psi(batch["goal"])
    logits = torch.einsum("eik,ejk->eij", phi, psi) / math.sqrt(32)
    expected = functional.binary_cross_entropy_with_logits(logits, torch.eye(33).expand(2, -1, -1))
    loss, metrics = agent.critic_loss(batch)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(metrics["critic/positive"], logits.diagonal(dim1=1, dim2=2).mean())
    torch.testing.assert_close(agent.logit(phi, psi), logits.diagonal(dim1=1, dim2=2).amin(dim=0))


def test_the_inner_product_of_pairs_is_that_of_rows():
    x, y = torch.randn(2, 7, 33), torch.randn(2, 5, 33)
    pairs = InnerProduct().pairwise(x, y)
    torch.testing.assert_close(pairs, InnerProduct()(x[:, :, None], y[:, None]))
    assert pairs.shape == (2, 7, 5) and pairs.min() < 0 < pairs.max()
