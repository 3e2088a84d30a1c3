"""What every agent has: networks and optimizers by their names, and the state that is saved of them."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from . import checks, optimisation


class TrainedAgent:
    """A subclass gives its networks to `has_networks`, makes ``optimizers``, by name, and says what it is `made_of`."""

    group: optimisation.Group | None
    optimizers: dict[str, torch.optim.Optimizer]

    def has_networks(self, device: Any, **networks: nn.Module | None) -> None:
        """Puts them on the device, and those of a group's first process everywhere."""
        self.networks = nn.ModuleDict({name: network for name, network in networks.items() if network is not None})
        optimisation.send(self.group, self.networks.to(device))

    def made_of(self) -> dict[str, Any]:
        """What another agent must have in common to take this one's state."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Everything that `update` changes, and what the agent was made of."""
        return {
            "made_of": self.made_of(),
            "networks": self.networks.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where the agent was that gave ``state``; ValueError where that was made of something else."""
        checks.check_made_of(type(self).__name__, self.made_of(), state.get("made_of", {}))
        self.networks.load_state_dict(state["networks"])
        for name, optimizer in self.optimizers.items():
            # A copy: torch's optimizers would go on in the tensors of the state that they were given.
            optimizer.load_state_dict(copy.deepcopy(state["optimizers"][name]))
