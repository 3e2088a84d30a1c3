"""QRL's critic: the constrained problem with its multiplier."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ..backends import dispatch
from ..definitions.qrl_critic import MULTIPLIERS, QrlCriticSettings, loss_of, terms
from ..nn.iqe import FusedIqe
from ..ops.arguments import check_choice, constant, in_compute_dtype, tensor_like
from ..ops.qrl_critic import qrl_critic as by_kernel
from . import checks
from .fused_head import fused_iqe

_THRESHOLDS = ("squared", "plain")


class QRLCritic(NamedTuple):
    """``loss`` is the scalar to minimise; the others are detached.

    push        mean of the softplus that pushes goals away.
    violation   mean squared violation of the local constraint.
    multiplier  lambda.
    goal_distance, local_distance   mean d(x, goal) and d(x, y).
    """

    loss: Tensor
    push: Tensor
    violation: Tensor
    multiplier: Tensor
    goal_distance: Tensor
    local_distance: Tensor


def qrl_critic(
    head: checks.Head,
    x: Tensor,
    y: Tensor,
    raw_multiplier: Tensor,
    *,
    goal: Tensor | None = None,
    cost: Tensor | float = 1.0,
    epsilon: float = 0.25,
    softplus_beta: float = 0.1,
    softplus_offset: float = 15.0,
    multiplier: str = "softplus",
    threshold: str = "squared",
) -> QRLCritic:
    r"""Pushes goals as far away as steps of known cost allow.

    .. math:: \overline{\mathrm{softplus}_\beta(o - d(x_i, g_i))}
              + \lambda \left(\overline{\mathrm{relu}(d(x_i, y_i) - c_i)^2} - \epsilon^2\right)

    with softplus_beta(u) = log(1 + exp(beta u)) / beta. The loss is minimised over the embeddings and the head, and
    **maximised** over the multiplier: the gradient of ``raw_multiplier`` has the opposite sign, so that one optimizer
    step on everything solves the Lagrangian.

    Args:
        head: the quasimetric, a module or function of x and y; its parameters take part in autograd.
        x, y: a state and the next, ``(..., B, D)``.
        raw_multiplier: 0-d, what lambda is made of.
        goal: ``(..., B, D)``; None: ``y`` rolled by one row, the next state of another transition of the batch.
        cost: c, a number or one a row, ``(..., B)``. Default 1.
        epsilon: how far the constraint may be violated. Default 0.25.
        softplus_beta, softplus_offset: beta and o. Defaults 0.1 and 15, as published online; for mazes 0.01 and 500.
        multiplier: lambda = "softplus" of raw_multiplier, as published, or its "exp" (OGBench).
        threshold: the violation is held against epsilon "squared", as published, or against "plain" epsilon (OGBench,
            0.05).

    Returns:
        `QRLCritic`.

    Raises:
        ValueError: empty or mismatched batches, a batch of one without a goal (it would be its own), a cost of another
        length, a multiplier that is not 0-d.

    A multiplier that is not finite gives a loss that is not.

    Source: Wang et al. 2023, arXiv 2304.01203, equation 10 and its code; OGBench (arXiv 2410.20092): ``epsilon=0.05,
    softplus_beta=0.01, softplus_offset=500, multiplier="exp", threshold="plain"``.

    Example:
        >>> head, raw = qm.nn.IQE(64, 8), torch.tensor(0.0, requires_grad=True)
        >>> x, y = torch.randn(32, 64, requires_grad=True), torch.randn(32, 64, requires_grad=True)
        >>> qm.losses.qrl_critic(head, x, y, raw).loss.backward()
    """
    _check_critic(head, x, y, raw_multiplier, goal, multiplier, threshold)
    if isinstance(cost, Tensor):
        cost = checks.per_row("qrl_critic", "cost", cost, x[..., 0])
    allowed = epsilon**2 if threshold == "squared" else epsilon
    lagrangian = float(softplus_beta), float(softplus_offset), multiplier, float(allowed)
    needs_composing = x.dim() != 2 or (isinstance(cost, Tensor) and cost.requires_grad)
    fused = None if needs_composing else fused_iqe(head, x)
    if fused is not None:
        return _by_kernel(fused, lagrangian, x, y, raw_multiplier, goal, cost)
    settings = QrlCriticSettings(1, "sum", "identity", *lagrangian)
    to_goal, local = head(x, y.roll(1, dims=-2) if goal is None else goal), head(x, y)
    push, violation, weight = terms(to_goal, local, raw_multiplier, cost, settings)
    loss = loss_of(push, violation, weight, settings.threshold)
    others = push, violation, weight, to_goal.mean(), local.mean()
    return QRLCritic(loss, *(value.detach() for value in others))


def _by_kernel(
    fused: FusedIqe, lagrangian: tuple, x: Tensor, y: Tensor, raw: Tensor, goal: Tensor | None, cost: Tensor | float
) -> QRLCritic:
    x, y = in_compute_dtype(x), in_compute_dtype(y)
    goal = None if goal is None else in_compute_dtype(goal)
    cost = cost.reshape(-1).to(x.dtype) if isinstance(cost, Tensor) else constant(float(cost), x, 1)
    iqe, max_weight = fused
    if max_weight is not None:
        max_weight = tensor_like("qrl_critic", "max_weight", max_weight, x)
    raw = raw if raw.dtype is x.dtype else raw.to(x.dtype)
    tensors, settings = (x, y, goal, max_weight, raw, cost), (*iqe, *lagrangian)
    loss, stats = by_kernel(tensors, settings, dispatch.requested(None))
    return QRLCritic(loss, *stats.unbind()[:5])


def _check_critic(head, x, y, raw_multiplier, goal, multiplier, threshold) -> None:
    checks.check_head("qrl_critic", head)
    if goal is not None:
        checks.check_rows("qrl_critic", x=x, y=y, goal=goal)
    else:
        checks.check_rows("qrl_critic", x=x, y=y)
        if x.shape[-2] == 1:
            raise ValueError("qrl_critic: a batch of one has no other row to be its goal; give goal.")
    checks.check_multiplier("qrl_critic", "raw_multiplier", raw_multiplier, x)
    check_choice("qrl_critic", "multiplier", multiplier, MULTIPLIERS)
    check_choice("qrl_critic", "threshold", threshold, _THRESHOLDS)
