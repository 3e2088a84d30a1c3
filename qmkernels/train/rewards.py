"""Experiments with agents that collect the environment's rewards: the return as the measure."""

from __future__ import annotations

import numpy
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..data import Dataset
from .environments import EVALUATION, Policy, episode, episode_seed
from .experiment import Curve, Experiment, Panel


class RewardExperiment(Experiment):
    """A method gives ``presets``, `make_agent` and `batch`."""

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
        """Returns by the environment's steps."""

        def returns(_: Figure, panel: Axes) -> None:
            for key in dict.fromkeys(name for entry in curve for name in entry if name.startswith("return")):
                points = [(entry["environment_steps"], entry[key]) for entry in curve if key in entry]
                panel.plot(*zip(*points, strict=True), marker="o", markersize=3, label=key.replace("_", ", "))
            panel.set(xlabel="environment steps", ylabel=f"mean of {self.settings.evaluation_episodes} episodes")
            panel.set_title(f"{self.settings.env}, seed {self.settings.seed}", fontsize=11)
            panel.legend(loc="lower right", fontsize=8)

        return [returns]
