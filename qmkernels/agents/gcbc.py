"""GCBC, goal-conditioned behaviour cloning: the whole agent, without environment, buffer or logging.

Source: Ghosh et al. 2021, "Learning to Reach Goals via Iterated Supervised Learning" (arXiv 1912.06088), without its
iteration; sizes as in OGBench (Park et al. 2024, arXiv 2410.20092), where it is a baseline.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from . import checks, optimisation
from .goal_agent import GoalAgent

Batch = dict[str, Tensor]
Metrics = dict[str, Tensor]


@dataclass(frozen=True)
class GCBCConfig:
    """The defaults are `published`, in OGBench's numbers."""

    actor_sizes: tuple[int, ...] = (512, 512, 512)  # hidden layers of the actor: GELU
    fourier_features: int = 0  # sines, and as many cosines, of each place; the paper has none
    fourier_inputs: int = 2  # leading values of an observation, and of a goal, that are its place
    fourier_frequencies: tuple[float, float] = (0.5, 12.0)  # lowest and highest, in radians per standardised unit
    actor_learning_rate: float = 3e-4  # Adam's, without weight decay

    def __post_init__(self) -> None:
        checks.check_config(self, at_least_zero=("fourier_features",))

    @classmethod
    def published(cls, **changes: Any) -> GCBCConfig:
        """The published setting (OGBench; batches of 1024, 1,000,000 updates); ``changes`` override its fields."""
        return cls(**changes)

    @classmethod
    def small(cls, **changes: Any) -> GCBCConfig:
        """A network as large as the other agents' small ones; ``changes`` override its fields."""
        return cls(**{"actor_sizes": (256, 256), **changes})


class GCBC(GoalAgent):
    r"""Imitates the actions that led from s to g in the data.

    .. math:: -\overline{\log \pi(a \mid s, g)}

    over transitions (s, a) and states g later in their episodes; pi is the tanh of a normal variable (OGBench's is
    normal with deviation 1).

    Arguments: those of `GoalAgent`.

    A batch is a dictionary of tensors on ``device``; B rows each:
        observation, next_observation: (B, observation_size).
        action: (B, action_size) float.
        goal: (B, goal_size or observation_size), achieved later in the same episode.

    Example:
        >>> agent = qm.agents.GCBC(4, 2, qm.agents.GCBCConfig.small())
        >>> rows = {name: torch.randn(32, 4) for name in ("observation", "next_observation", "goal")}
        >>> metrics = agent.update({**rows, "action": torch.rand(32, 2) * 2 - 1})
        >>> agent.act(torch.zeros(4), torch.ones(4)).shape
        torch.Size([2])
    """

    config_class: ClassVar = GCBCConfig

    def make_networks(self) -> None:
        self.actor = self.make_actor(features=self.actor_features(), activation=nn.GELU)

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Returns minus the mean log-density of the data's actions, and the mean absolute error of the mode."""
        policy = self.policy(batch["observation"], batch["goal"])
        log_prob = policy.log_prob(batch["action"]).mean()
        error = (policy.mode - batch["action"]).abs().mean()
        return -log_prob, {"actor/log_prob": log_prob.detach(), "actor/error": error.detach()}

    def update(self, batch: Batch) -> Metrics:
        """Takes one step of the actor; returns detached 0-d tensors."""
        self.check_batch(batch, "goal")
        loss, metrics = self.loss(batch)
        optimisation.step(self.optimizers["actor"], loss, self.group)
        return metrics
