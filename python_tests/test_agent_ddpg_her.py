"""The DDPG+HER agent: its targets and their averages, values of known sizes, which goals are reached, and its state."""

from __future__ import annotations

import io

import numpy
import pytest
import torch
from processes import run_two
from torch.nn import functional

import qmkernels as qm
from qmkernels.agents import DDPGHER, DDPGHERConfig
from qmkernels.data import Dataset, ReplayBuffer

SMALL = dict(critic_sizes=(33,), actor_sizes=(33,), latent_size=32, dim_per_component=8)
KINDS = {"observation goals": {}, "set goals": {"goal_size": 2}}
CRITICS = ("mlp", "mrn", "iqe")


def agent_of(config: DDPGHERConfig | None = None, seed: int = 0, **kind) -> DDPGHER:
    torch.manual_seed(seed)
    return DDPGHER(4, 3, config or DDPGHERConfig.small(**SMALL), **kind)


def batch_for(agent: DDPGHER, size: int = 33, seed: int = 1) -> dict[str, torch.Tensor]:
    """Steps along a line, an action moves every coordinate by its mean; goals are where one or eight of them lead."""
    generator = torch.Generator().manual_seed(seed)
    state = torch.randn(size, 4, generator=generator)
    action = torch.rand(size, 3, generator=generator) * 2 - 1
    move = action.mean(dim=-1, keepdim=True)
    reached = torch.rand(size, generator=generator) < 0.3
    goal = (state + torch.where(reached, 1, 8)[:, None] * move)[:, : agent.goal_size or 4]
    rows = {"observation": state, "action": action, "next_observation": state + move, "goal": goal}
    return {**rows, "actor_goal": goal, "reached": reached}


def parameters_of(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([each.detach().reshape(-1).clone() for each in module.parameters()])


NUM_STATES = 6


def chain_batch(size: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """An action's sign moves along a row of states between two walls; goals are any of them."""
    state, goal = torch.randint(NUM_STATES, (2, size), generator=generator)
    where = torch.rand(2, size, 1, generator=generator)
    action = (where[0] - 0.5).sign() * (1 + where[1]) / 2
    following = (state + action.sign().long().squeeze(-1)).clamp(0, NUM_STATES - 1)
    places = {"observation": state, "next_observation": following, "goal": goal, "actor_goal": goal}
    rows = {name: functional.one_hot(place, NUM_STATES).float() for name, place in places.items()}
    return {**rows, "action": action, "reached": following == goal}


@pytest.mark.parametrize(("critic", "ends_at_goal"), [("mlp", True), ("mlp", False), ("iqe", True)])
def test_on_a_chain_values_are_minus_the_discounted_steps_and_the_actor_takes_the_shorter_way(critic, ends_at_goal):
    """All steps but the one that reaches the goal count, the n-th of them gamma^n."""
    torch.manual_seed(0)
    generator, discount = torch.Generator().manual_seed(0), 0.8
    config = DDPGHERConfig(
        critic, critic_sizes=(64,), actor_sizes=(64,), latent_size=64, dim_per_component=8, discount=discount, tau=0.05,
        ends_at_goal=ends_at_goal, action_weight=0.0, critic_learning_rate=5e-3, actor_learning_rate=2e-3,
    )  # fmt: skip
    agent = DDPGHER(NUM_STATES, 1, config)
    for _ in range(700):
        agent.update(chain_batch(123, generator))
    states = torch.eye(NUM_STATES)
    observation, goal = (rows.expand(NUM_STATES, NUM_STATES, -1) for rows in (states[:, None], states))
    place, aim = torch.arange(NUM_STATES)[:, None], torch.arange(NUM_STATES)
    away = place != aim
    taken = agent.act(observation, goal).squeeze(-1)
    assert torch.equal(taken[away] > 0, (aim > place)[away])
    # Behind the goal: nothing, or at an end, which can be held; elsewhere it is left and reached in turn.
    is_inside = (aim > 0) & (aim < NUM_STATES - 1)
    behind = torch.where(is_inside, 0.0 if ends_at_goal else -1 / (1 - discount**2), 0.0)
    errors = []
    for sign in (-1, 1):
        steps = ((place + sign).clamp(0, NUM_STATES - 1) - aim).abs()
        expected = -(1 - discount**steps) / (1 - discount) + discount ** (steps + 1) * behind
        found = agent.value(agent.critic, observation, goal, torch.full((*away.shape, 1), 0.75 * sign)).detach()
        errors.append((found - expected).abs())
    assert torch.stack(errors).mean() < 0.2
    distance = agent.distance(observation, goal)
    for goal_place in range(NUM_STATES):
        of_goal = distance[:, goal_place]
        assert (of_goal[goal_place + 1 :].diff() > 0).all() and (of_goal[:goal_place].diff() < 0).all()


@pytest.mark.parametrize("ends_at_goal", [False, True])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_targets_are_those_of_the_averaged_networks_within_their_bounds(kind, ends_at_goal):
    agent = agent_of(DDPGHERConfig.small(**SMALL, discount=0.9, ends_at_goal=ends_at_goal), **kind)
    for seed in range(3):
        agent.update(batch_for(agent, seed=seed))
    batch = batch_for(agent)
    goal, following = batch["goal"], batch["next_observation"]
    action = agent.target_actor(following, goal).mode
    for shift, bound in ((0.0, None), (1000.0, 0.0), (-1000.0, -10.0)):
        with torch.no_grad():
            agent.target_critic.network[-1].bias += shift
            value = agent.target_critic(following, goal, action)
            found = agent.targets(batch)
            agent.target_critic.network[-1].bias -= shift
        expected = torch.where(batch["reached"], 0.9 * value, 0.9 * value - 1).clamp(-10, 0)
        if ends_at_goal:
            expected[batch["reached"]] = 0
        torch.testing.assert_close(found, expected)
        if bound is not None:
            assert (found[~batch["reached"]] == bound).all()


@pytest.mark.parametrize("tau", [0.125, 1.0])
@pytest.mark.parametrize("critic", CRITICS)
def test_targets_move_by_tau_towards_what_an_update_made(critic, tau):
    agent = agent_of(DDPGHERConfig.small(**SMALL, critic=critic, tau=tau))
    for seed in range(3):
        before = [parameters_of(each) for each in (agent.target_critic, agent.target_actor)]
        agent.update(batch_for(agent, seed=seed))
        trained = [parameters_of(each) for each in (agent.critic, agent.actor)]
        after = [parameters_of(each) for each in (agent.target_critic, agent.target_actor)]
        for was, learned, is_now in zip(before, trained, after, strict=True):
            assert torch.equal(is_now, was.lerp(learned, tau)) and not torch.equal(is_now, was)


@pytest.mark.parametrize("critic", CRITICS)
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_an_update_changes_every_network_and_returns_scalars_without_a_graph(kind, critic):
    agent = agent_of(DDPGHERConfig.small(**SMALL, critic=critic), **kind)
    before = {name: value.clone() for name, value in agent.networks.state_dict().items()}
    for _ in range(2):  # the first gradient passes the actor's last layer of zeros and goes no further
        metrics = agent.update(batch_for(agent))
    assert {"critic/loss", "critic/reached", "actor/value", "actor/square", "actor/cloning"} <= metrics.keys()
    assert all(value.shape == () and not value.requires_grad and value.isfinite() for value in metrics.values())
    fixed = ("_scale.", "actor.centre", "actor.half_range", "entropy_weight")
    for name, value in agent.networks.state_dict().items():
        assert torch.equal(value, before[name]) == any(part in name for part in fixed), name


@pytest.mark.parametrize("critic", CRITICS)
def test_the_actor_moves_towards_goals_by_the_critics_value_and_leaves_the_critic_as_it_is(critic):
    agent = agent_of(DDPGHERConfig.small(**SMALL, critic=critic, action_weight=0.0, actor_learning_rate=1e-2))
    batch = batch_for(agent)
    for _ in range(30):
        agent.update(batch)
    frozen = parameters_of(agent.critic)
    agent.optimizers["critic"].step = lambda *_: None
    history = [agent.update(batch)["actor/value"] for _ in range(60)]
    assert torch.stack(history[-10:]).mean() > torch.stack(history[:10]).mean()
    assert torch.equal(parameters_of(agent.critic), frozen)
    assert all(each.requires_grad for each in agent.critic.parameters())
    assert not any(each.requires_grad for each in (*agent.target_critic.parameters(), *agent.target_actor.parameters()))


@pytest.mark.parametrize(
    ("weights", "expected"),
    [({"behaviour_cloning_weight": 100.0, "action_weight": 0.0}, 0.5), ({"action_weight": 1000.0}, 0.0)],
    ids=["cloning", "penalty"],
)
def test_cloning_brings_actions_to_the_datas_and_the_penalty_to_the_middle(weights, expected):
    agent = agent_of(DDPGHERConfig.small(**SMALL, **weights, actor_learning_rate=1e-2))
    torch.nn.init.normal_(agent.actor.network[-1].weight, std=0.2)
    batch = batch_for(agent)
    batch["action"] = torch.full((33, 3), 0.5)
    assert (agent.act(batch["observation"], batch["goal"]) - expected).abs().max() > 0.3
    for _ in range(150):
        agent.update(batch)
    found = agent.act(batch["observation"], batch["goal"])
    torch.testing.assert_close(found, torch.full((33, 3), expected), rtol=0, atol=0.2)


@pytest.mark.parametrize("leading", [(), (1,), (7,), (2, 3)])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_shapes_of_acting_and_distances(kind, leading):
    agent = agent_of(DDPGHERConfig.small(**SMALL, critic="iqe"), **kind)
    observation = torch.randn(*leading, 4)
    for goal in (torch.randn(*leading, agent.goal_size or 4), torch.randn(agent.goal_size or 4)):
        for deterministic in (False, True):
            assert agent.act(observation, goal, deterministic).shape == (*leading, 3)
        assert agent.distance(observation, goal).shape == leading and (agent.distance(observation, goal) >= 0).all()


def test_actions_stay_in_their_range_are_the_same_each_time_and_the_critic_sees_them_in_halves_of_it():
    low, high = torch.tensor([-1.0, 0.0, 5.0]), torch.tensor([1.0, 0.5, 9.0])
    agent, unit = agent_of(action_low=low, action_high=high), agent_of()
    for each in (agent, unit):
        torch.manual_seed(1)
        torch.nn.init.normal_(each.actor.network[-1].weight, std=3.0)
    observation, goal = torch.randn(2, 500, 4)
    action, halves = (each.act(observation, goal) for each in (agent, unit))
    assert ((action >= low) & (action <= high)).all() and halves.std(dim=0).min() > 0.1
    torch.testing.assert_close(action, (low + high) / 2 + halves * (high - low) / 2)
    assert torch.equal(agent.act(observation, goal, False), agent.act(observation, goal, True))
    torch.testing.assert_close(agent.distance(observation, goal), unit.distance(observation, goal))


@pytest.mark.parametrize("critic", ["mrn", "iqe"])
def test_kernels_train_along_the_curve_of_plain_pytorch(critic):
    """Within 1% of the reference backend's values over fifty updates, in which the loss falls by more than a fifth."""
    curves = {}
    for backend in ("reference", "auto"):
        with qm.use_backend(backend):
            agent = agent_of(DDPGHERConfig.small(**SMALL, critic=critic, critic_learning_rate=2e-3))
            updates = [agent.update(batch_for(agent, 33, seed)) for seed in range(50)]
        curves[backend] = {name: torch.stack([each[name] for each in updates]) for name in updates[0]}
    for name in ("critic/loss", "critic/value", "actor/value"):
        torch.testing.assert_close(curves["auto"][name], curves["reference"][name], rtol=0.01, atol=0.01)
    loss = curves["reference"]["critic/loss"]
    assert loss[-10:].mean() < 0.8 * loss[:5].mean()


@pytest.mark.parametrize("critic", CRITICS)
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_saved_state_goes_on_bit_for_bit(kind, critic):
    config = DDPGHERConfig.small(**SMALL, critic=critic)
    agent = agent_of(config, **kind)
    batch = batch_for(agent)
    agent.standardise(batch["observation"], batch["goal"])
    for _ in range(3):
        agent.update(batch)
    file = io.BytesIO()
    torch.save(agent.state_dict(), file)
    file.seek(0)
    other = agent_of(config, seed=5, **kind)
    other.load_state_dict(torch.load(file, weights_only=True))
    for each in (agent, other):
        for _ in range(3):
            each.update(batch)
    assert torch.equal(parameters_of(agent.networks), parameters_of(other.networks))
    assert not torch.equal(parameters_of(agent.critic), parameters_of(agent.target_critic))
    assert torch.equal(agent.goal_scale.mean, other.goal_scale.mean) and agent.goal_scale.mean.abs().min() > 0


def experiment_in(environment_class, *changes):
    """The experiment in an environment of goals on a plane, whose first two of four coordinates are achieved."""
    needed = pytest.importorskip("qmkernels.train")
    for each in needed.NEEDED:
        pytest.importorskip(each, reason="training needs qmkernels[agents]")
    from qmkernels.train.experiments.ddpg_her import DDPGHERExperiment, DDPGHERSettings

    environment = environment_class()
    settings = DDPGHERSettings("Plane-v0", agent=DDPGHERConfig.small(**SMALL), **dict(changes))
    return DDPGHERExperiment(settings, environment, torch.device("cpu"))


def plane(reward=None):
    """A class of environments; ``reward`` is its compute_reward."""
    gymnasium = pytest.importorskip("gymnasium")
    spaces = gymnasium.spaces

    class Plane(gymnasium.Env):
        action_space = spaces.Box(-1.0, 1.0, (3,))
        observation_space = spaces.Dict(
            {
                "observation": spaces.Box(-9.0, 9.0, (4,)),
                "achieved_goal": spaces.Box(-9.0, 9.0, (2,)),
                "desired_goal": spaces.Box(-9.0, 9.0, (2,)),
            }
        )

    if reward is not None:
        Plane.compute_reward = lambda self, achieved, goal, info: reward(achieved, goal)
    return Plane


def walks(environment, buffer: bool):
    """Twenty random walks of nine steps: as an online buffer, or as a dataset."""
    generator = numpy.random.default_rng(0)
    walk = generator.normal(size=(20, 10, 4)).cumsum(axis=1).astype(numpy.float32)
    ends = numpy.arange(9) == 8
    if not buffer:
        before, after = walk[:, :-1].reshape(-1, 4), walk[:, 1:].reshape(-1, 4)
        return Dataset(before, numpy.zeros((180, 3)), after, truncated=numpy.tile(ends, 20), achieved_goal=after[:, :2])
    found = ReplayBuffer(environment, 180)
    for path in walk:
        desired = path[0, :2] + 0.5
        seen = [{"observation": row, "achieved_goal": row[:2], "desired_goal": desired} for row in path]
        for step in range(9):
            found.add(seen[step], numpy.zeros(3), 0.0, seen[step + 1], False, bool(ends[step]))
    return found


NEAR = 1.5
REWARDS = {
    "0 and 1": lambda a, g: (numpy.linalg.norm(a - g, axis=-1) < NEAR).astype(float),
    "-1 and 0": lambda a, g: -(numpy.linalg.norm(a - g, axis=-1) >= NEAR).astype(float),
}


@pytest.mark.parametrize("goals", ["set", "observation"])
@pytest.mark.parametrize("reward", REWARDS.values(), ids=REWARDS)
@pytest.mark.parametrize("online", [False, True], ids=["offline", "online"])
def test_goals_are_reached_where_the_environment_rewards_what_was_achieved_as_the_goal_itself(online, reward, goals):
    experiment = experiment_in(plane(reward), ("goals", goals))
    batch = experiment.batch(walks(experiment.environment, online), 500, numpy.random.default_rng(1))
    assert batch["goal"].shape == (500, 4 if goals == "observation" else 2)
    is_near = torch.linalg.norm(batch["achieved_goal"] - batch["goal"][:, :2], dim=-1) < NEAR
    assert torch.equal(batch["reached"], is_near) and 50 < is_near.sum() < 450
    agent = experiment.agent
    assert all(value.isfinite() for value in agent.update(batch).values())
    if online:
        is_kept = (batch["goal"][:, :2] == batch["desired_goal"]).all(dim=1)
        assert 0.15 < is_kept.float().mean() < 0.25
        assert torch.equal((batch["actor_goal"][:, :2] == batch["desired_goal"]).all(dim=1), is_kept)


def test_without_rewards_to_ask_for_goals_are_reached_that_are_the_very_next_state():
    experiment = experiment_in(plane())
    batch = experiment.batch(walks(experiment.environment, True), 500, numpy.random.default_rng(1))
    assert torch.equal(batch["reached"], (batch["achieved_goal"] == batch["goal"]).all(dim=1))
    assert 20 < batch["reached"].sum() < 480


def test_rewards_that_do_not_take_rows_are_named_before_the_first_update():
    experiment = experiment_in(plane(lambda achieved, goal: -float(numpy.abs(achieved - goal).max())))
    with pytest.raises(ValueError, match=r"Plane-v0: compute_reward must take rows of goals, \(33, 2\), .* got \(\)"):
        experiment.batch(walks(experiment.environment, False), 33, numpy.random.default_rng(1))


def test_the_state_of_another_agent_is_refused_by_name():
    state = agent_of().state_dict()
    with pytest.raises(
        ValueError, match=r"DDPGHER.load_state_dict: .*another agent: critic is 'mlp' there, 'iqe' here"
    ):
        agent_of(DDPGHERConfig.small(**SMALL, critic="iqe")).load_state_dict(state)


@pytest.mark.parametrize("critic", CRITICS)
def test_half_precision_keeps_float32_parameters_and_is_near_full_precision(critic):
    agent, full = (agent_of(DDPGHERConfig.small(**SMALL, critic=critic)) for _ in range(2))
    batch = batch_for(agent)
    with torch.autocast("cpu", torch.bfloat16):
        metrics = agent.update(batch)
    assert all(value.isfinite() and value.dtype == torch.float32 for value in metrics.values())
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
        ({"reached": None}, "DDPGHER.update: the batch lacks reached"),
        ({"actor_goal": None}, "DDPGHER.update: the batch lacks actor_goal"),
        ({"reached": torch.zeros(33, 1)}, r"reached must be \(33,\), got \(33, 1\)"),
        ({"goal": torch.zeros(33, 2)}, r"goal must be \(33, 4\), got \(33, 2\)"),
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
        ({"discount": 1.0}, "discount must be below 1, got 1.0"),
        ({"tau": 1.5}, "tau must be at most 1, got 1.5"),
        ({"tau": 0.0}, "tau must be positive, got 0.0"),
        ({"critic": "pqe"}, "critic must be one of mlp, mrn, iqe, got 'pqe'"),
        ({"critic": "iqe", "latent_size": 33}, "dim_per_component must divide latent_size, got 16 and 33"),
        ({"action_weight": -1.0}, "action_weight must be at least 0, got -1.0"),
    ],
)
def test_wrong_settings_are_named(changes, said):
    with pytest.raises(ValueError, match=f"DDPGHERConfig: {said}"):
        DDPGHERConfig.published(**changes)
