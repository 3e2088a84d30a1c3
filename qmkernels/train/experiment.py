"""What a method brings to a training run: one class per method, in ``experiments/METHOD.py``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..agents.agent import Agent
from ..data import Dataset, ReplayBuffer
from ..options import suggestion
from .environments import EVALUATION, Policy
from .settings import Settings

Panel = Callable[[Figure, Axes], None]
Curve = Sequence[dict[str, float]]


class Experiment:
    """An agent in its environment: how a run makes it, feeds it, acts by it and measures it.

    A method gives ``method``, ``presets``, ``agent_class``, `batch`, `condition`, `measure` and `panels`, and replaces
    what else differs with it. `goal_reaching.GoalExperiment` is the one for agents that reach goals,
    `rewards.RewardExperiment` the one for agents that collect the environment's rewards.
    """

    method: ClassVar[str]
    """Its name in commands and checkpoints."""
    presets: ClassVar[dict[str, Callable[[str], Settings]]]
    """By name: from an environment's name to settings."""
    agent_class: ClassVar[type]
    example: ClassVar[str] = "PointMaze_UMaze-v3"
    """An environment that suits it, for its help."""

    def __init__(self, settings: Any, environment: gymnasium.Env, device: torch.device, group: Any = None) -> None:
        self.settings, self.environment, self.device = settings, environment, device
        self.exploration = settings.exploration
        self.chance: dict[str, float] = {}
        """What `measure` found of random actions, once a run has measured them."""
        self.agent = self.make_agent(group)

    @classmethod
    def defaults(cls, env: str, dataset: str = "", preset: str = "auto") -> Settings:
        """The settings of a preset; ValueError for an unknown one."""
        presets = ("auto", *cls.presets)
        if preset not in presets:
            raise ValueError(
                f"--preset {preset}: there is no such preset.{suggestion(preset, presets)} Presets of {cls.method}: "
                f"{', '.join(presets)}."
            )
        name = cls.automatic(env, dataset) if preset == "auto" else preset
        return replace(cls.presets[name](env), preset=preset, dataset=dataset, out=Path(f"qmkernels_{cls.method}"))

    @classmethod
    def automatic(cls, env: str, dataset: str) -> str:
        """The preset that "auto" stands for."""
        return "small"

    @classmethod
    def environment_arguments(cls, settings: Any) -> dict[str, Any]:
        """Arguments that the environment is made with, besides its name."""
        return {}

    def make_agent(self, group: Any, **arguments: Any) -> Agent:
        """The agent, for `environment`, on `device`; ``group``: the processes that it averages gradients over;
        ``arguments``: what else it takes."""
        space, shape = self.environment.action_space, self.environment.observation_space["observation"].shape
        discrete = isinstance(space, gymnasium.spaces.Discrete)
        actions = dict(discrete=True) if discrete else dict(action_low=space.low, action_high=space.high)
        return self.agent_class(
            shape[0] if len(shape) == 1 else shape, int(space.n) if discrete else space.shape[0],
            self.settings.agent, device=self.device, group=group, **actions, **arguments,
        )  # fmt: skip

    def check_data(self, data: Dataset) -> None:
        """ValueError where the agent cannot learn from a dataset that was given."""

    def remarks(self) -> list[str]:
        """Sentences to print once, before the first update."""
        return []

    def begin(self, data: Dataset | ReplayBuffer) -> None:
        """Called before the first update of a run, with the data that it learns from."""

    def extra(self) -> dict[str, tuple[int, ...]]:
        """Further arrays of the buffer: names to the shapes of one transition's values."""
        return {}

    def begin_episode(self, number: int, generator: numpy.random.Generator) -> dict[str, numpy.ndarray]:
        """Before an episode of the buffer, the number-th of the run: the values of `extra` for all its transitions.

        What is drawn here, such as a skill, may be kept for `explore` until the next episode begins. No update comes
        within an episode, so that nothing of it is in a checkpoint.
        """
        return {}

    def batch(
        self, data: Dataset | ReplayBuffer, size: int, generator: numpy.random.Generator
    ) -> dict[str, torch.Tensor]:
        """The batch of one update, on the CPU."""
        raise NotImplementedError

    def condition(self, observation: dict[str, numpy.ndarray]) -> torch.Tensor:
        """What the agent acts on besides the observation: a goal or a skill."""
        raise NotImplementedError

    def measure(self, policies: dict[str, Policy]) -> dict[str, float]:
        """The numbers of an evaluation, each with its policy's name behind it; its episodes are always the same."""
        raise NotImplementedError

    def panels(self, curve: Curve) -> list[Panel]:
        """The panels of a run's figure, from left to right."""
        raise NotImplementedError

    def tables(self, curve: Curve) -> dict[str, str]:
        """Further files of a run, by name, as text."""
        return {}

    def policies(self) -> dict[str, Policy]:
        """The ways to act that are measured, each from its beginning: the agent's most likely action alone."""
        return {"": self.most_likely}

    def at_random(self) -> Policy:
        """Random actions, from their beginning: the same ones in the same episodes."""
        generator = numpy.random.default_rng([self.settings.seed, EVALUATION])
        return lambda _: self.random(generator)

    def most_likely(self, observation: dict[str, numpy.ndarray]) -> numpy.ndarray:
        return self.act(observation, deterministic=True)

    def act(self, observation: dict[str, numpy.ndarray], deterministic: bool) -> numpy.ndarray:
        """The agent's action as the environment takes it."""
        return self.taken(self.agent.act(self.state(observation), self.condition(observation), deterministic))

    def explore(self, observation: dict[str, numpy.ndarray], generator: numpy.random.Generator) -> numpy.ndarray:
        """The agent's action with noise of ``exploration`` on it or, of discrete ones, sometimes a random action
        instead."""
        space, exploration = self.environment.action_space, self.exploration
        if isinstance(space, gymnasium.spaces.Discrete):
            explores = generator.random() < exploration
            return self.random(generator) if explores else self.most_likely(observation)
        noise = exploration * (space.high - space.low) / 2 * generator.normal(size=space.shape)
        return (self.act(observation, deterministic=False) + noise).clip(space.low, space.high).astype(space.dtype)

    def random(self, generator: numpy.random.Generator) -> numpy.ndarray:
        """An action, uniformly random."""
        space = self.environment.action_space
        if isinstance(space, gymnasium.spaces.Discrete):
            return int(generator.integers(space.n)) + int(space.start)
        return generator.uniform(space.low, space.high).astype(space.dtype)

    def state(self, observation: dict[str, numpy.ndarray]) -> torch.Tensor:
        return self.as_tensor(observation["observation"])

    def as_tensor(self, value: Any) -> torch.Tensor:
        return torch.as_tensor(value, dtype=torch.float32, device=self.device)

    def taken(self, action: torch.Tensor) -> numpy.ndarray:
        """An agent's action as the environment takes it."""
        space, action = self.environment.action_space, action.cpu().numpy()
        if isinstance(space, gymnasium.spaces.Discrete):
            return int(action) + int(space.start)
        return action.clip(space.low, space.high)
