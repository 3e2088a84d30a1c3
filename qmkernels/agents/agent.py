"""The interface between an agent and whatever trains it."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn


class Agent(Protocol):
    """Networks that learn from batches and act, without environment, buffer or logging.

    Some agents also have ``standardise(observation, goal)``, ``distance(observation, goal)`` and
    ``plan(observation, goal, ...)``.
    """

    networks: nn.Module
    """Everything that is trained, and the scales of the inputs."""

    def update(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Takes one step of every optimizer; returns detached 0-d tensors. ValueError for an incomplete batch."""
        ...

    def act(self, observation: Tensor, condition: Tensor, deterministic: bool = False) -> Tensor:
        """Returns actions (..., action_size) for observations and their conditions: goals or skills."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Returns everything that `update` changes."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resumes from another agent's state; raises ValueError if that agent was configured differently."""
        ...
