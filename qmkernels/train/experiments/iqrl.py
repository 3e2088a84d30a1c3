"""iQRL's experiment: windows of episodes, noise that fades over episodes, and measures of the latents."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...agents import IQRL, IQRLConfig
from ...data import Dataset, ReplayBuffer, check_horizon, n_step_returns
from ..environments import Policy
from ..experiment import Curve, Panel
from ..rewards import RewardExperiment, draw_curves
from ..settings import Settings


@dataclass(frozen=True)
class IQRLSettings(Settings):
    """The settings of a run of iQRL."""

    preset: Literal["auto", "published", "small"] = "auto"
    """Source of all other options' defaults: the published setting, or one with small networks for a CPU. auto: small.
    """
    exploration: float = 1.0
    """Standard deviation of the noise on actions, in units of half their range, in the first episode after the random
    ones (iQRL: 1)."""
    last_exploration: float = 0.1
    """The same after ``exploration_episodes``; in between it changes linearly with the episodes (iQRL: 0.1)."""
    exploration_episodes: int = 50
    """Episodes over which the noise fades (iQRL: 50)."""
    agent: IQRLConfig = field(default_factory=IQRLConfig)
    """The agent's own settings."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.last_exploration < 0:
            raise ValueError(f"last_exploration must be at least 0, got {self.last_exploration}.")
        if self.exploration_episodes < 1:
            raise ValueError(f"exploration_episodes must be at least 1, got {self.exploration_episodes}.")


def _published(env: str) -> IQRLSettings:
    """Source: the public code, for dm_control tasks: 1,000 steps per episode, one update per two steps. Its first ten
    episodes use the agent's actions with noise of 1, ours random actions."""
    return IQRLSettings(
        env, steps=1_500_000, action_repeat=2, prefill_episodes=10, updates_per_cycle=500, episodes_per_cycle=1,
        evaluation_interval=10_000, evaluation_episodes=10, checkpoint_interval=10_000,
    )  # fmt: skip


def _small(env: str) -> IQRLSettings:
    """Small networks that learn Pendulum in minutes on one core, with one update per step of the agent. On dm_control's
    cart-pole swing-up they are still improving at the end.

    The return of a Pendulum episode depends mostly on its initial state, so a hundred are evaluated.
    """
    shared = dict(
        prefill_episodes=5, episodes_per_cycle=1, exploration_episodes=20, log_interval=50, agent=IQRLConfig.small()
    )
    if env.startswith("dm_control/"):
        return IQRLSettings(
            env, steps=8000, action_repeat=4, updates_per_cycle=250, evaluation_interval=1000, evaluation_episodes=10,
            checkpoint_interval=1000, **shared,
        )  # fmt: skip
    return IQRLSettings(
        env, steps=5000, action_repeat=2, updates_per_cycle=100, evaluation_interval=500, evaluation_episodes=100,
        checkpoint_interval=500, **shared,
    )  # fmt: skip


class IQRLExperiment(RewardExperiment):
    method: ClassVar = "iqrl"
    presets: ClassVar = {"published": _published, "small": _small}
    agent_class: ClassVar = IQRL
    settings: IQRLSettings
    agent: IQRL
    last_batch: dict[str, torch.Tensor] | None = None

    @property
    def horizon(self) -> int:
        """Transitions per window: enough for the rollout and for the returns."""
        return max(self.settings.agent.horizon, self.settings.agent.n_steps)

    def begin(self, data: Dataset | ReplayBuffer) -> None:
        check_horizon(self.horizon, data.longest_episode)

    def begin_episode(self, number: int, generator: numpy.random.Generator) -> dict[str, numpy.ndarray]:
        settings = self.settings
        share = (number - settings.prefill_episodes) / max(settings.exploration_episodes - 1, 1)
        self.exploration = numpy.interp(share, [0, 1], [settings.exploration, settings.last_exploration])
        return {}

    def batch(
        self, data: Dataset | ReplayBuffer, size: int, generator: numpy.random.Generator
    ) -> dict[str, torch.Tensor]:
        config = self.settings.agent
        windows = data.sample_windows(size, self.horizon, generator)
        returns = n_step_returns(windows, config.n_steps, config.discount)
        self.last_batch = {
            "observation": windows["observation"][:, : config.horizon + 1],
            "action": windows["action"][:, : config.horizon],
            "mask": windows["mask"][:, : config.horizon],
            "n_step_return": returns.value,
            "bootstrap_observation": windows["observation"][torch.arange(size), returns.bootstrap_index],
            "bootstrap_discount": returns.bootstrap_discount,
        }
        return self.last_batch

    def measure(self, policies: dict[str, Policy]) -> dict[str, float]:
        """Measures the return, and ``latent_rank`` and ``codes_in_use`` of the last batch's latents."""
        measures = super().measure(policies)
        if self.last_batch is not None:
            measures |= self.agent.latent_statistics(self.last_batch["observation"][:, 0].to(self.device))
        return measures

    def panels(self, curve: Curve) -> list[Panel]:
        """Draws returns, and the latents' rank and codes in use."""

        def latents(_: Figure, panel: Axes) -> None:
            size, rows = self.settings.agent.latent_size, self.settings.batch_size
            full = min(size, rows)
            shares = {
                "latent_rank": (full, f"rank of {rows} latents of {size} values, of {full}"),
                "codes_in_use": (1, f"codes that {rows} latents use, of {self.settings.agent.num_codes} per group"),
            }
            draw_curves(panel, curve, shares)
            panel.set(ylabel="share", ylim=(-0.03, 1.03))
            panel.set_title("The latents", fontsize=11)
            panel.legend(loc="lower right", fontsize=8)

        return [*super().panels(curve), latents]


EXPERIMENT = IQRLExperiment
