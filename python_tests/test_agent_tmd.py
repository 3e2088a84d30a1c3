"""The TMD agent: what an update does, what acting returns, kernels against plain PyTorch, and states that go on."""

from __future__ import annotations

import io

import pytest
import torch
from processes import run_two

import qmkernels as qm
from qmkernels.agents import TMD, TMDConfig

SMALL = dict(critic_sizes=(33,), actor_sizes=(33,), latent_size=32, num_components=4)
KINDS = {"observation goals": {}, "set goals": {"goal_size": 2}}


def agent_of(config: TMDConfig | None = None, seed: int = 0, **kind) -> TMD:
    torch.manual_seed(seed)
    return TMD(4, 3, config or TMDConfig.small(**SMALL), **kind)


def batch_for(agent: TMD, size: int = 33, seed: int = 1) -> dict[str, torch.Tensor]:
    """Steps along a line, an action moves every coordinate by its mean; goals are where eight of them lead."""
    generator = torch.Generator().manual_seed(seed)
    goal_size = agent.goal_size or agent.observation_size
    state = torch.randn(size, 4, generator=generator)
    action = torch.rand(size, 3, generator=generator) * 2 - 1
    move = action.mean(dim=-1, keepdim=True)
    goal = (state + 8 * move)[:, :goal_size]
    return {"observation": state, "action": action, "next_observation": state + move, "goal": goal, "actor_goal": goal}


def parameters_of(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([each.detach().reshape(-1).clone() for each in module.parameters()])


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_updates_tell_states_apart_by_their_goals(kind):
    agent = agent_of(TMDConfig.small(**SMALL, critic_learning_rate=5e-3), **kind)
    history = [agent.update(batch_for(agent, 123, seed)) for seed in range(200)]
    begun, ended = (
        {name: torch.stack([each[name] for each in part]).mean() for name in history[0]}
        for part in (history[:10], history[-10:])
    )
    assert ended["critic/contrastive"] < 0.95 * begun["critic/contrastive"]
    assert ended["critic/accuracy"] > 5 * begun["critic/accuracy"]
    assert ended["critic/positive"] > begun["critic/positive"] + 0.3


def test_the_temporal_term_brings_distances_nearer_to_the_backup():
    found = {}
    for zeta in (0.0, 5.0):
        agent = agent_of(TMDConfig.small(**SMALL, zeta=zeta))
        history = [agent.update(batch_for(agent, 123, seed)) for seed in range(150)]
        found[zeta] = torch.stack([each["critic/temporal_invariance"] for each in history[-10:]]).mean()
    assert found[5.0] < found[0.0] - 0.02


def test_the_actor_moves_towards_goals_by_the_critics_distance_and_leaves_them_as_they_are():
    agent = agent_of(TMDConfig.small(**SMALL, behaviour_cloning_weight=0.0, actor_learning_rate=1e-2))
    batch = batch_for(agent)
    for _ in range(30):
        agent.update(batch)
    frozen = parameters_of(agent.critic)
    agent.optimizers["critic"].step = lambda *_: None
    history = [agent.update(batch)["actor/distance"] for _ in range(100)]
    assert torch.stack(history[-10:]).mean() < torch.stack(history[:10]).mean()
    assert torch.equal(parameters_of(agent.critic), frozen)
    assert all(each.requires_grad for each in agent.critic.parameters())


def test_behaviour_cloning_brings_actions_nearer_to_the_datas():
    agent = agent_of(TMDConfig.small(**SMALL, behaviour_cloning_weight=100.0, actor_learning_rate=1e-2))
    batch = batch_for(agent)
    batch["action"] = torch.full((33, 3), 0.5)
    for _ in range(150):
        agent.update(batch)
    found = agent.act(batch["observation"], batch["actor_goal"], deterministic=True)
    torch.testing.assert_close(found, batch["action"], rtol=0, atol=0.2)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_an_update_changes_every_network_and_returns_scalars_without_a_graph(kind):
    agent = agent_of(**kind)
    before = {name: value.clone() for name, value in agent.networks.state_dict().items()}
    for _ in range(2):  # the first gradient passes the actor's last layer of zeros and goes no further
        metrics = agent.update(batch_for(agent))
    assert {"critic/loss", "critic/action_invariance", "actor/distance", "actor/cloning"} <= metrics.keys()
    assert all(value.shape == () and not value.requires_grad and value.isfinite() for value in metrics.values())
    fixed = ("_scale.", "actor.centre", "actor.half_range")
    for name, value in agent.networks.state_dict().items():
        assert torch.equal(value, before[name]) == any(part in name for part in fixed), name


def test_the_critic_is_the_loss_of_its_embeddings():
    agent = agent_of()
    batch = batch_for(agent)
    state, critic = agent.state_inputs(batch["observation"]), agent.critic
    rows = (critic.psi(agent.goal_inputs(batch[name])) for name in ("observation", "next_observation", "goal"))
    expected = qm.losses.tmd_critic(critic.head, critic.phi(state, batch["action"]), *rows)
    torch.testing.assert_close(agent.critic_loss(batch)[0], expected.loss)


@pytest.mark.parametrize("leading", [(), (1,), (7,), (2, 3)])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_shapes_of_acting_and_distances(kind, leading):
    agent = agent_of(**kind)
    observation = torch.randn(*leading, 4)
    for goal in (torch.randn(*leading, agent.goal_size or 4), torch.randn(agent.goal_size or 4)):
        assert agent.act(observation, goal).shape == (*leading, 3)
        assert agent.act(observation, goal, deterministic=True).shape == (*leading, 3)
        assert agent.distance(observation, goal).shape == leading


def test_pairwise_distances_are_those_of_the_pairs():
    agent = agent_of(goal_size=2)
    observations, goals = torch.randn(9, 4), torch.randn(11, 2)
    expected = agent.distance(observations[:, None], goals)
    torch.testing.assert_close(agent.pairwise_distance(observations, goals), expected)


def test_actions_stay_in_their_range_and_the_deterministic_one_is_the_same_each_time():
    low, high = torch.tensor([-1.0, 0.0, 5.0]), torch.tensor([1.0, 0.5, 9.0])
    agent = agent_of(action_low=low, action_high=high)
    observation, goal = torch.randn(500, 4), torch.randn(500, 4)
    action = agent.act(observation, goal)
    assert ((action >= low) & (action <= high)).all() and action.std(dim=0).min() > 0.1
    assert torch.equal(agent.act(observation, goal, True), agent.act(observation, goal, True))


def test_kernels_train_along_the_curve_of_plain_pytorch():
    """Within 1% of the reference backend's loss over a hundred updates, in which it falls by more than a third."""
    curves = {}
    for backend in ("reference", "auto"):
        with qm.use_backend(backend):
            agent = agent_of()
            updates = [agent.update(batch_for(agent, 33, seed)) for seed in range(100)]
        curves[backend] = {name: torch.stack([each[name] for each in updates]) for name in updates[0]}
    for name in ("critic/loss", "actor/distance"):
        torch.testing.assert_close(curves["auto"][name], curves["reference"][name], rtol=0.01, atol=0.01)
    loss = curves["reference"]["critic/loss"]
    assert loss[-10:].mean() < 2 / 3 * loss[:10].mean()


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_saved_state_goes_on_bit_for_bit(kind):
    agent = agent_of(**kind)
    batch = batch_for(agent)
    agent.standardise(batch["observation"], batch["goal"])
    for _ in range(3):
        agent.update(batch)
    file = io.BytesIO()
    torch.save(agent.state_dict(), file)
    file.seek(0)
    other = agent_of(seed=5, **kind)
    other.load_state_dict(torch.load(file, weights_only=True))
    for each in (agent, other):
        for _ in range(3):
            each.update(batch)
    assert torch.equal(parameters_of(agent.networks), parameters_of(other.networks))
    assert torch.equal(agent.goal_scale.mean, other.goal_scale.mean) and agent.goal_scale.mean.abs().min() > 0


def test_the_state_of_another_agent_is_refused_by_name():
    state = agent_of().state_dict()
    with pytest.raises(
        ValueError, match=r"TMD.load_state_dict: (.|\n)*another agent: (.|\n)*latent_size is 32 there, 64 here"
    ):
        agent_of(TMDConfig.small(**{**SMALL, "latent_size": 64})).load_state_dict(state)
    with pytest.raises(ValueError, match="head is"):
        agent_of(head=lambda size: qm.nn.IQE(size, 8)).load_state_dict(state)
    with pytest.raises(ValueError, match="another agent"):
        qm.agents.QRL(4, 3, qm.agents.QRLConfig.online(latent_size=8)).load_state_dict(state)


def test_any_head_trains():
    for head in (lambda size: qm.nn.IQE(size, 8), lambda size: qm.nn.MRNFixed(size)):
        agent = agent_of(head=head)
        before = parameters_of(agent.critic.head)
        assert all(value.isfinite() for value in agent.update(batch_for(agent)).values())
        assert not torch.equal(parameters_of(agent.critic.head), before)


def test_half_precision_keeps_float32_parameters_and_is_near_full_precision():
    agent, full = agent_of(), agent_of()
    batch = batch_for(agent)
    with torch.autocast("cpu", torch.bfloat16):
        metrics = agent.update(batch)
    assert all(value.isfinite() for value in metrics.values())
    assert all(parameter.dtype == torch.float32 for parameter in agent.networks.parameters())
    assert metrics["critic/loss"].item() == pytest.approx(full.update(batch)["critic/loss"].item(), rel=0.02)


def _train_in_group(rank: int) -> torch.Tensor:
    agent = agent_of(seed=rank, group=torch.distributed.group.WORLD)
    for step in range(3):
        agent.update(batch_for(agent, seed=10 * step + rank))
    return parameters_of(agent.networks)


def test_processes_of_a_group_have_the_same_networks_after_different_batches(tmp_path):
    found = run_two(_train_in_group, tmp_path)
    assert torch.equal(*found) and found[0].isfinite().all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"actor_goal": None}, "TMD.update: the batch lacks actor_goal"),
        ({"goal": torch.zeros(33, 2)}, r"goal must be \(33, 4\), got \(33, 2\)"),
        ({"observation": torch.zeros(33, 5)}, r"observation must be \(33, 4\), got \(33, 5\)"),
        ({"action": torch.zeros(32, 3)}, r"action must be \(33, 3\), got \(32, 3\)"),
    ],
)
def test_a_wrong_batch_is_named(change, said):
    agent = agent_of()
    batch = {name: value for name, value in {**batch_for(agent), **change}.items() if value is not None}
    with pytest.raises(ValueError, match=said):
        agent.update(batch)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_critics": 0}, "num_critics must be positive, got 0"),
        ({"zeta": -0.1}, "zeta must be at least 0, got -0.1"),
        ({"discount": 1.5}, "discount must be at most 1, got 1.5"),
        ({"critic_sizes": (0,)}, r"critic_sizes must be positive, got \(0,\)"),
        ({"actor_learning_rate": float("nan")}, "actor_learning_rate must be positive, got nan"),
    ],
)
def test_wrong_settings_are_named(changes, said):
    with pytest.raises(ValueError, match=f"TMDConfig: {said}"):
        TMDConfig.published(**changes)
