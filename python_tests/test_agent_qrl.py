"""The QRL agent: what an update does, what acting and planning return, and states that go on bit for bit."""

from __future__ import annotations

import functools
import io
import math

import pytest
import torch
from processes import run_two

import qmkernels as qm
from qmkernels.agents import QRL, QRLConfig
from qmkernels.agents.goal_actor import TanhNormal

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


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_updates_lower_the_loss(kind):
    agent = agent_of(QRLConfig.online(**TOY), **kind)
    batch = batch_for(agent)
    history = [agent.update(batch) for _ in range(80)]
    for number in range(2):
        losses = [metrics[f"critic_{number}/loss"].item() for metrics in history]
        assert losses[-1] < losses[0] - 1
        assert history[-1][f"critic_{number}/goal_distance"] > history[0][f"critic_{number}/goal_distance"]
        assert history[-1][f"critic_{number}/violation"] < 1.0


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
        right, shuffled = (agent.critic_loss(each)[1]["critic_0/dynamics"] for each in (batch, wrong))
    assert right < 0.5 * shuffled


def test_the_actor_moves_towards_goals_by_the_critics_distance():
    config = QRLConfig.offline(**SMALL, behaviour_cloning_weight=0.0, actor_learning_rate=1e-2)
    agent = agent_of(config)
    batch = batch_for(agent)
    for _ in range(30):
        agent.update(batch)
    frozen = {name: value.clone() for name, value in agent.critics.state_dict().items()}
    agent.optimizers["critics"].step = lambda *_: None
    history = [agent.update(batch)["actor/distance"] for _ in range(100)]
    assert torch.stack(history[-10:]).mean() < torch.stack(history[:10]).mean()
    for name, value in agent.critics.state_dict().items():
        torch.testing.assert_close(value, frozen[name], rtol=0, atol=0)


def test_behaviour_cloning_alone_raises_the_density_of_the_datas_actions():
    config = QRLConfig.offline(
        **SMALL, actor_distance_weight=0.0, behaviour_cloning_weight=1.0, actor_learning_rate=1e-2
    )
    agent = agent_of(config)
    batch = batch_for(agent)
    batch["action"] = torch.full((33, 3), 0.5)
    history = [agent.update(batch)["actor/log_prob"] for _ in range(100)]
    assert history[-1] > history[0] + 1
    torch.testing.assert_close(agent.act(batch["observation"], batch["goal"], True), batch["action"], rtol=0, atol=0.3)


def test_the_entropys_weight_rises_where_entropy_is_missing_and_falls_where_there_is_enough():
    agent = agent_of()
    batch = batch_for(agent)
    for target, rises in ((1e3, True), (-1e3, False)):
        agent.target_entropy = target
        before = agent.actor.raw_entropy_weight.item()
        agent.update(batch)
        assert (agent.actor.raw_entropy_weight.item() > before) == rises


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_metrics_are_scalars_without_a_graph(kind):
    agent = agent_of(**kind)
    metrics = agent.update(batch_for(agent))
    assert {"critic_0/loss", "critic_1/multiplier", "critic_0/dynamics"} <= metrics.keys()
    assert ("actor/distance" in metrics) == (not agent.discrete)
    assert all(value.shape == () and not value.requires_grad and value.isfinite() for value in metrics.values())


def test_variable_costs_are_minus_the_rewards():
    fixed = agent_of(QRLConfig.online(**SMALL, step_cost=3.0))
    varied = agent_of(QRLConfig.online(**SMALL, variable_cost=True))
    batch = batch_for(fixed)
    batch["reward"] = torch.full((33,), -3.0)
    one, other = (agent.critic_loss(batch)[0] for agent in (fixed, varied))
    torch.testing.assert_close(one, other)


def test_a_state_is_linked_to_the_goal_it_achieves_at_no_cost():
    agent = agent_of(QRLConfig.online(**{**SMALL, "num_critics": 1}), goal_size=2)
    batch = batch_for(agent)
    found = agent.critic_loss(batch)[1]["critic_0/violation"]
    step = agent.critics[0].head(*(agent.critics[0].embed(agent.state_inputs(batch[name])) for name in
                                   ("observation", "next_observation")))  # fmt: skip
    link = agent.distance(batch["next_observation"], batch["achieved_goal"])
    expected = torch.cat([(step - 1).relu(), link]).square().mean()
    torch.testing.assert_close(found, expected.detach())


@pytest.mark.parametrize("leading", [(), (1,), (7,), (2, 3)])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_shapes_of_acting_planning_and_distances(kind, leading):
    agent = agent_of(**kind)
    observation = torch.randn(*leading, 4)
    for goal in (torch.randn(*leading, agent.goal_size or 4), torch.randn(agent.goal_size or 4)):
        action = agent.act(observation, goal)
        assert action.shape == (leading if agent.discrete else (*leading, 3))
        assert agent.act(observation, goal, deterministic=True).shape == action.shape
        assert agent.distance(observation, goal).shape == leading
        candidates = torch.tensor([2, 0]) if agent.discrete else torch.rand(5, 3)
        assert agent.plan(observation, goal, candidates).shape == action.shape


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_pairwise_distances_are_those_of_the_pairs(kind):
    agent = agent_of(**kind)
    observations, goals = torch.randn(5, 4), torch.randn(7, agent.goal_size or 4)
    expected = agent.distance(observations[:, None], goals)
    torch.testing.assert_close(agent.pairwise_distance(observations, goals), expected)


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


def test_actions_stay_in_their_range_and_the_deterministic_one_is_the_same_each_time():
    torch.manual_seed(0)
    low, high = torch.tensor([-1.0, 0.0, 5.0]), torch.tensor([1.0, 0.5, 9.0])
    agent = QRL(4, 3, QRLConfig.online(**SMALL), action_low=low, action_high=high)
    observation, goal = torch.randn(500, 4), torch.randn(500, 4)
    action = agent.act(observation, goal)
    assert ((action >= low) & (action <= high)).all()
    assert torch.equal(agent.act(observation, goal, True), agent.act(observation, goal, True))


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


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_standardised_agent_does_with_shifted_and_scaled_rows_what_another_does_with_plain_ones(kind):
    plain, standardised = agent_of(**kind), agent_of(**kind)
    batch, other = batch_for(plain), batch_for(plain)
    for name in ("observation", "next_observation", "goal", "achieved_goal"):
        rows = torch.arange(float(other[name].shape[-1]))
        other[name] = other[name] * (0.01 + 5 * rows) + 100 * rows
    for agent, rows in ((plain, batch), (standardised, other)):
        agent.standardise(rows["observation"], rows["achieved_goal"])
    assert plain.observation_scale.scale[0] > 50 * standardised.observation_scale.scale[0]
    for _ in range(3):
        torch.manual_seed(3)
        expected = plain.update(batch)
        torch.manual_seed(3)
        found = standardised.update(other)
        torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)
    apart = plain.pairwise_distance(batch["observation"][:5], batch["goal"][:7])
    same = standardised.pairwise_distance(other["observation"][:5], other["goal"][:7])
    torch.testing.assert_close(same, apart, rtol=2e-3, atol=2e-3)
    actions = [
        agent.act(rows["observation"], rows["goal"], deterministic=True)
        for agent, rows in ((plain, batch), (standardised, other))
    ]
    torch.testing.assert_close(*actions, rtol=2e-3, atol=2e-3)


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


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_saved_state_goes_on_bit_for_bit(kind):
    agent = agent_of(**kind)
    batch = batch_for(agent)
    for _ in range(3):
        agent.update(batch)
    file = io.BytesIO()
    torch.save(agent.state_dict(), file)
    file.seek(0)
    other = agent_of(seed=5, **kind)
    other.load_state_dict(torch.load(file, weights_only=True))
    states = []
    for each in (agent, other):
        torch.manual_seed(7)
        for _ in range(3):
            each.update(batch)
        states.append(each.networks.state_dict())
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def test_the_state_of_another_agent_is_refused_by_name():
    state = agent_of().state_dict()
    with pytest.raises(
        ValueError, match=r"another agent: epsilon is 0\.25 there, 0\.5 here; latent_size is 16 there, 8"
    ):
        agent_of(QRLConfig.online(**{**SMALL, "latent_size": 8, "epsilon": 0.5})).load_state_dict(state)
    with pytest.raises(ValueError, match="goal_size is None there, 2 here"):
        agent_of(goal_size=2).load_state_dict(state)
    with pytest.raises(ValueError, match="head is"):
        agent_of(head=lambda size: qm.nn.IQE(size, 8, reduction="sum")).load_state_dict(state)


def test_any_head_trains():
    for head in (lambda size: qm.nn.MRNFixed(size), lambda size: qm.nn.LatentMRN(size, preset="tmd", num_components=4)):
        agent = agent_of(head=head)
        assert all(value.isfinite() for value in agent.update(batch_for(agent)).values())
        assert agent.pairwise_distance(torch.randn(5, 4), torch.randn(7, 4)).shape == (5, 7)


def test_half_precision_keeps_float32_distances_and_parameters():
    agent = agent_of(QRLConfig.online(**SMALL, behaviour_cloning_weight=0.1))
    batch = batch_for(agent)
    with torch.autocast("cpu", torch.bfloat16):
        metrics = agent.update(batch)
        assert agent.distance(batch["observation"], batch["goal"]).dtype == torch.float32
    assert all(value.isfinite() for value in metrics.values())
    assert all(parameter.dtype == torch.float32 for parameter in agent.networks.parameters())
    torch.manual_seed(0)
    full = agent_of(QRLConfig.online(**SMALL, behaviour_cloning_weight=0.1)).update(batch)
    assert metrics["critic_0/loss"].item() == pytest.approx(full["critic_0/loss"].item(), rel=0.02)


def test_compiled_losses_are_one_graph_each_and_train_the_same(monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager", fullgraph=True))
    plain, compiled = agent_of(goal_size=2), agent_of(goal_size=2, compile=True)
    batch = batch_for(plain)
    for agent in (plain, compiled):
        torch.manual_seed(3)
        for _ in range(2):
            agent.update(batch)
    for (name, one), (_, other) in zip(
        plain.networks.named_parameters(), compiled.networks.named_parameters(), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5, msg=name)


def _train_in_group(rank: int) -> torch.Tensor:
    agent = agent_of(seed=rank, group=torch.distributed.group.WORLD)
    for step in range(3):
        agent.update(batch_for(agent, seed=10 * step + rank))
    return torch.cat([p.detach().reshape(-1) for p in agent.networks.parameters()])


def test_processes_of_a_group_have_the_same_networks_after_different_batches(tmp_path):
    found = run_two(_train_in_group, tmp_path)
    assert torch.equal(*found) and found[0].isfinite().all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"action": None}, "the batch lacks action"),
        ({"goal": None}, "the batch lacks goal"),
        ({"observation": torch.zeros(33, 5)}, r"observation must be \(33, 4\), got \(33, 5\)"),
        ({"action": torch.zeros(32, 3)}, r"action must be \(33, 3\), got \(32, 3\)"),
    ],
)
def test_a_wrong_batch_is_named(change, said):
    agent = agent_of()
    batch = {name: value for name, value in {**batch_for(agent), **change}.items() if value is not None}
    with pytest.raises(ValueError, match=said):
        agent.update(batch)


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match="num_critics must be positive, got 0"):
        QRLConfig.online(num_critics=0)
    with pytest.raises(ValueError, match="step_cost must be at least 0"):
        QRLConfig.offline(step_cost=-1.0)
    with pytest.raises(ValueError, match="actions must have finite ranges"):
        QRL(4, 2, QRLConfig.online(**SMALL), action_low=-math.inf)
    with pytest.raises(ValueError, match="give candidate_actions"):
        agent_of().plan(torch.zeros(4), torch.zeros(4))
