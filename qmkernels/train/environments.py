"""Environments: made by name, stepped through episodes, and asked for data."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import gymnasium
import numpy

from ..data import Dataset, has_goals, is_image
from ..options import sentence, suggestion
from ..progress import progress
from . import hyper_maze as hyper_maze  # registers its environment
from . import point_arena as point_arena  # registers its environment
from .image_stacks import with_stacks
from .minigrid_goals import MiniGridGoals, is_of_minigrid
from .ogbench_tasks import OGBenchGoals, is_of_ogbench

Policy = Callable[[dict[str, numpy.ndarray]], numpy.ndarray]

# Packages that register environments: how the names of these begin, and the extra of qmkernels that installs them.
REGISTERING = {
    "gymnasium_robotics": (("Fetch", "Hand", "PointMaze", "AntMaze", "Adroit", "FrankaKitchen"), "robotics"),
    "ogbench": (
        ("pointmaze-", "antmaze-", "humanoidmaze-", "antsoccer-", "cube-", "scene-", "puzzle-"), "robotics",
    ),
    "minigrid": (("MiniGrid-",), "minigrid"),
    "shimmy": (("dm_control/",), "dm_control"),
}  # fmt: skip

# What an episode's seed is for, so that no two purposes share episodes.
COLLECTION, EVALUATION, DATASET = 1, 2, 3


class ActionRepeat(gymnasium.Wrapper):
    """Holds every action for some steps; rewards add up, and success is that of any of them."""

    def __init__(self, environment: gymnasium.Env, repeat: int) -> None:
        super().__init__(environment)
        self._repeat = repeat

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        total, succeeded = 0.0, False
        for _ in range(self._repeat):
            observation, reward, terminated, truncated, info = self.env.step(action)
            total, succeeded = total + float(reward), succeeded or is_success(info)
            if terminated or truncated:
                break
        return observation, total, terminated, truncated, info | ({"success": succeeded} if tells(info) else {})


class Watched(gymnasium.Wrapper):
    """Within `calling`, calls a function after every step."""

    _after_step: Callable[[], object] | None = None

    @contextlib.contextmanager
    def calling(self, after_step: Callable[[], object]) -> Iterator[None]:
        self._after_step = after_step
        try:
            yield
        finally:
            self._after_step = None

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        result = self.env.step(action)
        if self._after_step is not None:
            self._after_step()
        return result


def make_environment(name: str, action_repeat: int = 1, frame_stack: int = 1, **arguments: Any) -> gymnasium.Env:
    """An environment whose observations are a Dict and whose actions are a vector or Discrete; ValueError for others.

    ``arguments`` are gymnasium's, or the environment's own.
    Without goals the Dict has "observation" alone: the vector or image that the environment gives, or all of its
    dictionary, unless that has an image as "observation". Images are stacked, `with_stacks`.
    """
    missing = [
        f'{package} is not installed: pip install "qmkernels[{extra}]"'
        for package, (beginnings, extra) in REGISTERING.items()
        if name.startswith(beginnings) and not _register(package)
    ]
    try:
        environment = gymnasium.make(name, **arguments)
    except (gymnasium.error.NameNotFound, gymnasium.error.NamespaceNotFound) as error:
        said = missing or [f"there is no such environment.{suggestion(name, _all_names())}"]
        raise ValueError(f"--env {name}: {' '.join(said)}") from error
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        raise ValueError(" ".join([f"--env {name}: {sentence(str(error))}", *missing])) from error
    if is_of_ogbench(environment):
        environment = OGBenchGoals(environment)
    elif is_of_minigrid(environment):
        environment = MiniGridGoals(environment)
    if not has_goals(environment.observation_space):
        environment = _with_dictionary(environment, name)
    space = environment.action_space
    if not isinstance(space, gymnasium.spaces.Discrete) and not (
        isinstance(space, gymnasium.spaces.Box) and len(space.shape) == 1 and space.is_bounded()
    ):
        raise ValueError(f"--env {name}: actions must be a bounded vector or Discrete, got {space}.")
    # Tasks of dm_control and MiniGrid's truncate their episodes themselves.
    truncates = environment.spec.namespace == "dm_control" or is_of_minigrid(environment)
    if environment.spec.max_episode_steps is None and not truncates:
        raise ValueError(f"--env {name}: episodes must end; register it with max_episode_steps.")
    if action_repeat > 1:
        environment = ActionRepeat(environment, action_repeat)
    if is_image(environment.observation_space["observation"]):
        return with_stacks(environment, frame_stack)
    if frame_stack > 1:
        raise ValueError(f"--frame-stack {frame_stack}: observations of {name} are vectors, not images.")
    return environment


def _register(module: str) -> bool:
    """Registers a package's environments with gymnasium; False where it is not installed."""
    if importlib.util.find_spec(module) is None:
        return False
    gymnasium.register_envs(importlib.import_module(module))
    return True


def _all_names() -> list[str]:
    """Of every environment that could be made here, whatever the packages say when they are imported."""
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for package in REGISTERING:
            _register(package)
    return list(gymnasium.registry)


def _with_dictionary(environment: gymnasium.Env, name: str) -> gymnasium.Env:
    """Observations as a dictionary with the vector or image "observation" alone, or what stands beside the image."""
    spaces, wrappers = gymnasium.spaces, gymnasium.wrappers
    if isinstance(environment.observation_space, spaces.Dict):
        if is_image(environment.observation_space.get("observation")):
            return environment
        if all(isinstance(space, spaces.Box) for space in environment.observation_space.values()):
            environment = wrappers.FlattenObservation(environment)
    space = environment.observation_space
    if not is_image(space) and (not isinstance(space, spaces.Box) or len(space.shape) != 1):
        raise ValueError(
            f"--env {name}: observations must be a vector, a Dict of vectors, or images, uint8 of three dimensions, "
            f"got {space}."
        )
    return wrappers.TransformObservation(
        environment, lambda observation: {"observation": observation}, spaces.Dict({"observation": space})
    )


def tells(info: dict) -> bool:
    """Whether an environment's info tells success at all."""
    return "success" in info or "is_success" in info


def is_success(info: dict) -> bool:
    return bool(info.get("success", info.get("is_success", False)))


def episode_seed(seed: int, purpose: int, number: int) -> int:
    """An episode depends on these alone, not on the episodes before it."""
    return int(numpy.random.SeedSequence([seed, purpose, number]).generate_state(1)[0])


class Step(NamedTuple):
    observation: dict[str, numpy.ndarray]
    action: numpy.ndarray
    reward: float
    next_observation: dict[str, numpy.ndarray]
    terminated: bool
    truncated: bool
    success: bool


def episode(
    environment: gymnasium.Env, policy: Policy, seed: int, *, options: dict | None = None, stop_at_success: bool = False
) -> list[Step]:
    """One whole episode; ValueError for an observation or reward that is not finite or not as its space says."""
    observation, _ = environment.reset(seed=seed, options=options)
    steps: list[Step] = []
    _check(environment, observation, 0.0, "after reset")
    while not steps or not (steps[-1].terminated or steps[-1].truncated or (stop_at_success and steps[-1].success)):
        action = policy(observation)
        following, reward, terminated, truncated, info = environment.step(action)
        _check(environment, following, reward, f"after step {len(steps) + 1}")
        success = is_success(info) or (terminated and not tells(info))
        steps.append(Step(observation, action, float(reward), following, terminated, truncated, success))
        observation = following
    return steps


def _check(environment: gymnasium.Env, observation: dict[str, numpy.ndarray], reward: float, when: str) -> None:
    """Before anything of it is kept: networks that have seen one NaN are NaN."""
    for name, space in environment.observation_space.spaces.items():
        value = numpy.asarray(observation[name])
        if value.shape != space.shape:
            raise ValueError(
                f"{environment.spec.id}: {name} {when} of an episode must be {space.shape}, as its space says, got "
                f"{value.shape}."
            )
        if not numpy.isfinite(value).all():
            raise ValueError(f"{environment.spec.id}: {name} {when} of an episode is not finite: {value}.")
    if not numpy.isfinite(reward):
        raise ValueError(f"{environment.spec.id}: the reward {when} of an episode is {reward}.")


def collect_dataset(
    environment: gymnasium.Env, num_steps: int, seed: int, *, reversion: float, scale: float
) -> Dataset:
    """Transitions of actions that drift: x <- (1 - reversion) x + scale * normal, clipped to the range. Of discrete
    actions all are alike; in the dataset they begin with 0."""
    space = environment.action_space
    discrete = isinstance(space, gymnasium.spaces.Discrete)
    generator = numpy.random.default_rng([seed, DATASET])
    if not discrete:
        centre, half_range = (space.high + space.low) / 2, (space.high - space.low) / 2
    steps: list[Step] = []
    number = 0
    with progress(num_steps, "step", "collecting", leave=False, delay=2) as bar:
        while len(steps) < num_steps:
            state = generator.normal(size=space.shape)

            def any_action(_: dict) -> int:
                return int(generator.integers(space.n)) + int(space.start)

            def drifting(_: dict) -> numpy.ndarray:
                nonlocal state
                state = (1 - reversion) * state + scale * generator.normal(size=space.shape)
                return (centre + half_range * state.clip(-1, 1)).astype(space.dtype)

            taken = episode(environment, any_action if discrete else drifting, episode_seed(seed, DATASET, number))
            bar.update(len(taken))
            steps += taken
            number += 1
    achieved = None
    if has_goals(environment.observation_space):
        achieved = [step.next_observation["achieved_goal"] for step in steps]
    return Dataset(
        observation=[step.observation["observation"] for step in steps],
        action=[step.action - int(space.start) if discrete else step.action for step in steps],
        next_observation=[step.next_observation["observation"] for step in steps],
        reward=[step.reward for step in steps],
        terminated=[step.terminated for step in steps],
        truncated=[step.truncated for step in steps],
        achieved_goal=achieved,
        action_space=None if discrete else space,
    )
