"""MetricRL's experiment: offline, Euclidean or with a quasimetric head, and the share of monotonic triplets."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy
import torch

from ...agents import MetricRL, MetricRLConfig, monotonic_triplets
from ...data import GoalSampler
from ...nn import IQE, LatentMRN
from ..environments import EVALUATION, Policy, episode, episode_seed
from ..goal_reaching import GoalExperiment, GoalSettings
from ..settings import OFTEN

# Functions that make heads from their input size; None: the agent's default, the Euclidean distance.
HEADS = {
    "euclidean": None,
    "iqe": lambda size: IQE(size, 16),
    "mrn": lambda size: LatentMRN(size, preset="tmd"),
}
# How the names of grids begin, in which an action is a whole step.
GRIDS = "MiniGrid-", "qmkernels/HyperMaze-"
# Episodes of random actions whose states are compared in triplets, and the most states from each.
NUM_EPISODES, MOST_STATES = 4, 100


@dataclass(frozen=True)
class MetricRLSettings(GoalSettings):
    """The settings of a run of MetricRL."""

    preset: Literal["auto", "published", "small"] = "auto"
    """Source of all other options' defaults: the published setting, or one that learns a small maze in minutes on one
    core. auto: small."""
    goals: Literal["set", "observation"] = "observation"
    """observation: a goal is an observation that starts with the goal's values and ends with zeros, as published. set:
    a goal stands for all states that achieve it, and has its own inputs."""
    head: Literal["euclidean", "iqe", "mrn"] = "euclidean"
    """Distance between latents: the published Euclidean one, or a quasimetric: IQE with components of 16 values, or MRN
    with 8 components."""
    actor_goals: GoalSampler = field(default_factory=lambda: GoalSampler(geometric=0.0, random=1.0))
    """Goals that the actor learns to reach. (The code takes the environment's goals at the time of collection.)"""
    agent: MetricRLConfig = field(default_factory=MetricRLConfig)
    """The agent's own settings."""

    smallest_batch: ClassVar = 2


def _published(env: str) -> MetricRLSettings:
    """Source: Reichlin et al. 2024 and its public code, whose actor starts after 5,000 updates; ours at once."""
    return MetricRLSettings(env, offline=True, steps=50_000, batch_size=256)


def _small(env: str) -> MetricRLSettings:
    """Small networks, and actions held for five steps as in QRL's preset for mazes; in grids, of few states, smaller
    ones, less data and more updates, which the door and the key of MiniGrid need."""
    if env.startswith(GRIDS):
        return MetricRLSettings(
            env, offline=True, steps=4000, collect_steps=30_000, evaluation_interval=1000, checkpoint_interval=1000,
            log_interval=50, agent=MetricRLConfig.small(phi_width=64, latent_size=32, dynamics_sizes=(128, 128)),
        )  # fmt: skip
    return MetricRLSettings(env, offline=True, steps=1500, action_repeat=5, agent=MetricRLConfig.small(), **OFTEN)


class MetricRLExperiment(GoalExperiment):
    method: ClassVar = "metric_rl"
    presets: ClassVar = {"published": _published, "small": _small}
    agent_class: ClassVar = MetricRL
    settings: MetricRLSettings

    def make_agent(self, group: Any) -> MetricRL:
        return super().make_agent(group, head=HEADS[self.settings.head])

    def goal_samplers(self) -> dict[str, GoalSampler]:
        return {"goal": self.settings.actor_goals}

    def measure(self, policies: dict[str, Policy]) -> dict[str, float]:
        """Measures success, and ``monotonic_triplets`` of the agent: in episodes of random actions, the share of
        triplets of states in which the state with fewer steps to the third is also the nearer one. Those steps are not
        the fewest possible, so even the true distance stays below 1."""
        measures = super().measure(policies)
        if self.most_likely in policies.values():
            shares = [monotonic_triplets(*self._distances(states)) for states in self.random_episodes]
            measures["monotonic_triplets"] = torch.stack(shares).mean().item()
        return measures

    @cached_property
    def random_episodes(self) -> list[torch.Tensor]:
        """The episodes' first states, (N, observation_size) each; the same in every run with the same seed."""
        generator, episodes = numpy.random.default_rng([self.settings.seed, EVALUATION, 1]), []
        for number in range(NUM_EPISODES):
            seed = episode_seed(self.settings.seed, EVALUATION, number)
            steps = episode(self.environment, lambda _: self.random(generator), seed)
            states = [steps[0].observation, *(step.next_observation for step in steps)][:MOST_STATES]
            episodes.append(self.as_tensor(numpy.stack([state["observation"] for state in states])))
        return episodes

    def _distances(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns distances from earlier to later states of an episode, learned and in steps."""
        steps = torch.arange(len(states), device=states.device)
        apart = (steps - steps.unsqueeze(-1)).float()
        # The lengths of the ways back are unknown.
        return self.agent.state_distances(states), torch.where(apart >= 0, apart, torch.nan)


EXPERIMENT = MetricRLExperiment
