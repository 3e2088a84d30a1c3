"""Small training runs in toy environments for the tests of ``qmkernels train``, and their comparison."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from qmkernels.train import NEEDED, run

for needed in NEEDED:
    pytest.importorskip(needed, reason="training needs qmkernels[agents]")

import gymnasium  # noqa: E402
import numpy  # noqa: E402

from qmkernels.train.experiments import METHODS, experiment_of  # noqa: E402
from qmkernels.train.goal_reaching import GoalExperiment  # noqa: E402


class Walk(gymnasium.Env):
    """A point on a square that moves by its action; the goal is a position."""

    def __init__(self, discrete: bool = False) -> None:
        def place():
            return gymnasium.spaces.Box(-1.0, 1.0, (2,))

        self.discrete = discrete
        self.action_space = gymnasium.spaces.Discrete(4, start=1) if discrete else place()
        self.observation_space = gymnasium.spaces.Dict(
            {"observation": place(), "achieved_goal": place(), "desired_goal": place()}
        )

    def _observation(self) -> dict[str, numpy.ndarray]:
        here, goal = (value.astype(numpy.float32) for value in (self.here, self.goal))
        return {"observation": here, "achieved_goal": here, "desired_goal": goal}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.here, self.goal = self.np_random.uniform(-1, 1, (2, 2))
        return self._observation(), {}

    def step(self, action):
        assert self.action_space.contains(action if self.discrete else numpy.asarray(action, numpy.float32)), action
        move = numpy.array([[1, 0], [-1, 0], [0, 1], [0, -1]])[int(action) - 1] if self.discrete else action
        self.here = (self.here + 0.3 * numpy.asarray(move)).clip(-1, 1)
        success = bool(numpy.linalg.norm(self.here - self.goal) < 0.4)
        return self._observation(), float(success), False, False, {"is_success": success}


class NoGoals(Walk):
    def __init__(self, discrete: bool = False) -> None:
        super().__init__(discrete)
        self.observation_space = self.observation_space["observation"]

    def _observation(self) -> numpy.ndarray:
        return super()._observation()["observation"]


class Silent(Walk):
    """A walk whose info reports no success; it ends at the goal."""

    def step(self, action):
        observation, reward, _, truncated, info = super().step(action)
        return observation, reward, info["is_success"], truncated, {}


class Broken(Walk):
    """A walk that returns an invalid part from its 100th step on."""

    def __init__(self, part: str) -> None:
        super().__init__()
        self.part, self.num_steps = part, 0

    def step(self, action):
        observation, reward, *rest = super().step(action)
        self.num_steps += 1
        if self.num_steps >= 100 and self.part == "error":
            raise RuntimeError("the simulator has lost its way")
        if self.num_steps >= 100 and self.part == "reward":
            reward = numpy.inf
        elif self.num_steps >= 100:
            observation[self.part] = numpy.full(3 if self.part == "achieved_goal" else 2, numpy.nan, numpy.float32)
        return observation, reward, *rest


ENVIRONMENTS = {"Walk-v0": {}, "WalkDiscrete-v0": {"discrete": True}}
for part in ("observation", "achieved_goal", "reward", "error"):
    if f"Broken-{part}-v0" not in gymnasium.registry:
        gymnasium.register(f"Broken-{part}-v0", Broken, max_episode_steps=12, kwargs={"part": part})
for name, arguments in ENVIRONMENTS.items():
    if name not in gymnasium.registry:
        gymnasium.register(name, Walk, max_episode_steps=12, kwargs=arguments)
if "NoGoals-v0" not in gymnasium.registry:
    gymnasium.register("NoGoals-v0", NoGoals, max_episode_steps=12)
    gymnasium.register("NoGoalsDiscrete-v0", NoGoals, max_episode_steps=12, kwargs={"discrete": True})
    gymnasium.register("Silent-v0", Silent, max_episode_steps=12)
    gymnasium.register("Endless-v0", Walk)

SMALL = [
    *("--batch-size", "32", "--prefill-episodes", "3", "--updates-per-cycle", "7", "--episodes-per-cycle", "1"),
    *("--evaluation-interval", "10", "--evaluation-episodes", "2", "--checkpoint-interval", "8", "--log-interval", "5"),
    *("--collect-steps", "100", "--buffer-capacity", "60", "--device", "cpu"),
]
AGENTS = {
    "qrl": [
        *("--agent.encoder-sizes", "16", "--agent.latent-size", "8", "--agent.projector-sizes", "16"),
        *("--agent.embedding-size", "32", "--agent.dim-per-component", "8", "--agent.dynamics-sizes", "16"),
        *("--agent.actor-sizes", "16", "--agent.entropy-samples", "4"),
    ],
    "tmd": [
        *("--agent.critic-sizes", "16", "--agent.actor-sizes", "16", "--agent.latent-size", "16"),
        *("--agent.num-components", "2"),
    ],
    "metric_rl": [
        *("--agent.phi-width", "16", "--agent.phi-blocks", "1", "--agent.latent-size", "16"),
        *("--agent.actor-sizes", "16", "--agent.dynamics-sizes", "16"),
    ],
    "crl": ["--agent.critic-sizes", "16", "--agent.actor-sizes", "16", "--agent.latent-size", "16"],
    "ddpg_her": ["--agent.critic-sizes", "16", "--agent.actor-sizes", "16", "--agent.latent-size", "16"],
    "gcbc": ["--agent.actor-sizes", "16"],
    "iqrl": [
        *("--agent.encoder-sizes", "16", "--agent.dynamics-sizes", "16", "--agent.critic-sizes", "16"),
        *("--agent.actor-sizes", "16", "--agent.num-groups", "8"),
    ],
    "metra": ["--agent.phi-sizes", "16", "--agent.critic-sizes", "16", "--agent.actor-sizes", "16"],
}
REACHING = [method for method in METHODS if issubclass(experiment_of(method), GoalExperiment)]
"""Methods with goal-reaching agents."""
OFFLINE = ["--preset", "maze", "--action-repeat", "2"]

_GOALS = {
    f"{when}, {goals} goals": [option, "--goals", goals]
    for goals in ("set", "observation")
    for when, option in (("offline", "--offline"), ("online", "--no-offline"))
}
_OTHER_WAYS = {
    "iqrl": {
        "online": ["--env", "NoGoals-v0"],
        "online, returns of six steps": ["--env", "NoGoals-v0", "--agent.n-steps", "6"],
        "offline": ["--env", "NoGoals-v0", "--offline"],
    },
    "metra": {
        "online": ["--env", "NoGoals-v0"],
        "online, goals": ["--env", "Walk-v0", "--head", "iqe"],
        "online, discrete skills": ["--env", "Walk-v0", "--agent.discrete-skills", "--head", "mrn"],
    },
}
WAYS = {method: _OTHER_WAYS.get(method, _GOALS) for method in METHODS}
"""Small runs per method, keyed by what is particular to them."""


class Killed(BaseException):
    """An exception that nothing catches."""


def train(out: Path, *arguments: str, env: str = "Walk-v0", method: str = "qrl") -> int:
    return run([method, "--env", env, "--out", str(out), *SMALL, *AGENTS[method], *arguments])


@contextlib.contextmanager
def killed_at(number: int, method: str = "qrl") -> Iterator[None]:
    """Makes the number-th update of the method's agent in the block raise `Killed`, which ends the block."""
    agent_class = experiment_of(method).agent_class
    update, count = agent_class.update, 0

    def deadly(agent, batch):
        nonlocal count
        count += 1
        if count == number:
            raise Killed
        return update(agent, batch)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(agent_class, "update", deadly)
        yield


def checkpoint_of(out: Path) -> dict:
    return torch.load(out / "checkpoint.pt", weights_only=True)


def assert_same(first, second, path: str = "") -> None:
    assert type(first) is type(second), path
    if isinstance(first, dict):
        assert first.keys() == second.keys(), path
        for key in first:
            if key not in ("seconds", "settings"):
                assert_same(first[key], second[key], f"{path}/{key}")
    elif isinstance(first, list):
        assert len(first) == len(second), path
        for number, pair in enumerate(zip(first, second, strict=True)):
            assert_same(*pair, f"{path}/{number}")
    else:
        assert torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second, path


# This file is imported there, and imports its neighbours.
ENVIRONMENT_OF_PROCESSES = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
