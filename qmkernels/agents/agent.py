"""What an agent is to whoever trains it."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn


class Agent(Protocol):
    """Networks that learn from batches and act; without environment, buffer or logging.

    Some have besides ``standardise(observation, goal)``, ``distance(observation, goal)`` and ``plan(observation,
    goal, ...)``.
    """

    networks: nn.Module
    """All that is trained, and the scales of the inputs."""

    def update(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """One step of every optimizer; returns detached 0-d tensors to log. ValueError for a batch that lacks rows."""
        ...

    def act(self, observation: Tensor, condition: Tensor, deterministic: bool = False) -> Tensor:
        """Actions (..., action_size) for observations and what they are conditioned on, a goal or a skill."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that `update` changes."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where another agent was; ValueError where that was made of something else."""
        ...
