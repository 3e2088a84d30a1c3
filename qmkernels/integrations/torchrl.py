"""QRL's and TMD's losses for TorchRL: a TensorDict in, ``loss_*`` out.

Needs ``pip install qmkernels[torchrl]``. A head needs no class of its own to be a TensorDictModule::

    TensorDictModule(head, in_keys=["embedding", "goal_embedding"], out_keys=["distance"])
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import ProbabilisticTensorDictSequential
from torch import Tensor, nn

from ..losses import latent_dynamics, qrl_critic, tmd_critic
from ..losses.qrl_critic import QRLCritic
from ..losses.tmd_critic import TMDCritic
from .torchrl_goal_reaching import GoalReachingLoss

__all__ = ["QRLLoss", "TMDLoss"]


class QRLLoss(GoalReachingLoss):
    r"""QRL's losses: `qmkernels.losses.qrl_critic`, `qmkernels.losses.latent_dynamics`, and those of an actor.

    .. math:: \mathrm{actor} = \overline{d(T(z, a), z_g)} - w\, \overline{\log \pi(a_{data} \mid s, g)},\quad
              a \sim \pi(\cdot \mid s, g)

    The critic goes to its own goals, the next observations of other rows; the batch's goals are the actor's.

    Args:
        encoder: maps observations, and goals, which are observations too, to latents z, ``(N, ...)`` to ``(N, L)``.
        dynamics: maps latents and actions to the predicted next latents, ``(N, L)`` and ``(N, A)`` to ``(N, L)``.
        head: the quasimetric. For an ensemble of critics give as many encoders, dynamics, heads and projectors, each a
            list; their losses are summed, and the actor follows the largest of their distances.
        actor_network: a policy with ``get_dist`` whose distribution has ``rsample`` and ``log_prob``; it reads its own
            in_keys. None: no actor loss.

    Keyword Args:
        projector: maps latents to the embeddings that the head compares. Default: they are the latents.
        cost: of a transition; None: minus its reward. Default 1.
        epsilon, softplus_beta, softplus_offset, multiplier, threshold: of `qmkernels.losses.qrl_critic`.
        initial_multiplier: of the constraint, above 0; it is learned with the networks as ``raw_multiplier``, mostly at
            a higher learning rate. Each critic has its own, ``(E,)``. Default 0.01.
        dynamics_weight: of the latent dynamics' loss. Default 0.1.
        behaviour_cloning_weight: w. Default 0.05.

    Keys (``set_keys``): observation "observation", action "action", goal "desired_goal", reward "reward" (of "next").
    Networks are called with tensors, which a TensorDictModule with as many in_keys allows too.

    Returns 0-d ``loss_critic``, ``loss_dynamics``, ``loss_actor``, already weighted, to be summed; and detached the
    other fields of `QRLCritic`, means over an ensemble. The actor's loss gives the critic's parameters no gradient.
    Batch dimensions are flattened, and ``loss_mask_key`` drops rows. Losses are means: there is no ``reduction``. No
    target comes from a delayed network, so there are no target parameters; random layers of an ensemble follow
    ``vmap_randomness``.

    Raises ValueError, TypeError and RuntimeError as the two losses do, and ValueError for an initial_multiplier of 0 or
    less, or lists of networks that differ in length.

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
        encoder: nn.Module | Sequence[nn.Module],
        dynamics: nn.Module | Sequence[nn.Module],
        head: nn.Module | Sequence[nn.Module],
        actor_network: ProbabilisticTensorDictSequential | None = None,
        *,
        projector: nn.Module | Sequence[nn.Module] | None = None,
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
        super().__init__(actor_network, _members(encoder=encoder, dynamics=dynamics, projector=projector, head=head))
        self._lagrangian = dict(
            epsilon=epsilon, softplus_beta=softplus_beta, softplus_offset=softplus_offset, multiplier=multiplier,
            threshold=threshold,
        )  # fmt: skip
        self.dynamics_weight, self.behaviour_cloning_weight = dynamics_weight, behaviour_cloning_weight
        # The inverse of softplus, log(e^m - 1), without overflow.
        inverse = initial_multiplier + math.log(-math.expm1(-initial_multiplier))
        raw = math.log(initial_multiplier) if multiplier == "exp" else inverse
        self.raw_multiplier = nn.Parameter(torch.full((self.num_critics,) if self.num_critics > 1 else (), raw))

    def _keys_read(self) -> list[NestedKey]:
        keys = self.tensor_keys
        read = [keys.observation, keys.action]
        if self.actor_network is not None:
            read.append(keys.goal)
        return read if self.cost is not None else [*read, ("next", keys.reward)]

    def _critic_results(self, rows: TensorDictBase) -> dict[str, Tensor]:
        keys, critic, size = self.tensor_keys, self.critic, len(rows)
        cost = -rows["next", keys.reward].reshape(size) if self.cost is None else self.cost
        states, action = torch.cat([rows[keys.observation], rows[self._next_observation]]), rows[keys.action]

        def of_one(raw_multiplier):
            encoded = critic.encoder(states)
            predicted = critic.dynamics(encoded[:size], action)
            x, y, predicted = critic.projector(torch.cat([encoded, predicted])).split(size)
            result = qrl_critic(critic.head, x, y, raw_multiplier, cost=cost, **self._lagrangian)
            return latent_dynamics(critic.head, predicted, y).loss, *result

        dynamics, loss, *others = self._of_critics(of_one, self.raw_multiplier)
        losses = {"loss_critic": loss.sum(), "loss_dynamics": self.dynamics_weight * dynamics.sum()}
        return losses | {name: each.mean() for name, each in zip(QRLCritic._fields[1:], others, strict=True)}

    def _actor_results(self, rows: TensorDictBase) -> dict[str, Tensor]:
        keys, critic, policy = self.tensor_keys, self.critic, self._policy(rows)
        observation, goals, action = rows[keys.observation], rows[keys.goal], policy.rsample()

        def of_one():
            with torch.no_grad():
                state, goal = critic.encoder(observation), critic.projector(critic.encoder(goals))
            return critic.head(critic.projector(critic.dynamics(state, action)), goal)

        distance = self._of_critics(of_one, frozen=True).amax(dim=0).mean()
        cloning = -policy.log_prob(rows[keys.action]).mean()
        return {"loss_actor": distance + self.behaviour_cloning_weight * cloning, "actor_distance": distance.detach()}


class TMDLoss(GoalReachingLoss):
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
        super().__init__(actor_network, [nn.ModuleDict(dict(phi=phi, psi=psi, head=head))])
        self._settings = dict(discount=discount, zeta=zeta, clip=clip, diagonal_weight=diagonal_weight)
        self.behaviour_cloning_weight = behaviour_cloning_weight

    def _keys_read(self) -> list[NestedKey]:
        keys = self.tensor_keys
        read = [keys.observation, keys.action, keys.goal]
        return read if self.actor_network is None else [*read, keys.actor_goal]

    def _critic_results(self, rows: TensorDictBase) -> dict[str, Tensor]:
        keys, critic, size = self.tensor_keys, self.critic, len(rows)
        state = rows[keys.observation]
        with self._with_critic(self.critic_params):
            phi = _members_first(critic.phi(state, rows[keys.action]))
            compared = critic.psi(torch.cat([state, rows[self._next_observation], rows[keys.goal]]))
            psi, psi_next, psi_goal = map(_members_first, compared.split(size))
            result = tmd_critic(critic.head, phi, psi, psi_next, psi_goal, **self._settings)
        return {"loss_critic": result.loss, **dict(zip(TMDCritic._fields[1:], result[1:], strict=True))}

    def _actor_results(self, rows: TensorDictBase) -> dict[str, Tensor]:
        keys, critic, policy = self.tensor_keys, self.critic, self._policy(rows)
        with self._with_critic(self.critic_params.data):
            with torch.no_grad():
                goal = _members_first(critic.psi(rows[keys.actor_goal]))
            phi = _members_first(critic.phi(rows[keys.observation], policy.deterministic_sample))
            distance = critic.head(phi, goal)
        mean = (distance.amax(dim=0) if distance.dim() > 1 else distance).mean()
        cloning = -policy.log_prob(rows[keys.action]).mean()
        loss = mean / (mean.detach() + 1e-6) + self.behaviour_cloning_weight * cloning
        return {"loss_actor": loss, "actor_distance": mean.detach()}


def _members(**networks: nn.Module | Sequence[nn.Module] | None) -> list[nn.ModuleDict]:
    """Returns the networks of each critic, given those of one, or lists of as many; None is the identity."""
    counts = {name: len(given) for name, given in networks.items() if isinstance(given, Sequence)}
    if len({*counts.values()}) > 1:
        raise ValueError(f"QRLLoss: lists of networks must be of one length, got {counts}.")
    count = max(counts.values(), default=1)
    for name, given in networks.items():
        if count > 1 and given is not None and name not in counts:
            raise ValueError(f"QRLLoss: {name} must be a list of {count}, like {', '.join(counts)}.")
    lists = {name: given if name in counts else [given] * count for name, given in networks.items()}
    return [
        nn.ModuleDict({name: nn.Identity() if members[i] is None else members[i] for name, members in lists.items()})
        for i in range(count)
    ]


def _members_first(embedding: Tensor) -> Tensor:
    """Moves an ensemble's dimension (N, E, D) to where the losses have it, (E, N, D)."""
    return embedding.movedim(-2, 0) if embedding.dim() > 2 else embedding
