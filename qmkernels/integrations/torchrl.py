"""QRL's and TMD's losses for TorchRL: a TensorDict in, ``loss_*`` out.

Needs ``pip install qmkernels[torchrl]``. A head needs no class of its own to be a TensorDictModule::

    TensorDictModule(head, in_keys=["embedding", "goal_embedding"], out_keys=["distance"])
"""

from __future__ import annotations

import abc
import math
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase, TensorDictParams, unravel_key
from tensordict.nn import ProbabilisticTensorDictSequential, dispatch
from torch import Tensor, nn
from torch.distributions import Distribution
from torchrl.objectives import AUTO_LOSS_MASK_KEYS, LossModule

from ..losses import latent_dynamics, qrl_critic, tmd_critic
from ..losses.qrl_critic import QRLCritic
from ..losses.tmd_critic import TMDCritic

__all__ = ["QRLLoss", "TMDLoss"]


class _GoalReachingLoss(LossModule):
    """A critic of networks and a head, and an actor that learns from the critic; a subclass has their two losses."""

    critic: nn.ModuleDict
    critic_params: TensorDictParams
    target_critic_params: TensorDictParams
    actor_network: ProbabilisticTensorDictSequential | None
    actor_network_params: TensorDictParams | None
    target_actor_network_params: TensorDictParams | None

    def __init__(self, actor_network: ProbabilisticTensorDictSequential | None, **critic: nn.Module) -> None:
        super().__init__()
        self.convert_to_functional(nn.ModuleDict(critic), "critic")
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

    def _with_critic(self, frozen: bool = False) -> AbstractContextManager:
        """Puts this loss's parameters into the critic's networks; ``frozen``: they get no gradients."""
        parameters = self.critic_params.data if frozen else self.critic_params
        return parameters.to_module(self.critic, preserve_module_state=False)

    def _policy(self, rows: TensorDictBase) -> Distribution:
        with self.actor_network_params.to_module(self.actor_network, preserve_module_state=False):
            return self.actor_network.get_dist(rows)


class QRLLoss(_GoalReachingLoss):
    r"""QRL's losses: `qmkernels.losses.qrl_critic`, `qmkernels.losses.latent_dynamics`, and those of an actor.

    .. math:: \mathrm{actor} = \overline{d(T(z, a), z_g)} - w\, \overline{\log \pi(a_{data} \mid s, g)},\quad
              a \sim \pi(\cdot \mid s, g)

    The critic goes to its own goals, the next observations of other rows; the batch's goals are the actor's.

    Args:
        encoder: maps observations, and goals, which are observations too, to latents z, ``(N, ...)`` to ``(N, L)``.
        dynamics: maps latents and actions to the predicted next latents, ``(N, L)`` and ``(N, A)`` to ``(N, L)``.
        head: the quasimetric.
        actor_network: a policy with ``get_dist`` whose distribution has ``rsample`` and ``log_prob``; it reads its own
            in_keys. None: no actor loss.

    Keyword Args:
        projector: maps latents to the embeddings that the head compares. Default: they are the latents.
        cost: of a transition; None: minus its reward. Default 1.
        epsilon, softplus_beta, softplus_offset, multiplier, threshold: of `qmkernels.losses.qrl_critic`.
        initial_multiplier: of the constraint, above 0; it is learned with the networks as ``raw_multiplier``, mostly at
            a higher learning rate. Default 0.01.
        dynamics_weight: of the latent dynamics' loss. Default 0.1.
        behaviour_cloning_weight: w. Default 0.05.

    Keys (``set_keys``): observation "observation", action "action", goal "desired_goal", reward "reward" (of "next").
    Networks are called with tensors, which a TensorDictModule with as many in_keys allows too.

    Returns 0-d ``loss_critic``, ``loss_dynamics``, ``loss_actor``, already weighted, to be summed; and detached the
    other fields of `QRLCritic`. The actor's loss gives the critic's parameters no gradient. Batch dimensions are
    flattened, and ``loss_mask_key`` drops rows. Losses are means: there is no ``reduction``.

    Raises ValueError, TypeError and RuntimeError as the two losses do, and ValueError for an initial_multiplier of 0 or
    less.

    Source: Wang et al. 2023, arXiv 2304.01203, with the code's offline actor (`qmkernels.agents.QRL` with one critic,
    without the adaptive entropy of its online one).

    Example:
        >>> from qmkernels.integrations.torchrl import QRLLoss
        >>> from tensordict import TensorDict
        >>> class Dynamics(torch.nn.Linear):
        ...     def forward(self, latent, action):
        ...         return latent + super().forward(torch.cat([latent, action], -1))
        >>> loss = QRLLoss(torch.nn.Linear(4, 16), Dynamics(16 + 2, 16), qm.nn.IQE(16, 8))
        >>> steps = {"observation": torch.randn(32, 4), "next": {"observation": torch.randn(32, 4)}}
        >>> result = loss(TensorDict({**steps, "action": torch.randn(32, 2)}, [32]))
        >>> (result["loss_critic"] + result["loss_dynamics"]).backward()
    """

    @dataclass
    class _AcceptedKeys:
        observation: NestedKey = "observation"
        action: NestedKey = "action"
        goal: NestedKey = "desired_goal"
        reward: NestedKey = "reward"

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys
    out_keys = ["loss_critic", "loss_dynamics", "loss_actor", *QRLCritic._fields[1:], "actor_distance"]

    def __init__(
        self,
        encoder: nn.Module,
        dynamics: nn.Module,
        head: nn.Module,
        actor_network: ProbabilisticTensorDictSequential | None = None,
        *,
        projector: nn.Module | None = None,
        cost: float | None = 1.0,
        epsilon: float = 0.25,
        softplus_beta: float = 0.1,
        softplus_offset: float = 15.0,
        multiplier: str = "softplus",
        threshold: str = "squared",
        initial_multiplier: float = 0.01,
        dynamics_weight: float = 0.1,
        behaviour_cloning_weight: float = 0.05,
    ) -> None:
        if not initial_multiplier > 0:
            raise ValueError(f"QRLLoss: initial_multiplier must be above 0, got {initial_multiplier}.")
        self.cost = cost
        projector = nn.Identity() if projector is None else projector
        super().__init__(actor_network, encoder=encoder, dynamics=dynamics, projector=projector, head=head)
        self._lagrangian = dict(
            epsilon=epsilon, softplus_beta=softplus_beta, softplus_offset=softplus_offset, multiplier=multiplier,
            threshold=threshold,
        )  # fmt: skip
        self.dynamics_weight, self.behaviour_cloning_weight = dynamics_weight, behaviour_cloning_weight
        # The inverse of softplus, log(e^m - 1), without overflow.
        inverse = initial_multiplier + math.log(-math.expm1(-initial_multiplier))
        raw = math.log(initial_multiplier) if multiplier == "exp" else inverse
        self.raw_multiplier = nn.Parameter(torch.tensor(raw))

    def _keys_read(self) -> list[NestedKey]:
        keys = self.tensor_keys
        read = [keys.observation, keys.action]
        if self.actor_network is not None:
            read.append(keys.goal)
        return read if self.cost is not None else [*read, ("next", keys.reward)]

    def _critic_results(self, rows: TensorDictBase) -> dict[str, Tensor]:
        keys, critic, size = self.tensor_keys, self.critic, len(rows)
        cost = -rows["next", keys.reward].reshape(size) if self.cost is None else self.cost
        with self._with_critic():
            encoded = critic.encoder(torch.cat([rows[keys.observation], rows[self._next_observation]]))
            predicted = critic.dynamics(encoded[:size], rows[keys.action])
            x, y, predicted = critic.projector(torch.cat([encoded, predicted])).split(size)
            result = qrl_critic(critic.head, x, y, self.raw_multiplier, cost=cost, **self._lagrangian)
            dynamics = latent_dynamics(critic.head, predicted, y)
        losses = {"loss_critic": result.loss, "loss_dynamics": self.dynamics_weight * dynamics.loss}
        return losses | dict(zip(QRLCritic._fields[1:], result[1:], strict=True))

    def _actor_results(self, rows: TensorDictBase) -> dict[str, Tensor]:
        keys, critic, policy = self.tensor_keys, self.critic, self._policy(rows)
        with self._with_critic(frozen=True):
            with torch.no_grad():
                state, goal = critic.encoder(rows[keys.observation]), critic.projector(critic.encoder(rows[keys.goal]))
            distance = critic.head(critic.projector(critic.dynamics(state, policy.rsample())), goal).mean()
        cloning = -policy.log_prob(rows[keys.action]).mean()
        return {"loss_actor": distance + self.behaviour_cloning_weight * cloning, "actor_distance": distance.detach()}


class TMDLoss(_GoalReachingLoss):
    r"""TMD's losses: `qmkernels.losses.tmd_critic`, and that of an actor that follows the learned distance.

    .. math:: \mathrm{actor} = \frac{\overline{d}}{\overline{d}_{detached}} - w\, \overline{\log \pi(a_{data} \mid s,
              g)},\quad d = \max_{members} d(\varphi(s, a), \psi(g)),\ a = \mathrm{mode}\ \pi(\cdot \mid s, g)

    Args:
        phi: maps observations and actions to embeddings, ``(N, D)``, or ``(N, E, D)`` for an ensemble of E.
        psi: maps observations, and goals, which are observations too, to embeddings of the same shape.
        head: the quasimetric, such as ``qm.nn.LatentMRN(D, preset="tmd")``.
        actor_network: a policy with ``get_dist`` whose distribution has a differentiable ``deterministic_sample`` (as
            TorchRL's do) and ``log_prob``; it reads its own in_keys. None: no actor loss.

    Keyword Args:
        discount, zeta, clip, diagonal_weight: of `qmkernels.losses.tmd_critic`.
        behaviour_cloning_weight: w. Default 0.1.

    Keys (``set_keys``): observation "observation", action "action", goal "desired_goal", which must be a later state of
    the episode (``HERReplayBuffer(..., her_ratio=1.0)``), and actor_goal "desired_goal", what the actor learns to
    reach. Networks are called with tensors, which a TensorDictModule with as many in_keys allows too.

    Returns 0-d ``loss_critic`` and ``loss_actor``, to be summed; and detached the other fields of `TMDCritic`. The
    actor's loss gives the critic's parameters no gradient. Batch dimensions are flattened, and ``loss_mask_key`` drops
    rows. Losses are means: there is no ``reduction``.

    Raises ValueError, TypeError and RuntimeError as `qmkernels.losses.tmd_critic` does.

    Source: Myers et al. 2025, arXiv 2509.20478, and its code (`qmkernels.agents.TMD`).

    Example:
        >>> from qmkernels.integrations.torchrl import TMDLoss
        >>> from tensordict import TensorDict
        >>> class Phi(torch.nn.Linear):
        ...     def forward(self, observation, action):
        ...         return super().forward(torch.cat([observation, action], -1))
        >>> loss = TMDLoss(Phi(4 + 2, 16), torch.nn.Linear(4, 16), qm.nn.LatentMRN(16, preset="tmd"))
        >>> steps = {"observation": torch.randn(32, 4), "next": {"observation": torch.randn(32, 4)}}
        >>> rows = {**steps, "action": torch.randn(32, 2), "desired_goal": torch.randn(32, 4)}
        >>> loss(TensorDict(rows, [32]))["loss_critic"].backward()
    """

    @dataclass
    class _AcceptedKeys:
        observation: NestedKey = "observation"
        action: NestedKey = "action"
        goal: NestedKey = "desired_goal"
        actor_goal: NestedKey = "desired_goal"

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys
    out_keys = ["loss_critic", "loss_actor", *TMDCritic._fields[1:], "actor_distance"]

    def __init__(
        self,
        phi: nn.Module,
        psi: nn.Module,
        head: nn.Module,
        actor_network: ProbabilisticTensorDictSequential | None = None,
        *,
        discount: float = 0.99,
        zeta: float = 0.05,
        clip: float = 3.0,
        diagonal_weight: float = 0.5,
        behaviour_cloning_weight: float = 0.1,
    ) -> None:
        super().__init__(actor_network, phi=phi, psi=psi, head=head)
        self._settings = dict(discount=discount, zeta=zeta, clip=clip, diagonal_weight=diagonal_weight)
        self.behaviour_cloning_weight = behaviour_cloning_weight

    def _keys_read(self) -> list[NestedKey]:
        keys = self.tensor_keys
        read = [keys.observation, keys.action, keys.goal]
        return read if self.actor_network is None else [*read, keys.actor_goal]

    def _critic_results(self, rows: TensorDictBase) -> dict[str, Tensor]:
        keys, critic, size = self.tensor_keys, self.critic, len(rows)
        state = rows[keys.observation]
        with self._with_critic():
            phi = _members_first(critic.phi(state, rows[keys.action]))
            compared = critic.psi(torch.cat([state, rows[self._next_observation], rows[keys.goal]]))
            psi, psi_next, psi_goal = map(_members_first, compared.split(size))
            result = tmd_critic(critic.head, phi, psi, psi_next, psi_goal, **self._settings)
        return {"loss_critic": result.loss, **dict(zip(TMDCritic._fields[1:], result[1:], strict=True))}

    def _actor_results(self, rows: TensorDictBase) -> dict[str, Tensor]:
        keys, critic, policy = self.tensor_keys, self.critic, self._policy(rows)
        with self._with_critic(frozen=True):
            with torch.no_grad():
                goal = _members_first(critic.psi(rows[keys.actor_goal]))
            phi = _members_first(critic.phi(rows[keys.observation], policy.deterministic_sample))
            distance = critic.head(phi, goal)
        mean = (distance.amax(dim=0) if distance.dim() > 1 else distance).mean()
        cloning = -policy.log_prob(rows[keys.action]).mean()
        loss = mean / (mean.detach() + 1e-6) + self.behaviour_cloning_weight * cloning
        return {"loss_actor": loss, "actor_distance": mean.detach()}


def _members_first(embedding: Tensor) -> Tensor:
    """Moves an ensemble's dimension (N, E, D) to where the losses have it, (E, N, D)."""
    return embedding.movedim(-2, 0) if embedding.dim() > 2 else embedding
