"""What every agent has: how it is made, networks and optimizers by their names, and the state that is saved of them."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import torch
from torch import nn

from . import checks, optimisation
from .goal_actor import action_range


class TrainedAgent:
    """A subclass gives ``config_class``, `make_networks` and ``update``, and `make_optimizers` where it has others."""

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
            observation_size: values in an observation; of images, (channels, height, width). Not every agent allows
                them.
            action_size: values in an action; with ``discrete``, the number of actions.
            config: default ``config_class()``, which is as published.
            discrete: actions are integers from 0. Not every agent allows them.
            action_low, action_high: the actions' range, numbers or one a value.
            device: of the networks. Default: torch's.
            group: processes that train together, of `torch.distributed`: gradients are averaged before each step.
            networks: arguments of the agent's own, which its `make_networks` takes.

        Raises:
            ValueError: the actions' range is not finite, or they are discrete or observations images and the agent
                does not allow that.
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
        self.networks = nn.ModuleDict({name: each for name, each in vars(self).items() if isinstance(each, nn.Module)})
        optimisation.send(group, self.networks.to(device))
        self.optimizers = self.make_optimizers()

    def make_networks(self) -> None:
        """Sets ``critic``, ``actor`` or whatever else is trained, as attributes: `networks` has all by their names."""
        raise NotImplementedError

    def make_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Of the critic and of the actor, at the configuration's ``critic_learning_rate``, ``actor_learning_rate``."""
        trained = {"critic": self.critic, "actor": self.actor}
        return {
            name: optimisation.adamw(network, getattr(self.config, f"{name}_learning_rate"))
            for name, network in trained.items()
            if network is not None
        }

    def made_of(self) -> dict[str, Any]:
        """What another agent must have in common to take this one's state."""
        made = {name: getattr(self, name) for name in ("observation_size", "action_size", "discrete")}
        if not self.discrete:
            made |= {"action_low": self.action_low.tolist(), "action_high": self.action_high.tolist()}
        return {**made, **checks.plain(self.config)}

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
