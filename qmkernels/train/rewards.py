"""Experiments with agents that collect the environment's rewards: the return as the measure."""

from __future__ import annotations

from typing import Any

import numpy
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..agents.agent import Agent
from ..data import Dataset, has_goals
from .environments import EVALUATION, Policy, episode, episode_seed
from .experiment import Curve, Experiment, Panel


class RewardExperiment(Experiment):
    """A method gives ``presets``, ``agent_class`` and `batch`."""

    example = "Pendulum-v1"

    def make_agent(self, group: Any) -> Agent:
        if has_goals(self.environment.observation_space):
            name, agent = self.settings.env, self.agent_class.__name__
            raise ValueError(f"{name} has goals, which {agent} would not see; make them a part of observations.")
        return super().make_agent(group)

    def check_data(self, data: Dataset) -> None:
        if not data.arrays["reward"].any():
            raise ValueError(f"--dataset {self.settings.dataset} has no rewards: they are 0 everywhere.")

    def condition(self, observation: dict[str, numpy.ndarray]) -> torch.Tensor | None:
        """Nothing besides the observation."""
        return None

    def measure(self, policies: dict[str, Policy]) -> dict[str, float]:
        """return: the sum of an episode's rewards, without discount, a mean over episodes."""
        return {f"return{name}": self.mean_return(policy) for name, policy in policies.items()}

    def mean_return(self, policy: Policy) -> float:
        """Over ``evaluation_episodes``, the same for every policy and in every evaluation."""
        count, seed = self.settings.evaluation_episodes, self.settings.seed
        episodes = (episode(self.environment, policy, episode_seed(seed, EVALUATION, n)) for n in range(count))
        return sum(step.reward for steps in episodes for step in steps) / count

    def panels(self, curve: Curve) -> list[Panel]:
        """Returns, and that of random actions."""

        def returns(_: Figure, panel: Axes) -> None:
            draw_curves(panel, curve, {"return": (1.0, "the agent's most likely actions")})
            if "return" in self.chance:
                panel.axhline(self.chance["return"], color="0.5", linestyle="--", label="random actions")
            panel.set(ylabel=f"return, mean of {self.settings.evaluation_episodes} episodes")
            panel.set_title(f"{self.settings.env}, seed {self.settings.seed}", fontsize=11)
            panel.legend(fontsize=8)

        return [returns]


def draw_curves(panel: Axes, curve: Curve, shown: dict[str, tuple[float, str]]) -> None:
    """Measures by the environment's steps, offline by updates; ``shown``: what each is divided by, and its label."""
    is_online = any(entry["environment_steps"] for entry in curve)
    when = "environment_steps" if is_online else "step"
    for name, (whole, label) in shown.items():
        points = [(entry[when], entry[name] / whole) for entry in curve if name in entry]
        panel.plot(*numpy.reshape(points, (-1, 2)).T, marker="o", markersize=3, label=label)
    panel.set(xlabel="environment steps" if is_online else "updates")
