"""Environments without goals: one shape of observation, returns as the measure."""

from __future__ import annotations

import numpy
import pytest
import torch

from qmkernels.train import NEEDED

for needed in NEEDED:
    pytest.importorskip(needed, reason="training needs qmkernels[agents]")

import gymnasium  # noqa: E402

from qmkernels.data import Dataset  # noqa: E402
from qmkernels.train.environments import episode, make_environment  # noqa: E402
from qmkernels.train.rewards import RewardExperiment  # noqa: E402
from qmkernels.train.settings import Settings  # noqa: E402


class Rewarded(gymnasium.Env):
    """A point on a square, without goals or a word about success; a step is worth its first coordinate's move."""

    def __init__(self) -> None:
        self.observation_space = self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,))

    def observation(self):
        return self.here.astype(numpy.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.here = self.np_random.uniform(-1, 1, 2)
        return self.observation(), {}

    def step(self, action):
        self.here = (self.here + 0.3 * action).clip(-1, 1)
        return self.observation(), float(action[0]), False, False, {}


class Parts(Rewarded):
    """Observations in parts, as of dm_control."""

    def __init__(self) -> None:
        super().__init__()
        part = gymnasium.spaces.Box(-1.0, 1.0, (1,))
        self.observation_space = gymnasium.spaces.Dict({"second": part, "first": part})

    def observation(self):
        first, second = super().observation()
        return {"second": numpy.array([second]), "first": numpy.array([first])}


class Pixels(Rewarded):
    def __init__(self) -> None:
        super().__init__()
        self.observation_space = gymnasium.spaces.Box(0, 255, (8, 8, 3), numpy.uint8)


for kind in (Rewarded, Parts, Pixels):
    if f"{kind.__name__}-v0" not in gymnasium.registry:
        gymnasium.register(f"{kind.__name__}-v0", kind, max_episode_steps=12)


def test_observations_without_goals_become_a_dictionary():
    plain, parts = make_environment("Rewarded-v0"), make_environment("Parts-v0", action_repeat=2)
    for environment in (plain, parts):
        (name, space), *_ = environment.observation_space.spaces.items()
        observation, _ = environment.reset(seed=0)
        assert name == "observation" and space.shape == (2,) and observation.keys() == {"observation"}
        assert numpy.array_equal(observation["observation"], environment.unwrapped.here.astype(numpy.float32))
        assert environment.step(numpy.zeros(2, numpy.float32))[0].keys() == {"observation"}
    with pytest.raises(ValueError, match="--env Pixels-v0: observations must be a vector or a Dict of vectors"):
        make_environment("Pixels-v0")


def test_dm_control_tasks_are_environments_whose_episodes_end():
    for needed in ("shimmy", "dm_control"):
        pytest.importorskip(needed, reason="tasks of dm_control need qmkernels[dm_control]")
    environment = make_environment("dm_control/cartpole-balance-v0", action_repeat=50)
    steps = episode(environment, lambda _: numpy.zeros(1), 0)
    assert len(steps) == 20 and steps[-1].truncated and not steps[-1].terminated
    assert steps[0].observation["observation"].shape == (5,)


def test_returns_are_sums_of_rewards_over_the_same_episodes():
    class Plain(RewardExperiment):
        def make_agent(self, group):
            return None

    environment = make_environment("Rewarded-v0", action_repeat=3)
    experiment = Plain(Settings("Rewarded-v0", evaluation_episodes=3), environment, torch.device("cpu"))
    right = numpy.array([0.5, 0.0], numpy.float32)
    seen = []

    def policy(observation):
        seen.append(observation["observation"])
        return right

    for _ in range(2):
        assert experiment.measure({"": policy, "_still": lambda _: 0 * right}) == {"return": 6, "return_still": 0}
    assert len(seen) == 2 * 3 * 4 and numpy.array_equal(seen[:12], seen[12:])
    assert experiment.condition({}) is None
    state = numpy.zeros((4, 2))
    with pytest.raises(ValueError, match="has no rewards: they are 0 everywhere"):
        experiment.check_data(Dataset(state, state, state, terminated=[True] * 4))
