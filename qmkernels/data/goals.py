"""Sampling of the states that become transitions' goals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy
from numpy.typing import NDArray

IntArray = NDArray[numpy.int64]


@dataclass(frozen=True)
class GoalSampler:
    """Draws, for each transition, another one whose next state becomes its goal.

    Each of four distributions makes a share of the draws; the shares add up to 1.

    Attributes:
        current: the transition's own next state.
        geometric: a state of the same episode k steps after the next one, with probability proportional to
            ``discount ** k`` over the k left in the episode (QRL, contrastive RL; others move the tail to the last
            state instead).
        uniform: a state of the same episode, from the next to the last, uniformly (HER's "future").
        random: the next state of any transition, uniformly.
        discount: of the geometric share, 0 to 1; 1 makes it uniform, 0 the next state.

    Example:
        >>> import numpy
        >>> sampler = qm.data.GoalSampler(geometric=0.5, random=0.5)
        >>> indices, episode_ends = numpy.array([0, 3, 9]), numpy.array([4, 4, 9])
        >>> sampler.sample(indices, episode_ends, (0, 10), numpy.random.default_rng(0)).shape
        (3,)
    """

    current: float = 0.0
    geometric: float = 1.0
    uniform: float = 0.0
    random: float = 0.0
    discount: float = 0.99

    def __post_init__(self) -> None:
        shares = self._shares()
        if min(shares) < 0 or abs(sum(shares) - 1) > 1e-9:
            raise ValueError(
                "GoalSampler: current, geometric, uniform and random must be at least 0 and add up to 1, got "
                + ", ".join(map(str, shares)) + "."
            )  # fmt: skip
        if not 0 <= self.discount <= 1:
            raise ValueError(f"GoalSampler: discount must be from 0 to 1, got {self.discount}.")

    def sample(
        self, indices: IntArray, episode_ends: IntArray, valid: tuple[int, int], generator: numpy.random.Generator
    ) -> IntArray:
        """Returns the indices (B,) of the transitions whose next states are the goals.

        Args:
            indices: of the transitions, (B,).
            episode_ends: index of the last transition of each transition's episode, (B,).
            valid: range from which "random" draws: its first index and one past its last.
            generator: the same state gives the same goals; draws three numbers per transition, whatever the shares.
        """
        size = len(indices)
        way = generator.choice(4, size=size, p=self._shares())
        position = generator.random(size)
        anywhere = generator.integers(*valid, size=size)
        remaining = episode_ends - indices + 1
        uniform = numpy.floor(position * remaining).astype(numpy.int64)
        # Rounding could step past the episode's last transition.
        later = numpy.where(way == 1, self._geometric(position, remaining), uniform).clip(0, remaining - 1)
        return numpy.select([way == 0, way == 3], [indices, anywhere], indices + later)

    def _shares(self) -> tuple[float, float, float, float]:
        return self.current, self.geometric, self.uniform, self.random

    def _geometric(self, position: NDArray[numpy.float64], remaining: IntArray) -> IntArray:
        """Inverts the distribution function (1 - g^(k+1)) / (1 - g^remaining)."""
        if self.discount == 0:
            return numpy.zeros_like(remaining)
        if self.discount == 1:
            return numpy.floor(position * remaining).astype(numpy.int64)
        log_discount = numpy.log(self.discount)
        share = position * -numpy.expm1(remaining * log_discount)
        return numpy.floor(numpy.log1p(-share) / log_discount).astype(numpy.int64)


Goals = GoalSampler | Mapping[str, GoalSampler]


def sample_goals(
    goals: Goals, indices: IntArray, episode_ends: IntArray, valid: tuple[int, int], generator: numpy.random.Generator
) -> dict[str, IntArray]:
    """Draws the goals' indices in turn, keyed by their names in a batch; a single sampler draws "goal"."""
    named = {"goal": goals} if isinstance(goals, GoalSampler) else goals
    return {name: each.sample(indices, episode_ends, valid, generator) for name, each in named.items()}
