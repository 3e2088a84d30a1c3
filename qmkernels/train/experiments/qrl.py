"""QRL's experiment: published and small settings, online and offline, and planning as a way to act."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch

from ...agents import MPPI, QRL, QRLConfig
from ...data import GoalSampler
from ..environments import Policy
from ..goal_reaching import GoalExperiment, GoalSettings
from ..settings import OFTEN, Settings

NUM_CANDIDATES = 256


@dataclass(frozen=True)
class QRLSettings(GoalSettings):
    """The settings of a run of QRL."""

    preset: Literal["auto", "published", "online", "offline", "small", "maze"] = "auto"
    """Source of all other options' defaults. online, offline: the published settings. small: small networks for a CPU,
    online. maze: the same offline, for mazes. published: offline if the environment's name contains maze, otherwise
    online. auto: offline with a dataset, otherwise maze if the name contains maze, otherwise online."""
    future_discount: float = 0.99
    """Discount of the geometric distribution over future states, from which goals are drawn (QRL)."""
    evaluate_with: tuple[Literal["actor", "greedy", "mppi"], ...] = ("actor",)
    """One or more ways to act, compared on the same episodes; the first is reported as "success", others with their
    name appended. actor: the actor's mode. greedy: of 256 random actions, drawn once, the one after which the goal is
    nearest by the latent dynamics. mppi: plans by the same dynamics. Discrete agents have no actor and are greedy over
    all actions."""
    mppi: MPPI = field(default_factory=MPPI)
    """Settings of the plans."""
    compile: bool = False
    """Run the losses through torch.compile."""
    agent: QRLConfig = field(default_factory=QRLConfig)
    """The agent's own settings."""

    smallest_batch: ClassVar = 2
    free_to_change: ClassVar[frozenset[str]] = Settings.free_to_change | {"compile", "evaluate_with", "mppi"}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.evaluate_with or len(set(self.evaluate_with)) < len(self.evaluate_with):
            raise ValueError(f"evaluate_with must be one or more ways, each once, got {self.evaluate_with}.")
        if not 0 <= self.future_discount <= 1:
            raise ValueError(f"future_discount must be from 0 to 1, got {self.future_discount}.")


def _online(env: str) -> QRLSettings:
    """Source: the public code of Wang et al. 2023."""
    return QRLSettings(env)


def _offline(env: str) -> QRLSettings:
    """Source: the public code of Wang et al. 2023, its settings for maze2d."""
    return QRLSettings(env, offline=True, steps=200_000, batch_size=4096, agent=QRLConfig.offline())


# Our own networks and rates, which learn in minutes on one core.
_SMALL = dict(
    encoder_sizes=(256, 256), latent_size=64, projector_sizes=(256,), embedding_size=256, dim_per_component=16,
    dynamics_sizes=(256, 256), actor_sizes=(256, 256), dynamics_weight=1.0, adaptive_entropy=False,
    initial_multiplier=1.0, multiplier_learning_rate=0.05, critic_learning_rate=5e-4, actor_learning_rate=3e-4,
)  # fmt: skip


def _small(env: str) -> QRLSettings:
    """Online with small networks and a strong multiplier: learns FetchReach in minutes on one core."""
    return QRLSettings(env, steps=3000, agent=QRLConfig.online(**_SMALL), **OFTEN)


def _maze(env: str) -> QRLSettings:
    """Offline with small networks and actions held for five steps: learns UMaze in a minute on one core.

    With one action per step, the distances of single steps would be below the error of the latent dynamics.
    """
    agent = QRLConfig.offline(**_SMALL, softplus_beta=0.1, softplus_offset=80.0, behaviour_cloning_weight=0.2)
    return QRLSettings(env, offline=True, steps=4000, action_repeat=5, agent=agent, **OFTEN)


def _published(env: str) -> QRLSettings:
    return _offline(env) if "maze" in env.lower() else _online(env)


class QRLExperiment(GoalExperiment):
    method: ClassVar = "qrl"
    presets: ClassVar = {
        "published": _published, "online": _online, "offline": _offline, "small": _small, "maze": _maze,
    }  # fmt: skip
    agent_class: ClassVar = QRL
    settings: QRLSettings
    agent: QRL

    @classmethod
    def automatic(cls, env: str, dataset: str) -> str:
        return "offline" if dataset else "maze" if "maze" in env.lower() else "online"

    def make_agent(self, group: Any) -> QRL:
        agent = super().make_agent(group, compile=self.settings.compile)
        if agent.discrete and "mppi" in self.settings.evaluate_with:
            raise ValueError(f"--evaluate-with mppi: {self.settings.env} has discrete actions; use actor.")
        return agent

    def goal_samplers(self) -> dict[str, GoalSampler]:
        return {"goal": GoalSampler(geometric=1.0, discount=self.settings.future_discount)}

    def policies(self) -> dict[str, Policy]:
        """The ways of ``evaluate_with``, keyed by the suffix of their measures, which is empty for the first."""
        ways = self.settings.evaluate_with
        return {"" if number == 0 else f"_{way}": self._policy(way) for number, way in enumerate(ways)}

    def _policy(self, way: str) -> Policy:
        if way == "actor" or self.agent.discrete:
            return self.most_likely
        generator = torch.Generator(self.device).manual_seed(self.settings.seed)
        how: dict[str, Any] = dict(mppi=self.settings.mppi, generator=generator)
        if way == "greedy":
            actor, size = self.agent.actor, (NUM_CANDIDATES, self.agent.action_size)
            unit = 2 * torch.rand(size, generator=generator, device=self.device) - 1
            how = dict(candidate_actions=actor.centre + actor.half_range * unit)
        return lambda seen: self.taken(self.agent.plan(self.state(seen), self.condition(seen), **how))


EXPERIMENT = QRLExperiment
