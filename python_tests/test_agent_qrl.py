"""The QRL agent: multipliers, dynamics, costs and links to goals, plans, densities, and compiled losses."""

from __future__ import annotations

import functools
import math

import pytest
import torch

from qmkernels.agents import QRL, QRLConfig
from qmkernels.agents.goal_actor import TanhNormal
from qmkernels.agents.networks import FourierFeatures

SMALL = dict(
    encoder_sizes=(33,), latent_size=16, projector_sizes=(33,), embedding_size=48, dim_per_component=8,
    dynamics_sizes=(33,), actor_sizes=(33,), entropy_samples=8,
)  # fmt: skip
KINDS = {"observation goals": {}, "set goals": {"goal_size": 2}, "discrete": {"discrete": True}}
KINDS["discrete, set goals"] = {"goal_size": 2, "discrete": True}


def agent_of(config: QRLConfig | None = None, seed: int = 0, **kind) -> QRL:
    torch.manual_seed(seed)
    return QRL(4, 3, config or QRLConfig.online(**SMALL), **kind)


def batch_for(agent: QRL, size: int = 33, seed: int = 1) -> dict[str, torch.Tensor]:
    """Steps along a line: an action moves every coordinate by its sum."""
    generator = torch.Generator().manual_seed(seed)
    goal_size = agent.goal_size or agent.observation_size
    state = torch.randn(size, 4, generator=generator)
    action = torch.rand(size, 3, generator=generator) * 2 - 1
    following = state + 0.2 * action.sum(dim=-1, keepdim=True)
    goal = torch.randn(size, goal_size, generator=generator)
    if agent.discrete:
        action = torch.randint(3, (size,), generator=generator)
    rows = {"observation": state, "action": action, "next_observation": following, "reward": -torch.ones(size)}
    return {**rows, "goal": goal, "achieved_goal": following[:, :goal_size]}


TOY = {**SMALL, "critic_learning_rate": 3e-3, "initial_multiplier": 5.0, "multiplier_learning_rate": 1e-9}


def test_the_multiplier_rises_where_steps_are_too_long_and_falls_where_they_are_not():
    agent = agent_of()
    batch = batch_for(agent)
    before = agent.critics[0].raw_multiplier.item()
    agent.update({**batch, "next_observation": batch["observation"]})
    assert agent.critics[0].raw_multiplier.item() < before
    with torch.no_grad():
        agent.critics[0].projector[-1].weight.mul_(1e3)
    before = agent.critics[0].raw_multiplier.item()
    agent.update(batch)
    assert agent.critics[0].raw_multiplier.item() > before


def test_the_dynamics_learn_where_actions_lead():
    agent = agent_of(QRLConfig.online(**{**TOY, "dynamics_weight": 10.0}))
    batch = batch_for(agent, 123)
    for _ in range(150):
        agent.update(batch)
    wrong = {**batch, "action": batch["action"].flip(0)}
    with torch.no_grad():
        right, shuffled = (agent.critic_loss(rows)[1]["critic_0/dynamics"] for rows in (batch, wrong))
    assert right < 0.5 * shuffled


def test_the_entropys_weight_rises_where_entropy_is_missing_and_falls_where_there_is_enough():
    agent = agent_of()
    batch = batch_for(agent)
    for target, rises in ((1e3, True), (-1e3, False)):
        agent.target_entropy = target
        before = agent.actor.raw_entropy_weight.item()
        agent.update(batch)
        assert (agent.actor.raw_entropy_weight.item() > before) == rises


def test_variable_costs_are_minus_the_rewards():
    fixed = agent_of(QRLConfig.online(**SMALL, step_cost=3.0))
    varied = agent_of(QRLConfig.online(**SMALL, variable_cost=True))
    batch = batch_for(fixed)
    batch["reward"] = torch.full((33,), -3.0)
    first, second = (agent.critic_loss(batch)[0] for agent in (fixed, varied))
    torch.testing.assert_close(first, second)


def test_a_state_is_linked_to_the_goal_it_achieves_at_no_cost():
    agent = agent_of(QRLConfig.online(**{**SMALL, "num_critics": 1}), goal_size=2)
    batch = batch_for(agent)
    violation = agent.critic_loss(batch)[1]["critic_0/violation"]
    step = agent.critics[0].head(*(agent.critics[0].embed(agent.state_inputs(batch[name])) for name in
                                   ("observation", "next_observation")))  # fmt: skip
    link = agent.distance(batch["next_observation"], batch["achieved_goal"])
    expected = torch.cat([(step - 1).relu(), link]).square().mean()
    torch.testing.assert_close(violation, expected.detach())


@pytest.mark.parametrize("leading", [(), (1,), (7,), (2, 3)])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_plans_have_the_shape_of_their_rows(kind, leading):
    agent = agent_of(**kind)
    candidates = torch.tensor([2, 0]) if agent.discrete else torch.rand(5, 3)
    for goal in (torch.randn(*leading, agent.goal_size or 4), torch.randn(agent.goal_size or 4)):
        planned = agent.plan(torch.randn(*leading, 4), goal, candidates)
        assert planned.shape == (leading if agent.discrete else (*leading, 3))


@pytest.mark.parametrize("discrete", [False, True])
def test_a_plan_is_the_candidate_after_which_the_goal_is_nearest(discrete):
    agent = agent_of(discrete=discrete)
    batch = batch_for(agent)
    for _ in range(20):
        agent.update(batch)
    observation, goal = torch.randn(6, 4), torch.randn(6, 4)
    candidates = torch.arange(3) if discrete else torch.rand(9, 3) * 2 - 1
    planned = agent.plan(observation, goal, candidates)
    for row, chosen in enumerate(planned):
        distances = []
        for candidate in candidates:
            action = agent.action_inputs(candidate)
            distances.append(max(
                critic.head(
                    critic.projector(critic.dynamics(critic.encoder(observation[row]), action)), critic.embed(goal[row])
                ).item()
                for critic in agent.critics
            ))  # fmt: skip
        assert torch.equal(chosen, candidates[distances.index(min(distances))])


def test_densities_and_entropy_are_those_of_a_stretched_tanh_normal():
    mean, raw = torch.tensor([[0.3]]), torch.tensor([[0.1]])
    policy = TanhNormal(mean, raw, torch.tensor([2.0]), torch.tensor([3.0]))
    grid = torch.linspace(2 - 3 * 0.9989, 2 + 3 * 0.9989, 20001)[:, None]
    density = policy.log_prob(grid).exp()
    inside = torch.trapezoid(density, grid[:, 0])
    tails = sum(3e-3 * policy.log_prob(torch.tensor([[end]])).exp() for end in (-1.0, 5.0))
    assert (inside + tails).item() == pytest.approx(1, abs=2e-3)
    torch.manual_seed(0)
    entropy = -torch.trapezoid(density * density.log(), grid[:, 0])
    assert policy.entropy(100_000).item() == pytest.approx(entropy.item(), abs=0.02)
    assert torch.isfinite(policy.log_prob(torch.tensor([[5.0], [-1.0]]))).all()


def test_standardising_keeps_what_does_not_vary_and_is_part_of_the_state():
    agent = agent_of(goal_size=2)
    rows = torch.tensor([[1.0, 2.0, 3.0, 0.0], [1.0, 4.0, 5.0, 0.0]])
    with pytest.raises(ValueError, match="give goals"):
        agent.standardise(rows)
    agent.standardise(rows, rows[:, :2])
    assert agent.observation_scale(rows).tolist() == [[0, -1, -1, 0], [0, 1, 1, 0]]
    fresh = agent_of(goal_size=2)
    fresh.load_state_dict(agent.state_dict())
    assert fresh.goal_scale.mean.tolist() == [1.0, 3.0]


def test_compiled_losses_are_one_graph_each_and_train_the_same(monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager", fullgraph=True))
    plain, compiled = agent_of(goal_size=2), agent_of(goal_size=2, compile=True)
    batch = batch_for(plain)
    for agent in (plain, compiled):
        torch.manual_seed(3)
        for _ in range(2):
            agent.update(batch)
    for (name, first), (_, second) in zip(
        plain.networks.named_parameters(), compiled.networks.named_parameters(), strict=True
    ):
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5, msg=name)


def test_a_wrong_range_and_a_plan_without_candidates_are_named():
    with pytest.raises(ValueError, match="actions must have finite ranges"):
        QRL(4, 2, QRLConfig.online(**SMALL), action_low=-math.inf)
    with pytest.raises(ValueError, match="give candidate_actions"):
        agent_of().plan(torch.zeros(4), torch.zeros(4))


def test_fourier_features_are_sines_and_cosines_of_each_place():
    torch.manual_seed(0)
    features = FourierFeatures((0, 3), 2, 5, (1.0, 100.0))
    rows = torch.randn(3, 6)
    state, goal = rows[:, :2] @ features.directions, rows[:, 3:5] @ features.directions
    extended = features(rows)
    torch.testing.assert_close(extended, torch.cat([rows, state.sin(), goal.sin(), state.cos(), goal.cos()], dim=1))
    assert extended.shape[1] == 6 + features.added
    drawn = FourierFeatures((0,), 2, 999, (1.0, 100.0)).directions
    slow, fast = drawn[:, :333].std().item(), drawn[:, -333:].std().item()
    assert fast / slow == pytest.approx(100 ** (2 / 3), rel=0.2)
