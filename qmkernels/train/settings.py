"""The settings shared by training runs of all methods, which are also their command-line options."""

from __future__ import annotations

import dataclasses
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

# Intervals for runs of some thousand updates.
OFTEN = dict(evaluation_interval=500, checkpoint_interval=500, log_interval=50)


# The first option of each group in the help, and the group's title; what a method adds comes after them.
GROUPS = {
    "env": "environment",
    "preset": "run",
    "offline": "data",
    "buffer_capacity": "collection",
    "evaluation_interval": "evaluation",
    "out": "logging",
}


@dataclass(frozen=True)
class Settings:
    env: str
    """Name of a gymnasium environment; module:Env-v0 for one that importing a module registers."""
    action_repeat: int = 1
    """Environment steps for which an action is held: one step of the agent. The mean action of as many steps of a
    --dataset becomes one of the agent's."""
    frame_stack: int = 1
    """Images per observation, those of the agent's latest steps; for environments whose observations are images."""

    preset: str = "auto"
    """Where the defaults of all other options come from."""
    seed: int = 0
    """Seed of the networks, the data, the batches and the episodes."""
    steps: int = 20_000
    """Updates of the agent in total, those before a checkpoint included."""
    batch_size: int = 256
    """Transitions in an update."""
    learning_rate_decay: Literal["none", "cosine"] = "none"
    """cosine: all learning rates fall along a half cosine to 0 at the last update, so that the agent stops changing; a
    resumed run with other --steps goes on along theirs."""
    device: str = "auto"
    """auto: the GPU where there is one; or a name that torch knows. Resumed runs are bit-exact on the CPU."""
    threads: int = 1
    """CPU threads."""

    offline: bool = False
    """Learn from a dataset alone: the one of --dataset, or one collected with Ornstein-Uhlenbeck actions."""
    dataset: str = ""
    """Name of a Minari dataset on this machine, or path of an OGBench file, .npz; implies --offline."""
    collect_steps: int = 60_000
    """Agent's steps in a collected dataset."""
    noise_reversion: float = 0.3
    """Ornstein-Uhlenbeck actions: share by which they fall back to 0 in a step."""
    noise_scale: float = 0.7
    """Ornstein-Uhlenbeck actions: standard deviation of a step, in halves of the actions' range."""

    buffer_capacity: int = 1_000_000
    """Transitions in the replay buffer, or images, of which an episode has one more."""
    prefill_episodes: int = 200
    """Episodes of random actions before the first update (QRL: 200)."""
    updates_per_cycle: int = 500
    """Updates between two collections (QRL: 500)."""
    episodes_per_cycle: int = 10
    """Episodes in a collection (QRL: 10)."""
    exploration: float = 0.3
    """Standard deviation of the noise on collected actions, in halves of their range; for discrete actions the
    probability of a random one (QRL: 0.3)."""

    evaluation_interval: int = 2_000
    """Updates between two evaluations."""
    evaluation_episodes: int = 50
    """Episodes in an evaluation, the same in each; a success at any step counts (QRL: 50)."""

    out: Path = Path("qmkernels_METHOD")
    """Folder of metrics.json, metrics.csv, success.png, checkpoint.pt and TensorBoard's files; made where missing."""
    restart: bool = False
    """Start over, even if there is a checkpoint."""
    checkpoint_interval: int = 2_000
    """Updates between two checkpoints."""
    log_interval: int = 250
    """Updates between two entries in TensorBoard."""
    wandb: str = ""
    """Name of a project of Weights & Biases, which gets the same entries; needs the package wandb."""

    # What may differ between a checkpoint and the command that resumes from it.
    free_to_change: ClassVar[frozenset[str]] = frozenset(
        {"out", "restart", "steps", "device", "threads", "checkpoint_interval", "log_interval", "wandb"}
    )

    def __post_init__(self) -> None:
        positive = (
            "batch_size", "threads", "action_repeat", "frame_stack", "collect_steps", "buffer_capacity",
            "prefill_episodes", "updates_per_cycle", "episodes_per_cycle", "evaluation_interval",
            "evaluation_episodes", "checkpoint_interval", "log_interval",
        )  # fmt: skip
        for name in positive:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("steps", "seed", "exploration", "noise_scale"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}.")
        if not 0 <= self.noise_reversion <= 1:
            raise ValueError(f"noise_reversion must be from 0 to 1, got {self.noise_reversion}.")
        if self.wandb and importlib.util.find_spec("wandb") is None:
            raise ValueError(f"--wandb {self.wandb}: the package is not installed: pip install wandb")

    def plain(self) -> dict[str, Any]:
        """As numbers, strings and lists, those of a part as ``PART.NAME``."""
        flat: dict[str, Any] = {}
        for name, value in dataclasses.asdict(self).items():
            flat |= {f"{name}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value}
        return {
            k: list(v) if isinstance(v, tuple) else v if isinstance(v, int | float) else str(v) for k, v in flat.items()
        }

    @property
    def is_offline(self) -> bool:
        return self.offline or bool(self.dataset)
