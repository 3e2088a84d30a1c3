"""The demo's settings, which are also its command-line options."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..backends.dispatch import requested

# The first option of each group in the help, and the group's title.
GROUPS = {"steps": "run", "trajectories": "data", "hidden_size": "network", "softplus_offset": "optimisation"}


@dataclass(frozen=True)
class Settings:
    steps: int = 5000
    """Training steps."""
    seed: int = 0
    """Seed of the data, the networks and the batches."""
    out: Path = Path("qmkernels_demo")
    """Folder of mountaincar.png and metrics.json; made where missing."""
    backend: str = field(default_factory=lambda: requested(None))
    """What runs the IQE head: auto, cuda, triton, cpu or reference."""
    threads: int = 1
    """CPU threads. One is the safe choice: several wait for each other where other work shares the cores."""

    trajectories: int = 3000
    """Random-actor trajectories in the data, each from a uniformly random state."""
    trajectory_length: int = 20
    """Steps in a trajectory; fewer where it reaches the flag."""
    batch_size: int = 256
    """Observed steps in a batch (QRL online: 256)."""
    link_batch_size: int = 32
    """Cost-0 links from flag states to the abstract goal, added to each batch."""
    abstract_goal_share: float = 0.5
    """Share of the pushed goals that are the abstract goal, 0 to 1; the others are other states of the batch."""
    hidden_size: int = 256
    """Width of the MLPs' hidden layers."""
    latent_size: int = 64
    """Size of the encoder's output."""
    embedding_size: int = 256
    """Size of the embeddings that the IQE head compares."""
    dim_per_component: int = 16
    """Values in an IQE component (torchqmet's default)."""
    softplus_offset: float = 150.0
    """Distance in steps past which the push fades out; above the longest V* (QRL: 15 online, 500 offline)."""
    softplus_beta: float = 0.1
    """Sharpness of that fading, 1 / steps (QRL online)."""
    epsilon: float = 0.1
    """Root mean square in steps by which a step's distance may exceed its cost (QRL: 0.25, which lets d grow half as
    long again as V* here)."""
    initial_multiplier: float = 5.0
    """The constraint's multiplier lambda at the start (QRL: 0.01, too small for this few steps)."""
    multiplier_learning_rate: float = 0.4
    """Adam's learning rate for the multiplier before its softplus (QRL: 0.01)."""
    learning_rate: float = 4e-3
    """AdamW's learning rate for the networks at the start; falls to 0 along a cosine (QRL: 1e-4 to 5e-4, many more
    steps)."""

    def __post_init__(self) -> None:
        at_least_zero = ("steps", "seed", "link_batch_size")
        at_least_one = ("threads", "trajectories", "trajectory_length", "batch_size", "hidden_size", "latent_size")
        for name in at_least_zero + at_least_one:
            least = int(name in at_least_one)
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}.")
        for name in ("softplus_beta", "initial_multiplier", "learning_rate", "multiplier_learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}.")
        if not 0 <= self.abstract_goal_share <= 1:
            raise ValueError(f"abstract_goal_share must be from 0 to 1, got {self.abstract_goal_share}.")
        sizes = (self.embedding_size, self.dim_per_component)
        if min(sizes) < 1 or sizes[0] % sizes[1] != 0:
            raise ValueError("embedding_size must be a multiple of dim_per_component, got {} and {}.".format(*sizes))
