"""TMD's experiment: offline, published and small settings; the critics' and the actor's goals are drawn separately."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from ...agents import TMD, TMDConfig
from ...data import GoalSampler
from ..goal_reaching import GoalExperiment, GoalSettings
from ..settings import OFTEN


@dataclass(frozen=True)
class TMDSettings(GoalSettings):
    """The settings of a run of TMD."""

    preset: Literal["auto", "published", "small"] = "auto"
    """Source of all other options' defaults: the published setting, for a GPU, or one that learns a small maze in
    minutes on one core. auto: small."""
    critic_goals: GoalSampler = field(default_factory=GoalSampler)
    """Goals to which distances are learned."""
    actor_goals: GoalSampler = field(default_factory=lambda: GoalSampler(geometric=0.0, uniform=1.0))
    """Goals that the actor learns to reach."""
    agent: TMDConfig = field(default_factory=TMDConfig)
    """The agent's own settings."""

    smallest_batch: ClassVar = 2


def _published(env: str) -> TMDSettings:
    """Source: Myers et al. 2025, on OGBench."""
    return TMDSettings(env, offline=True, steps=1_000_000, batch_size=512)


def _small(env: str) -> TMDSettings:
    """Small networks, and actions held for five steps as in QRL's preset for mazes.

    Half of the actor's goals are near: with only uniform ones it passes the goal at full speed.
    """
    return TMDSettings(
        env, offline=True, steps=3000, batch_size=256, action_repeat=5, agent=TMDConfig.small(),
        actor_goals=GoalSampler(geometric=0.5, uniform=0.5, discount=0.9), **OFTEN,
    )  # fmt: skip


class TMDExperiment(GoalExperiment):
    method: ClassVar = "tmd"
    presets: ClassVar = {"published": _published, "small": _small}
    agent_class: ClassVar = TMD
    unit_of_distance: ClassVar = "learned distance"
    settings: TMDSettings

    def goal_samplers(self) -> dict[str, GoalSampler]:
        return {"goal": self.settings.critic_goals, "actor_goal": self.settings.actor_goals}


EXPERIMENT = TMDExperiment
