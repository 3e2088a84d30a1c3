"""Settings to begin from."""

from __future__ import annotations

from dataclasses import replace

from ..agents import QRLConfig
from .settings import Settings


def _online(env: str) -> Settings:
    """Source: the public code of Wang et al. 2023."""
    return Settings(env)


def _offline(env: str) -> Settings:
    """Source: the public code of Wang et al. 2023, its settings for maze2d."""
    return Settings(env, offline=True, steps=200_000, batch_size=4096, agent=QRLConfig.offline())


# Networks and rates that learn in minutes on one core; ours.
_SMALL = dict(
    encoder_sizes=(256, 256), latent_size=64, projector_sizes=(256,), embedding_size=256, dim_per_component=16,
    dynamics_sizes=(256, 256), actor_sizes=(256, 256), dynamics_weight=1.0, adaptive_entropy=False,
    initial_multiplier=1.0, multiplier_learning_rate=0.05, critic_learning_rate=5e-4, actor_learning_rate=3e-4,
)  # fmt: skip
_OFTEN = dict(evaluation_interval=500, checkpoint_interval=500, log_interval=50)


def _small(env: str) -> Settings:
    """Online with small networks and a strong multiplier: learns FetchReach in minutes on one core."""
    return Settings(env, steps=3000, agent=QRLConfig.online(**_SMALL), **_OFTEN)


def _maze(env: str) -> Settings:
    """Offline with small networks and actions held for five steps: learns UMaze in a minute on one core.

    With an action a step, the distances of single steps are below the error of the latent dynamics.
    """
    agent = QRLConfig.offline(**_SMALL, softplus_beta=0.1, softplus_offset=80.0, behaviour_cloning_weight=0.2)
    return Settings(env, offline=True, steps=4000, action_repeat=5, agent=agent, **_OFTEN)


PRESETS = {"online": _online, "offline": _offline, "small": _small, "maze": _maze}


def defaults(env: str, dataset: str = "", preset: str = "auto") -> Settings:
    """The settings of a preset; "auto": by the names of environment and dataset."""
    if preset == "auto":
        name = "maze" if "maze" in env.lower() and not dataset else "offline" if dataset else "online"
    else:
        name = preset
    return replace(PRESETS[name](env), preset=preset, dataset=dataset)
