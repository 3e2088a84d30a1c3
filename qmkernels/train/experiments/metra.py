"""METRA's experiment: published and small settings, online, in environments that show the agent's position."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy
import torch

from ...agents import METRA, METRAConfig
from ...agents.metra import AsymmetricNorm
from ...data import Dataset, ReplayBuffer, is_image
from ...nn import IQE
from ..goal_reaching import STANDARDISED_ROWS
from ..skills import SkillExperiment, SkillSettings

# Functions that make heads from the skill's size; None: the norm.
HEADS = {"euclidean": None, "mrn": AsymmetricNorm, "iqe": lambda size: IQE(size, 1)}

# Gymnasium's robots do not observe their position unless asked to, and in METRA's code episodes continue when they
# fall. Keyed by the start of the name: the environment's arguments, the values in a position, and the published skills.
_SHOWN = {"exclude_current_positions_from_observation": False}
_STANDING = {"terminate_when_unhealthy": False, "include_cfrc_ext_in_observation": False}
ROBOTS: dict[str, tuple[dict[str, Any], int, dict[str, Any]]] = {
    "HalfCheetah": (_SHOWN, 1, dict(skill_size=16, discrete_skills=True)),
    "Ant": (_SHOWN | _STANDING, 2, {}),
}
OTHERS: tuple[dict[str, Any], int, dict[str, Any]] = ({}, 2, {})


@dataclass(frozen=True)
class METRASettings(SkillSettings):
    """The settings of a run of METRA."""

    preset: Literal["auto", "published", "published_images", "small"] = "auto"
    """Source of all other options' defaults: the published settings, for vectors or for images, or one that covers
    OGBench's arena, or moves HalfCheetah, in minutes on one core. auto: small."""
    head: Literal["euclidean", "mrn", "iqe"] = "euclidean"
    """What bounds the latents' steps by 1: the published norm, or a quasimetric: MRN, which adds the largest decrease
    of a value to that norm, or IQE with components of one value."""
    episode_steps: int = 0
    """Environment steps per episode; 0: the environment decides (METRA: 200)."""
    standardise: bool = True
    """Standardise observations by the mean and deviation of the episodes of random actions; not images. (The code has
    fixed ones for HalfCheetah and Ant.)"""
    agent: METRAConfig = field(default_factory=METRAConfig)
    """The agent's own settings."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.is_offline:
            raise ValueError("METRA learns from episodes of its own skills: leave out --offline and --dataset.")
        if self.episode_steps < 0:
            raise ValueError(f"episode_steps must be at least 0, got {self.episode_steps}.")


def _robot(env: str) -> tuple[dict[str, Any], int, dict[str, Any]]:
    return ROBOTS.get(env.split("-")[0], OTHERS)


def _published(env: str) -> METRASettings:
    """Source: Park et al. 2024 and its public code, for vectors as observations; the number of updates is that of a
    reproduction, 10,000 epochs of 50. Before the first update the code takes 10,000 steps with the untrained policy's
    skills, we as many with random actions."""
    _, position_size, skills = _robot(env)
    return METRASettings(
        env, steps=500_000, updates_per_cycle=50, episodes_per_cycle=8, prefill_episodes=50, exploration=0.0,
        episode_steps=200, position_size=position_size, evaluation_episodes=48, evaluation_interval=10_000,
        checkpoint_interval=10_000, agent=METRAConfig.published(**skills),
    )  # fmt: skip


def _published_images(env: str) -> METRASettings:
    """Source: the public code, for Quadruped, whose images have 64 x 64 pixels. (Humanoid has skills of 2 values;
    Kitchen 24 discrete ones, episodes of 50 steps, 100 updates for 8 of them, and a buffer of 100,000 transitions.)"""
    return replace(
        _published(env), action_repeat=2, episode_steps=400, frame_stack=3, updates_per_cycle=200,
        buffer_capacity=300_000, agent=METRAConfig.published(skill_size=4),
    )  # fmt: skip


def _small(env: str) -> METRASettings:
    """Small networks, and more updates per episode. Robots hold an action for four steps, so that they travel further
    than their limbs swing, and have skills of two continuous values."""
    arguments, position_size, _ = _robot(env)
    of_robots = dict(steps=10_000, action_repeat=4, episodes_per_cycle=16, episode_steps=200) if arguments else {}
    small = dict(
        steps=6000, updates_per_cycle=100, episodes_per_cycle=4, prefill_episodes=20, exploration=0.0,
        position_size=position_size, evaluation_episodes=48, evaluation_interval=1000, checkpoint_interval=1000,
        log_interval=50, agent=METRAConfig.small(),
    )  # fmt: skip
    return METRASettings(env, **{**small, **of_robots})


class METRAExperiment(SkillExperiment):
    method: ClassVar = "metra"
    presets: ClassVar = {"published": _published, "published_images": _published_images, "small": _small}
    agent_class: ClassVar = METRA
    settings: METRASettings

    @classmethod
    def environment_arguments(cls, settings: METRASettings) -> dict[str, Any]:
        arguments, *_ = _robot(settings.env)
        return {**arguments, **({"max_episode_steps": settings.episode_steps} if settings.episode_steps else {})}

    def make_agent(self, group: Any) -> METRA:
        return super().make_agent(group, head=HEADS[self.settings.head])

    def begin(self, data: Dataset | ReplayBuffer) -> None:
        if self.settings.standardise and not is_image(self.environment.observation_space["observation"]):
            rows = data.sample(STANDARDISED_ROWS, {}, numpy.random.default_rng(self.settings.seed))
            self.agent.standardise(rows["observation"].to(self.device))

    def batch(
        self, data: Dataset | ReplayBuffer, size: int, generator: numpy.random.Generator
    ) -> dict[str, torch.Tensor]:
        return data.sample(size, {}, generator)


EXPERIMENT = METRAExperiment
