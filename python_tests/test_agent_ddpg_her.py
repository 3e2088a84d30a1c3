"""The DDPG+HER agent: its targets and their averages, values of known sizes, and which goals are reached."""

from __future__ import annotations

import numpy
import pytest
import torch
from agent_cases import line_batch, parameters_of
from torch.nn import functional

from qmkernels.agents import DDPGHER, DDPGHERConfig
from qmkernels.data import Dataset, ReplayBuffer

SMALL = dict(critic_sizes=(33,), actor_sizes=(33,), latent_size=32, dim_per_component=8)
KINDS = {"observation goals": {}, "set goals": {"goal_size": 2}}
CRITICS = ("mlp", "mrn", "iqe")


def agent_of(config: DDPGHERConfig | None = None, seed: int = 0, **kind) -> DDPGHER:
    torch.manual_seed(seed)
    return DDPGHER(4, 3, config or DDPGHERConfig.small(**SMALL), **kind)


NUM_STATES = 6


def chain_batch(size: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """An action's sign moves along a row of states between two walls; any state can be a goal."""
    state, goal = torch.randint(NUM_STATES, (2, size), generator=generator)
    where = torch.rand(2, size, 1, generator=generator)
    action = (where[0] - 0.5).sign() * (1 + where[1]) / 2
    following = (state + action.sign().long().squeeze(-1)).clamp(0, NUM_STATES - 1)
    places = {"observation": state, "next_observation": following, "goal": goal, "actor_goal": goal}
    rows = {name: functional.one_hot(place, NUM_STATES).float() for name, place in places.items()}
    return {**rows, "action": action, "reached": following == goal}


@pytest.mark.parametrize(("critic", "ends_at_goal"), [("mlp", True), ("mlp", False), ("iqe", True)])
def test_on_a_chain_values_are_minus_the_discounted_steps_and_the_actor_takes_the_shorter_way(critic, ends_at_goal):
    """All steps except the one that reaches the goal count, the n-th as gamma^n."""
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
    # At the goal: 0 at an end, where the agent can stay; elsewhere it leaves and reaches the goal in turn.
    is_inside = (aim > 0) & (aim < NUM_STATES - 1)
    behind = torch.where(is_inside, 0.0 if ends_at_goal else -1 / (1 - discount**2), 0.0)
    errors = []
    for sign in (-1, 1):
        steps = ((place + sign).clamp(0, NUM_STATES - 1) - aim).abs()
        expected = -(1 - discount**steps) / (1 - discount) + discount ** (steps + 1) * behind
        value = agent.value(agent.critic, observation, goal, torch.full((*away.shape, 1), 0.75 * sign)).detach()
        errors.append((value - expected).abs())
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
        agent.update(line_batch(agent, seed=seed))
    batch = line_batch(agent)
    goal, following = batch["goal"], batch["next_observation"]
    action = agent.target_actor(following, goal).mode
    for shift, bound in ((0.0, None), (1000.0, 0.0), (-1000.0, -10.0)):
        with torch.no_grad():
            agent.target_critic.network[-1].bias += shift
            value = agent.target_critic(following, goal, action)
            targets = agent.targets(batch)
            agent.target_critic.network[-1].bias -= shift
        expected = torch.where(batch["reached"], 0.9 * value, 0.9 * value - 1).clamp(-10, 0)
        if ends_at_goal:
            expected[batch["reached"]] = 0
        torch.testing.assert_close(targets, expected)
        if bound is not None:
            assert (targets[~batch["reached"]] == bound).all()


@pytest.mark.parametrize("tau", [0.125, 1.0])
@pytest.mark.parametrize("critic", CRITICS)
def test_targets_move_by_tau_towards_what_an_update_made(critic, tau):
    agent = agent_of(DDPGHERConfig.small(**SMALL, critic=critic, tau=tau))
    for seed in range(3):
        before = [parameters_of(network) for network in (agent.target_critic, agent.target_actor)]
        agent.update(line_batch(agent, seed=seed))
        trained = [parameters_of(network) for network in (agent.critic, agent.actor)]
        after = [parameters_of(network) for network in (agent.target_critic, agent.target_actor)]
        for was, learned, is_now in zip(before, trained, after, strict=True):
            assert torch.equal(is_now, was.lerp(learned, tau)) and not torch.equal(is_now, was)


def test_actions_stay_in_range_are_deterministic_and_reach_the_critic_in_halves_of_the_range():
    low, high = torch.tensor([-1.0, 0.0, 5.0]), torch.tensor([1.0, 0.5, 9.0])
    agent, unit = agent_of(action_low=low, action_high=high), agent_of()
    for member in (agent, unit):
        torch.manual_seed(1)
        torch.nn.init.normal_(member.actor.network[-1].weight, std=3.0)
    observation, goal = torch.randn(2, 500, 4)
    action, halves = (member.act(observation, goal) for member in (agent, unit))
    assert ((action >= low) & (action <= high)).all() and halves.std(dim=0).min() > 0.1
    torch.testing.assert_close(action, (low + high) / 2 + halves * (high - low) / 2)
    assert torch.equal(agent.act(observation, goal, False), agent.act(observation, goal, True))
    torch.testing.assert_close(agent.distance(observation, goal), unit.distance(observation, goal))


def test_the_penalty_brings_actions_to_the_middle():
    agent = agent_of(DDPGHERConfig.small(**SMALL, action_weight=1000.0, actor_learning_rate=1e-2))
    torch.nn.init.normal_(agent.actor.network[-1].weight, std=0.2)
    batch = line_batch(agent)
    assert agent.act(batch["observation"], batch["goal"]).abs().max() > 0.3
    for _ in range(150):
        agent.update(batch)
    assert agent.act(batch["observation"], batch["goal"]).abs().max() < 0.2


def experiment_in(environment_class, *changes):
    """The experiment in an environment with goals on a plane; the first two of four coordinates are achieved."""
    needed = pytest.importorskip("qmkernels.train")
    for package in needed.NEEDED:
        pytest.importorskip(package, reason="training needs qmkernels[agents]")
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
    replay = ReplayBuffer(environment, 180)
    for path in walk:
        desired = path[0, :2] + 0.5
        seen = [{"observation": row, "achieved_goal": row[:2], "desired_goal": desired} for row in path]
        for step in range(9):
            replay.add(seen[step], numpy.zeros(3), 0.0, seen[step + 1], False, bool(ends[step]))
    return replay


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
    with pytest.raises(ValueError, match=r"Plane-v0: compute_reward must map rows of goals, \(33, 2\), .* got \(\)"):
        experiment.batch(walks(experiment.environment, False), 33, numpy.random.default_rng(1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"discount": 1.0}, "discount must be below 1, got 1.0"),
        ({"tau": 1.5}, "tau must be at most 1, got 1.5"),
        ({"critic": "iqe", "latent_size": 33}, "dim_per_component must divide latent_size, got 16 and 33"),
    ],
)
def test_wrong_settings_are_named(changes, message):
    with pytest.raises(ValueError, match=f"DDPGHERConfig: {message}"):
        DDPGHERConfig.published(**changes)
