"""What QRL's and TMD's losses for TorchRL share: parameters, keys, rows, and the policy."""

from __future__ import annotations

import abc
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase, TensorDictParams, unravel_key
from tensordict.nn import ProbabilisticTensorDictSequential, dispatch
from torch import Tensor, nn
from torch.distributions import Distribution
from torchrl.objectives import AUTO_LOSS_MASK_KEYS, LossModule


class GoalReachingLoss(LossModule):
    """A critic of networks and a head, and an actor that learns from the critic; a subclass has their two losses."""

    critic: nn.ModuleDict
    critic_params: TensorDictParams
    target_critic_params: TensorDictParams
    actor_network: ProbabilisticTensorDictSequential | None
    actor_network_params: TensorDictParams | None
    target_actor_network_params: TensorDictParams | None

    def __init__(self, actor_network: ProbabilisticTensorDictSequential | None, critics: list[nn.ModuleDict]) -> None:
        super().__init__()
        self.num_critics = len(critics)
        if self.num_critics > 1:
            self.convert_to_functional(critics, "critic", expand_dim=self.num_critics)
        else:
            self.convert_to_functional(*critics, "critic")
        if actor_network is None:
            self.actor_network = None
            self.out_keys = [key for key in self.out_keys if "actor" not in key]
        else:
            self.convert_to_functional(actor_network, "actor_network")
        self.set_keys()

    def _forward_value_estimator_keys(self, **keys) -> None:
        """There is no value estimator."""

    def set_keys(self, **keys: NestedKey) -> None:
        super().set_keys(**keys)
        in_keys = [self._next_observation, *self._keys_read()]
        if self.actor_network is not None:
            in_keys += self.actor_network.in_keys
        self.in_keys = sorted({unravel_key(key) for key in in_keys}, key=str)

    @property
    def _next_observation(self) -> NestedKey:
        return unravel_key(("next", self.tensor_keys.observation))

    @abc.abstractmethod
    def _keys_read(self) -> list[NestedKey]:
        """The keys that the losses read, other than the next observation and the actor's."""

    @abc.abstractmethod
    def _critic_results(self, rows: TensorDictBase) -> dict[str, Tensor]:
        """The critic's losses and diagnostics."""

    @abc.abstractmethod
    def _actor_results(self, rows: TensorDictBase) -> dict[str, Tensor]:
        """The actor's loss and diagnostics, without a gradient for the critic."""

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        rows = self._rows(tensordict)
        results = self._critic_results(rows)
        if self.actor_network is not None:
            results |= self._actor_results(rows)
        return TensorDict(results, [])

    def _rows(self, tensordict: TensorDictBase) -> TensorDictBase:
        """One row per transition, without those that ``loss_mask_key`` marks as padding."""
        rows = tensordict.reshape(-1)
        key = self.loss_mask_key
        for name in AUTO_LOSS_MASK_KEYS if key == "auto" else () if key is None else (key,):
            mask = rows.get(name, None)
            if mask is not None:
                rows = rows[mask.reshape(len(rows), -1).all(dim=-1)]
        return rows

    def _with_critic(self, parameters: TensorDictBase) -> AbstractContextManager:
        """Puts parameters into the critic's networks."""
        return parameters.to_module(self.critic, preserve_module_state=False)

    def _of_critics(self, result: Callable, *tensors: Tensor, frozen: bool = False) -> tuple[Tensor, ...] | Tensor:
        """Runs ``result(*tensors)`` with each critic's parameters in its networks, and of the ``tensors`` each critic's
        part; the results' first dimension is that of the critics. ``frozen``: the parameters get no gradients."""

        def of_one(parameters, *tensors):
            with self._with_critic(parameters):
                return result(*tensors)

        parameters = self.critic_params.data if frozen else self.critic_params
        if self.num_critics > 1:
            return torch.vmap(of_one, randomness=self.vmap_randomness)(parameters, *tensors)
        results = of_one(parameters, *tensors)
        return results.unsqueeze(0) if isinstance(results, Tensor) else tuple(one.unsqueeze(0) for one in results)

    def _policy(self, rows: TensorDictBase) -> Distribution:
        with self.actor_network_params.to_module(self.actor_network, preserve_module_state=False):
            return self.actor_network.get_dist(rows)
