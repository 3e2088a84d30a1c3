"""GCBC's experiment: offline, towards any later states of an episode."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from ...agents import GCBC, GCBCConfig
from ...data import GoalSampler
from ..goal_reaching import GoalExperiment, GoalSettings
from ..settings import OFTEN


@dataclass(frozen=True)
class GCBCSettings(GoalSettings):
    """The settings of a run of GCBC."""

    preset: Literal["auto", "published", "small"] = "auto"
    """Source of all other options' defaults: OGBench's setting, or one that takes a minute on one core. auto: small."""
    actor_goals: GoalSampler = field(default_factory=lambda: GoalSampler(geometric=0.0, uniform=1.0))
    """Goals that the actor learns to reach."""
    agent: GCBCConfig = field(default_factory=GCBCConfig)
    """The agent's own settings."""


def _published(env: str) -> GCBCSettings:
    """Source: Park et al. 2024, OGBench."""
    return GCBCSettings(env, offline=True, steps=1_000_000, batch_size=1024)


def _small(env: str) -> GCBCSettings:
    """The data of QRL's and TMD's small presets for mazes: actions held for five steps."""
    return GCBCSettings(env, offline=True, steps=4000, action_repeat=5, agent=GCBCConfig.small(), **OFTEN)


class GCBCExperiment(GoalExperiment):
    method: ClassVar = "gcbc"
    presets: ClassVar = {"published": _published, "small": _small}
    agent_class: ClassVar = GCBC
    settings: GCBCSettings

    def goal_samplers(self) -> dict[str, GoalSampler]:
        return {"goal": self.settings.actor_goals}


EXPERIMENT = GCBCExperiment
