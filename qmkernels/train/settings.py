"""The settings of a training run, which are also its command-line options."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..agents import MPPI, QRLConfig


@dataclass(frozen=True)
class Settings:
    """Train QRL on a gymnasium environment with goals. The same command again goes on from the last checkpoint.

    Under torchrun the processes train together: gradients are averaged, and counts of transitions in a batch or a
    buffer and of episodes collected are each process's own. They share the folder of --out.
    """

    env: str
    """Name of a gymnasium environment whose observations have observation, achieved_goal and desired_goal."""
    preset: Literal["auto", "online", "offline", "small", "maze"] = "auto"
    """Where the defaults of all other options come from: the published online or offline setting, or one with small
    networks for a CPU, online or, for mazes, offline. auto: maze for an environment of that name, offline with a
    dataset, otherwise online."""
    out: Path = Path("qmkernels_qrl")
    """Folder for metrics.json, success.png, checkpoint.pt and the TensorBoard files; made where missing."""
    restart: bool = False
    """Begin anew, though there is a checkpoint."""
    seed: int = 0
    """Of the networks, the data, the batches and the episodes."""
    steps: int = 20_000
    """Updates of the agent in total, those before a checkpoint included."""
    batch_size: int = 256
    """Transitions in an update."""
    device: str = "auto"
    """auto: the GPU where there is one; or a name that torch knows. Resumed runs are bit-exact on the CPU."""
    threads: int = 1
    """CPU threads."""
    compile: bool = False
    """Run the losses through torch.compile."""

    goals: Literal["set", "observation"] = "set"
    """set: a goal stands for all states that achieve it, with an input and links of its own. observation: a goal is an
    observation, the goal's values where an observation begins and zeros behind; for environments whose observations
    begin with what they achieve, such as positions before velocities."""
    standardise: bool = True
    """Observations and goals go into the networks less their mean and over their deviation, which are those of the
    dataset, or of the episodes of random actions. The public code feeds them as they are."""
    future_discount: float = 0.99
    """Of the geometric distribution of the goals that future states are (QRL)."""
    action_repeat: int = 1
    """Environment steps for which an action is held: one step of the agent."""

    offline: bool = False
    """Learn from a dataset alone: the given one, or one collected with Ornstein-Uhlenbeck actions."""
    dataset: str = ""
    """Name of a Minari dataset on this machine; implies offline."""
    collect_steps: int = 60_000
    """Agent's steps in a collected dataset."""
    noise_reversion: float = 0.3
    """Of the Ornstein-Uhlenbeck actions: share by which they fall back to 0 in a step."""
    noise_scale: float = 0.7
    """Of the Ornstein-Uhlenbeck actions: standard deviation of a step, in halves of the actions' range."""

    buffer_capacity: int = 1_000_000
    """Transitions in the replay buffer."""
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
    """Episodes in an evaluation, the same in each; success is any step's (QRL: 50)."""
    evaluate_with: tuple[Literal["actor", "greedy", "mppi"], ...] = ("actor",)
    """One or more ways to act, compared on the same episodes; the first is "success", others have their name behind.
    actor: the actor's mode. greedy: of 256 random actions, drawn once, the one after which the goal is nearest by the
    latent dynamics. mppi: plans through them. Discrete agents have no actor, and are greedy over all actions."""
    mppi: MPPI = field(default_factory=MPPI)
    """Of plans."""
    checkpoint_interval: int = 2_000
    """Updates between two checkpoints."""
    log_interval: int = 250
    """Updates between two entries in TensorBoard."""

    agent: QRLConfig = field(default_factory=QRLConfig)
    """The agent's own settings."""

    def __post_init__(self) -> None:
        positive = (
            "batch_size", "threads", "action_repeat", "collect_steps", "buffer_capacity", "prefill_episodes",
            "updates_per_cycle", "episodes_per_cycle", "evaluation_interval", "evaluation_episodes",
            "checkpoint_interval", "log_interval",
        )  # fmt: skip
        for name in positive:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("steps", "seed", "exploration", "noise_scale"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}.")
        if not self.evaluate_with or len(set(self.evaluate_with)) < len(self.evaluate_with):
            raise ValueError(f"evaluate_with must be one or more ways, each once, got {self.evaluate_with}.")
        if self.batch_size < 2:
            raise ValueError("batch_size must be at least 2: a transition's goal is another one's state.")
        if not 0 <= self.noise_reversion <= 1:
            raise ValueError(f"noise_reversion must be from 0 to 1, got {self.noise_reversion}.")
        if not 0 <= self.future_discount <= 1:
            raise ValueError(f"future_discount must be from 0 to 1, got {self.future_discount}.")

    def plain(self) -> dict[str, Any]:
        """As numbers, strings and lists, those of parts as ``agent.NAME`` and ``mppi.NAME``."""
        flat = dataclasses.asdict(self)
        for part in ("mppi", "agent"):
            flat |= {f"{part}.{name}": value for name, value in flat.pop(part).items()}
        return {
            k: list(v) if isinstance(v, tuple) else v if isinstance(v, int | float) else str(v) for k, v in flat.items()
        }

    @property
    def is_offline(self) -> bool:
        return self.offline or bool(self.dataset)
