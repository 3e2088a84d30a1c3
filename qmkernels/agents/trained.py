"""What all agents share: construction, networks and optimizers by name, and their saved state."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import torch
from torch import nn

from . import checks, optimisation
from .goal_actor import action_range


class TrainedAgent:
    """A subclass defines ``config_class``, `make_networks` and ``update``, and `make_optimizers` if its own differ."""

    config_class: ClassVar[type]
    allows_discrete: ClassVar[bool] = False
    allows_images: ClassVar[bool] = False
    critic: nn.Module | None = None
    actor: nn.Module | None = None

    def __init__(
        self,
        observation_size: int | tuple[int, int, int],
        action_size: int,
        config: Any = None,
        *,
        discrete: bool = False,
        action_low: Any = -1.0,
        action_high: Any = 1.0,
        device: torch.device | str | None = None,
        group: optimisation.Group | None = None,
        **networks: Any,
    ) -> None:
        """Makes the networks and their optimizers.

        Args:
            observation_size: values in an observation; for images, which not every agent allows, (channels, height,
                width).
            action_size: values in an action; with ``discrete``, the number of actions.
            config: default ``config_class()``, the published settings.
            discrete: actions are integers from 0. Not every agent supports them.
            action_low, action_high: the actions' range, numbers or one per value.
            device: of the networks. Default: torch's.
            group: `torch.distributed` processes that train together; gradients are averaged before each step.
            networks: the agent's own arguments, which its `make_networks` takes.

        Raises:
            ValueError: the actions' range is not finite, or actions are discrete or observations images and the agent
                does not support them.
        """
        name = type(self).__name__
        if discrete and not self.allows_discrete:
            raise ValueError(f"{name}: actions must be vectors in a range, got discrete ones.")
        self.observation_shape = (observation_size,) if isinstance(observation_size, int) else tuple(observation_size)
        if len(self.observation_shape) > 1 and not self.allows_images:
            raise ValueError(f"{name}: observations must be vectors, got images of {self.observation_shape}.")
        self.observation_size, self.action_size = observation_size, action_size
        self.config = self.config_class() if config is None else config
        self.discrete, self.group = discrete, group
        self.action_low, self.action_high = None, None
        if not discrete:
            self.action_low, self.action_high = action_range(name, action_size, action_low, action_high, device)
        self.make_networks(**networks)
        modules = {name: value for name, value in vars(self).items() if isinstance(value, nn.Module)}
        self.networks = nn.ModuleDict(modules)
        optimisation.send(group, self.networks.to(device))
        self.optimizers = self.make_optimizers()

    def make_networks(self) -> None:
        """Sets ``critic``, ``actor`` and whatever else is trained as attributes; `networks` holds them all by name."""
        raise NotImplementedError

    def make_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Returns those of critic and actor, with the configuration's ``critic_`` and ``actor_learning_rate``."""
        trained = {"critic": self.critic, "actor": self.actor}
        return {
            name: optimisation.adamw(network, getattr(self.config, f"{name}_learning_rate"))
            for name, network in trained.items()
            if network is not None
        }

    def made_of(self) -> dict[str, Any]:
        """Returns what another agent must share to load this one's state."""
        settings = {name: getattr(self, name) for name in ("observation_size", "action_size", "discrete")}
        if not self.discrete:
            settings |= {"action_low": self.action_low.tolist(), "action_high": self.action_high.tolist()}
        return {**settings, **checks.plain(self.config)}

    def state_dict(self) -> dict[str, Any]:
        """Returns everything that `update` changes, and what the agent was made of."""
        return {
            "made_of": self.made_of(),
            "networks": self.networks.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resumes from another agent's ``state``; raises ValueError if that agent was made differently."""
        checks.check_made_of(type(self).__name__, self.made_of(), state.get("made_of", {}))
        self.networks.load_state_dict(state["networks"])
        for name, optimizer in self.optimizers.items():
            # A copy, because torch's optimizers would update the given tensors in place.
            optimizer.load_state_dict(copy.deepcopy(state["optimizers"][name]))
