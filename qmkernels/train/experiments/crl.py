"""CRL's experiment: offline, the published setting and a small one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from ...agents import CRL, CRLConfig
from ...data import GoalSampler
from ..goal_reaching import GoalExperiment, GoalSettings
from ..settings import OFTEN


@dataclass(frozen=True)
class CRLSettings(GoalSettings):
    """The settings of a run of CRL."""

    preset: Literal["auto", "published", "small"] = "auto"
    """Source of all other options' defaults: OGBench's setting, for a GPU, or one that learns a small maze in minutes
    on one core. auto: small."""
    critic_goals: GoalSampler = field(default_factory=GoalSampler)
    """Goals to tell from those of other states."""
    actor_goals: GoalSampler = field(default_factory=lambda: GoalSampler(geometric=0.0, uniform=1.0))
    """Goals that the actor learns to reach."""
    agent: CRLConfig = field(default_factory=CRLConfig)
    """The agent's own settings."""

    smallest_batch: ClassVar = 2


def _published(env: str) -> CRLSettings:
    """Source: Park et al. 2024, OGBench."""
    return CRLSettings(env, offline=True, steps=1_000_000, batch_size=1024)


def _small(env: str) -> CRLSettings:
    """Small networks, actions held for five steps, and nearer goals for the actor than published."""
    return CRLSettings(
        env, offline=True, steps=3000, batch_size=256, action_repeat=5, agent=CRLConfig.small(),
        actor_goals=GoalSampler(discount=0.97), **OFTEN,
    )  # fmt: skip


class CRLExperiment(GoalExperiment):
    method: ClassVar = "crl"
    presets: ClassVar = {"published": _published, "small": _small}
    agent_class: ClassVar = CRL
    unit_of_distance: ClassVar = "minus the critic's logit"
    settings: CRLSettings

    def goal_samplers(self) -> dict[str, GoalSampler]:
        return {"goal": self.settings.critic_goals, "actor_goal": self.settings.actor_goals}


EXPERIMENT = CRLExperiment
