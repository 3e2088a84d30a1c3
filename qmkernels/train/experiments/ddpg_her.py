"""DDPG+HER's experiment: hindsight goals and whether they are reached; online for Fetch tasks, offline for mazes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy
import torch

from ...agents import DDPGHER, DDPGHERConfig
from ...data import Dataset, GoalSampler, ReplayBuffer
from ..goal_reaching import GoalExperiment, GoalSettings
from ..settings import OFTEN


@dataclass(frozen=True)
class DDPGHERSettings(GoalSettings):
    """The settings of a run of DDPG+HER."""

    preset: Literal["auto", "published", "online", "small"] = "auto"
    """Source of all other options' defaults. published: online, the published setting. online: with small networks for
    a CPU. small: the same offline, for mazes. auto: online for Fetch and Hand tasks, otherwise small."""
    critic_goals: GoalSampler = field(default_factory=lambda: GoalSampler(geometric=0.0, uniform=1.0))
    """Hindsight goals for the values (HER: "future", which is uniform)."""
    actor_goals: GoalSampler = field(default_factory=lambda: GoalSampler(geometric=0.0, uniform=1.0))
    """Hindsight goals that the actor learns to reach (HER: the same as for the values)."""
    desired_goals: float = 0.2
    """Online, the share of transitions that keep their episode's goal (HER: one in five)."""
    agent: DDPGHERConfig = field(default_factory=DDPGHERConfig)
    """The agent's own settings."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.desired_goals <= 1:
            raise ValueError(f"desired_goals must be from 0 to 1, got {self.desired_goals}.")


def _published(env: str) -> DDPGHERSettings:
    """Source: the public code of Liu et al. 2022, which runs 100,000 updates on FetchPush and FetchSlide."""
    return DDPGHERSettings(
        env, steps=100_000, batch_size=1024, updates_per_cycle=40, prefill_episodes=20, episodes_per_cycle=20,
        exploration=0.2,
    )  # fmt: skip


def _online(env: str) -> DDPGHERSettings:
    """Small networks on Fetch tasks, with fewer episodes than published."""
    return DDPGHERSettings(
        env, steps=3000, updates_per_cycle=50, prefill_episodes=50, episodes_per_cycle=2, exploration=0.2,
        agent=DDPGHERConfig.small(), **OFTEN,
    )  # fmt: skip


def _small(env: str) -> DDPGHERSettings:
    """The data of QRL's and TMD's small presets for mazes: actions held for five steps.

    Goals from other episodes, for values and actor, connect pieces of paths in the data.
    """
    return DDPGHERSettings(
        env, offline=True, steps=5000, action_repeat=5,
        agent=DDPGHERConfig.small(discount=0.97, ends_at_goal=True, action_weight=0.0),
        critic_goals=GoalSampler(current=0.2, geometric=0.0, uniform=0.3, random=0.5),
        actor_goals=GoalSampler(geometric=0.0, random=1.0), **OFTEN,
    )  # fmt: skip


class DDPGHERExperiment(GoalExperiment):
    method: ClassVar = "ddpg_her"
    presets: ClassVar = {"published": _published, "online": _online, "small": _small}
    agent_class: ClassVar = DDPGHER
    unit_of_distance: ClassVar = "discounted steps"
    settings: DDPGHERSettings

    @classmethod
    def automatic(cls, env: str, dataset: str) -> str:
        return "online" if env.startswith(("Fetch", "Hand")) and not dataset else "small"

    def goal_samplers(self) -> dict[str, GoalSampler]:
        return {"goal": self.settings.critic_goals, "actor_goal": self.settings.actor_goals}

    @property
    def reward_of(self) -> Any:
        """The environment's ``compute_reward`` for rows of achieved and desired goals, or None if it has none."""
        return getattr(self.environment.unwrapped, "compute_reward", None)

    def batch(
        self, data: Dataset | ReplayBuffer, size: int, generator: numpy.random.Generator
    ) -> dict[str, torch.Tensor]:
        batch = super().batch(data, size, generator)
        reached = batch["goal_is_next"]
        if self.reward_of is None or "achieved_goal" not in batch:
            return {**batch, "reached": reached}
        if "desired_goal" in batch:
            is_kept = torch.from_numpy(generator.random(size) < self.settings.desired_goals)
            desired, reached = self.as_goal(batch["desired_goal"]), reached & ~is_kept
            batch |= {name: torch.where(is_kept[:, None], desired, batch[name]) for name in self.samplers}
        return {**batch, "reached": reached | self.achieves(batch["achieved_goal"], batch["goal"])}

    def achieves(self, achieved: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
        """Returns (B,) bool: whether the environment rewards what was achieved as much as the goal itself."""
        achieved, goal = achieved.numpy(), goal[:, : achieved.shape[1]].numpy()
        rewards, best = (numpy.asarray(self.reward_of(reached, goal, {})) for reached in (achieved, goal))
        if rewards.shape != (len(goal),):
            raise ValueError(
                f"{self.settings.env}: compute_reward must map rows of goals, {goal.shape}, to as many rewards, got "
                f"{rewards.shape}."
            )
        return torch.from_numpy(rewards >= best)


EXPERIMENT = DDPGHERExperiment
