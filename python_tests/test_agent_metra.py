"""The METRA agent: its constraint and dual, skills and their directions, and its soft actor-critic."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

import qmkernels as qm
from qmkernels.agents import METRA, METRAConfig, sac
from qmkernels.agents.metra import AsymmetricNorm

SMALL = dict(phi_sizes=(33,), critic_sizes=(33,), actor_sizes=(33,))
KINDS = {
    "continuous": {"skill_size": 2},
    "discrete": {"skill_size": 5, "discrete_skills": True},
    "mean norm": {"skill_size": 3, "norm": "mean"},
}
HEADS = {"euclidean": None, "iqe": lambda size: qm.nn.IQE(size, 1), "mrn": AsymmetricNorm}
kinds = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
heads = pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)


def agent_of(head=None, seed: int = 0, low=-1.0, high=1.0, **changes) -> METRA:
    torch.manual_seed(seed)
    config = METRAConfig.small(**{**SMALL, **changes})
    return METRA(4, 2, config, head=head, action_low=low, action_high=high)


def batch_for(agent: METRA, size: int = 33, seed: int = 1) -> dict[str, torch.Tensor]:
    """Actions move the first two coordinates by their values; skills correlate with them."""
    generator = torch.Generator().manual_seed(seed)
    state = torch.randn(size, 4, generator=generator)
    action = torch.rand(size, 2, generator=generator) * 2 - 1
    aimed = action @ torch.tensor([[1.0, 0.5, -1.0, 0.0, 0.0], [0.0, -1.0, 0.5, 1.0, -1.0]])
    noise = torch.randn(size, 5, generator=generator)
    return {
        "observation": state,
        "action": action,
        "next_observation": state + functional.pad(action, (0, 2)),
        "skill": agent.skill_of((2 * aimed + noise)[:, : agent.config.skill_size]),
        "terminated": torch.rand(size, generator=generator) < 0.3,
    }


def parameters_of(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().reshape(-1).clone() for parameter in module.parameters()])


@pytest.mark.parametrize("length", [0.1, 3.0], ids=["short steps", "long steps"])
@heads
@kinds
def test_the_multiplier_rises_while_steps_are_longer_than_one_and_falls_while_they_are_not(kind, head, length):
    agent = agent_of(head, **kind, slack=0.5)
    made, batch = agent.representation, batch_for(agent)
    _, _, metrics = agent.representation_loss(batch)
    with torch.no_grad():
        made.phi[-1].weight *= length / metrics["phi/distance"].sqrt()
    before = made.log_multiplier.item()
    metrics = agent.update(batch)
    assert metrics["phi/distance"].item() == pytest.approx(length**2, rel=1e-4)
    assert metrics["phi/multiplier"].item() == pytest.approx(30.0, rel=1e-5)
    assert (made.log_multiplier.item() > before) == (length > 1)


@heads
@kinds
def test_steps_grow_until_the_constraint_holds_them(kind, head):
    agent = agent_of(head, **kind, phi_learning_rate=5e-3, multiplier_learning_rate=5e-2, initial_multiplier=3.0)
    history = [agent.update(batch_for(agent, 123, seed)) for seed in range(120)]
    rewards = torch.stack([metrics["phi/reward"] for metrics in history])
    assert rewards[-20:].mean() > rewards[:10].mean()
    distance = torch.stack([metrics["phi/distance"] for metrics in history[-40:]]).mean()
    assert 0.05 < distance < 1.1


def test_norms_are_the_sum_and_the_mean_of_the_squares():
    distances = {}
    for norm in ("sum", "mean"):
        agent = agent_of(skill_size=5, norm=norm)
        distances[norm] = agent.representation_loss(batch_for(agent))[2]["phi/distance"]
    torch.testing.assert_close(distances["sum"], 5 * distances["mean"])


def test_a_heads_distance_from_a_state_to_the_next_one_takes_the_norms_place():
    agent = agent_of(HEADS["iqe"], skill_size=4)
    batch = batch_for(agent)
    phi, following = agent.phi(batch["observation"]), agent.phi(batch["next_observation"])
    distance = agent.representation_loss(batch)[2]["phi/distance"]
    there, back = agent.representation.head(phi, following), agent.representation.head(following, phi)
    torch.testing.assert_close(distance, there.square().mean().detach())
    assert (there.square().mean() - back.square().mean()).abs() > 0.01 * distance


def test_the_asymmetric_norm_is_a_norm_and_what_is_lost_on_the_way():
    x, y, head = torch.randn(33, 3), torch.randn(33, 3), AsymmetricNorm(3)
    torch.testing.assert_close(head(x, y), (x - y).norm(dim=-1) + (x - y).amax(dim=-1).clamp(min=0))
    assert (head(x, y) >= (x - y).norm(dim=-1)).all() and (head(x, y) != head(y, x)).any()


def test_skills_are_unit_vectors_or_one_hot_rows_that_point_in_the_given_directions():
    direction = torch.randn(7, 3, 5)
    continuous, discrete = agent_of(skill_size=5), agent_of(skill_size=5, discrete_skills=True)
    skill = continuous.skill_of(direction)
    torch.testing.assert_close(skill.norm(dim=-1), torch.ones(7, 3))
    torch.testing.assert_close(skill * direction.norm(dim=-1, keepdim=True), direction)
    assert torch.equal(continuous.direction_of(skill), skill)
    skill = discrete.skill_of(direction)
    assert torch.equal(skill.argmax(dim=-1), direction.argmax(dim=-1)) and skill.unique().tolist() == [0, 1]
    assert torch.equal(skill.sum(dim=-1), torch.ones(7, 3))
    torch.testing.assert_close(discrete.direction_of(torch.eye(5))[0], torch.tensor([1.0, *[-0.25] * 4]))


@kinds
def test_rewards_are_the_steps_of_phi_along_the_skills_directions(kind):
    agent = agent_of(**kind)
    batch = batch_for(agent)
    _, reward, metrics = agent.representation_loss(batch)
    step = agent.phi(batch["next_observation"]) - agent.phi(batch["observation"])
    expected = (step * agent.direction_of(batch["skill"])).sum(dim=-1)
    torch.testing.assert_close(reward, expected.detach())
    torch.testing.assert_close(metrics["phi/reward"], expected.mean().detach())
    assert not reward.requires_grad


def test_targets_are_the_lesser_value_of_the_averaged_networks_and_the_entropy_but_for_ends():
    agent = agent_of(discount=0.5, initial_temperature=0.25)
    batch, reward = batch_for(agent), torch.arange(33.0)
    with torch.no_grad():
        agent.target_critic.weights[-1].zero_()
        agent.target_critic.biases[-1].copy_(torch.tensor([8.0, 4.0])[:, None, None])
        agent.actor.network[-1].bias[2:].fill_(-4.0)  # so narrow that tanh is linear
    target = sac.soft_target(
        agent.target_critic, agent.actor, reward, batch["terminated"], batch["next_observation"], batch["skill"], 0.5
    )
    scale = functional.softplus(torch.tensor(-4.0)) + 1e-4
    entropy = torch.distributions.Normal(0.0, scale).entropy() * 2
    expected = torch.where(batch["terminated"], reward, reward + 0.5 * (4.0 + 0.25 * entropy))
    torch.testing.assert_close(target, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("width", [-6.0, 0.0], ids=["narrow", "wide"])
def test_the_temperature_rises_while_the_policy_is_narrower_than_its_target_and_falls_while_wider(width):
    agent = agent_of(initial_temperature=0.01, target_entropy=-0.5)
    with torch.no_grad():
        agent.actor.network[-1].bias[2:].fill_(width)
    before = agent.actor.log_temperature.item()
    metrics = agent.update(batch_for(agent))
    assert (metrics["actor/entropy"] < agent.actor.target_entropy) == (width < 0)
    assert (agent.actor.log_temperature.item() > before) == (width < 0)
    assert metrics["actor/temperature"].item() == pytest.approx(0.01)


def test_a_range_of_actions_changes_nothing_but_the_actions():
    low, high = torch.tensor([-3.0, 5.0]), torch.tensor([3.0, 9.0])
    agents, result = {"unit": agent_of(), "ranges": agent_of(low=low, high=high)}, {}
    for name, agent in agents.items():
        batch = batch_for(agent)
        if name == "ranges":
            batch["action"] = (low + high) / 2 + batch["action"] * (high - low) / 2
        torch.manual_seed(3)
        for _ in range(3):
            metrics = agent.update(batch)
        result[name] = metrics, agent.act(batch["observation"], batch["skill"], deterministic=True)
    torch.testing.assert_close(result["ranges"][0], result["unit"][0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        result["ranges"][1], (low + high) / 2 + result["unit"][1] * (high - low) / 2, rtol=1e-3, atol=1e-3
    )


def test_each_loss_moves_its_own_networks_alone_and_the_targets_follow():
    agent = agent_of(tau=0.125)
    agent.update(batch_for(agent))
    steps = {name: optimizer.step for name, optimizer in agent.optimizers.items()}
    modules = {"representation": agent.representation, "critic": agent.critic, "actor": agent.actor}
    for chosen in modules:
        for name, optimizer in agent.optimizers.items():
            optimizer.step = steps[name] if name == chosen else lambda *_: None
        before = {name: parameters_of(module) for name, module in modules.items()}
        target = parameters_of(agent.target_critic)
        agent.update(batch_for(agent, seed=2))
        for name, module in modules.items():
            assert torch.equal(parameters_of(module), before[name]) == (name != chosen)
        torch.testing.assert_close(parameters_of(agent.target_critic), target.lerp(parameters_of(agent.critic), 0.125))
    assert all(parameter.requires_grad for parameter in agent.critic.parameters())


@pytest.mark.parametrize("head", [None, AsymmetricNorm], ids=["euclidean", "mrn"])
def test_skills_learned_on_a_plane_lead_where_they_point_and_to_goals(head):
    """Every skill moves phi in its direction, and goals are reached step by step."""
    agent = agent_of(
        head, phi_learning_rate=3e-3, multiplier_learning_rate=5e-2, critic_learning_rate=3e-3,
        actor_learning_rate=3e-3, discount=0.8, tau=0.05,
    )  # fmt: skip
    for seed in range(300):
        batch = batch_for(agent, 123, seed)
        agent.update({**batch, "terminated": torch.zeros(123, dtype=torch.bool)})
    state, skill = torch.randn(507, 4), agent.skill_of(torch.randn(507, 2))
    step = functional.pad(agent.act(state, skill, deterministic=True), (0, 2))
    along = ((agent.phi(state + step) - agent.phi(state)) * skill).sum(dim=-1)
    assert (along > 0).float().mean() > 0.95
    place, goal = torch.zeros(123, 4), functional.pad(torch.rand(123, 2) * 4 - 2, (0, 2))
    first = (place - goal).norm(dim=-1).mean()
    nearest = torch.full((123,), torch.inf)
    for _ in range(8):
        action = agent.act(place, agent.skill_towards(place, goal), deterministic=True)
        place = place + functional.pad(action, (0, 2))
        nearest = nearest.minimum((place - goal).norm(dim=-1))
    assert nearest.mean() < 0.5 * first


@pytest.mark.parametrize("leading", [(), (1,), (7,), (2, 3)])
@kinds
def test_a_skill_for_every_row_whose_goal_may_be_one_for_all(kind, leading):
    agent, observation = agent_of(**kind), torch.randn(*leading, 4)
    for goal in (torch.randn(*leading, 4), torch.randn(4)):
        assert agent.skill_towards(observation, goal).shape == (*leading, agent.config.skill_size)


def test_skills_towards_goals_are_those_of_phis_difference():
    agent, rows = agent_of(), torch.randn(2, 33, 4)
    agent.standardise(5 * torch.randn(507, 4) + 3)
    expected = functional.normalize(agent.phi(rows[1]) - agent.phi(rows[0]), dim=-1)
    torch.testing.assert_close(agent.skill_towards(*rows), expected.detach())
    discrete = agent_of(skill_size=5, discrete_skills=True)
    skill = discrete.skill_towards(*rows)
    assert torch.equal(skill.argmax(dim=-1), (discrete.phi(rows[1]) - discrete.phi(rows[0])).argmax(dim=-1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"skill_size": 1, "discrete_skills": True}, "METRAConfig: skill_size must be at least 2 with discrete_skills"),
        ({"discount": 1.0}, "METRAConfig: discount must be below 1, got 1.0"),
        ({"tau": 2.0}, "METRAConfig: tau must be at most 1, got 2.0"),
    ],
)
def test_impossible_settings_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        METRAConfig.published(**changes)


def test_the_published_sizes_are_those_of_the_paper():
    config = METRAConfig.published()
    assert config.phi_sizes == config.critic_sizes == config.actor_sizes == (1024, 1024)
    assert config.phi_learning_rate == config.multiplier_learning_rate == 1e-4 and config.norm == "sum"
