"""QRL's critic loss: the Lagrangian of a constrained problem."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ..arguments.checks import check_choice
from ..arguments.qrl_critic import QrlCriticSettings
from ..backends import dispatch
from ..definitions.dtypes import compute_dtype
from ..definitions.qrl_critic import MULTIPLIERS, loss_of, terms
from ..nn.iqe import FusedIqe
from ..ops.arguments import constant, tensor_like
from ..ops.qrl_critic import qrl_critic as by_kernel
from . import checks
from .fused_head import fused_iqe

_THRESHOLDS = ("squared", "plain")


class QRLCritic(NamedTuple):
    """``loss`` is the scalar to minimise; the others are detached. All are 0-d.

    push        mean of the softplus that pushes goals away.
    violation   mean squared violation of the local constraint.
    multiplier  lambda.
    goal_distance, local_distance   mean d(x, goal) and mean d(x, y).
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
    r"""Pushes goals as far away as transitions of known cost allow.

    .. math:: \overline{\mathrm{softplus}_\beta(o - d(x_i, g_i))}
              + \lambda \left(\overline{\mathrm{relu}(d(x_i, y_i) - c_i)^2} - \epsilon^2\right)

    with softplus_beta(u) = log(1 + exp(beta u)) / beta. Distances, costs, epsilon and o share a unit, environment steps
    if each step costs 1. A head with ``fused_iqe`` runs in one kernel, any other in composed ops: the numbers agree.

    Args:
        head: the quasimetric, a module or function of x and y; its parameters take part in autograd.
        x, y: a state and the next, ``(..., B, D)``; float32, float64, bfloat16 or float16.
        raw_multiplier: 0-d float tensor, from which lambda is computed.
        goal: ``(..., B, D)``; None: ``y`` rolled by one row, the next state of another transition in the batch.
        cost: c, a number or one per row, ``(..., B)``. Default 1.
        epsilon: how far the constraint may be violated. Default 0.25.
        softplus_beta, softplus_offset: beta and o. Defaults 0.1 and 15, as published online; 0.01 and 500 for mazes.
        multiplier: lambda is the "softplus" of raw_multiplier, as published, or its "exp" (OGBench).
        threshold: compares the violation with epsilon "squared", as published, or with "plain" epsilon (OGBench, 0.05).

    Returns:
        `QRLCritic`, in float32 for half embeddings, else in their dtype.

    Gradients flow to x, y, goal, cost and the head's parameters, which minimise the loss. That of ``raw_multiplier``
    has the opposite sign, so that one optimizer step on everything also **maximises** over lambda. Rows with
    d(x, y) <= cost get none from the constraint.

    NaN in a row gives NaN in the loss and in the gradients of the rows compared with it. Infinities give what the head
    and the formula give, and so does a multiplier that is not finite.

    Raises:
        ValueError: shapes that do not fit or are empty, a batch of one without goal (it would be its own), a cost of
            another shape, a raw_multiplier that is not 0-d, unknown names, a head with a discount.
        TypeError: a head that cannot be called, or tensors that are not float or differ in dtype.
        RuntimeError: different devices, or a forced backend that cannot run.

    Source: Wang et al. 2023, arXiv 2304.01203, equation 10 and its code; OGBench (arXiv 2410.20092): ``epsilon=0.05,
    softplus_beta=0.01, softplus_offset=500, multiplier="exp", threshold="plain"``.

    Example:
        >>> head, raw = qm.nn.IQE(2, 2, reduction="sum"), torch.tensor(0.0, requires_grad=True)
        >>> x, y = torch.zeros(2, 2, requires_grad=True), torch.tensor([[3.0, 0.0], [0.0, 1.0]])
        >>> result = qm.losses.qrl_critic(head, x, y, raw)
        >>> result.violation, result.goal_distance
        (tensor(2.), tensor(2.))
        >>> result.loss.backward()
        >>> raw.grad
        tensor(-0.9688)
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
    diagnostics = push, violation, weight, to_goal.mean(), local.mean()
    return QRLCritic(loss, *(value.detach() for value in diagnostics))


def _by_kernel(
    fused: FusedIqe, lagrangian: tuple, x: Tensor, y: Tensor, raw: Tensor, goal: Tensor | None, cost: Tensor | float
) -> QRLCritic:
    dtype = compute_dtype(x)
    cost = cost.reshape(-1).to(dtype) if isinstance(cost, Tensor) else constant(float(cost), x, 1)
    iqe, max_weight = fused
    if max_weight is not None:
        max_weight = tensor_like("qrl_critic", "max_weight", max_weight, x)
    raw = raw if raw.dtype is dtype else raw.to(dtype)
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
            raise ValueError("qrl_critic: a batch without goal must have at least two rows, got one; give goal.")
    checks.check_multiplier("qrl_critic", "raw_multiplier", raw_multiplier, x)
    check_choice("qrl_critic", "multiplier", multiplier, MULTIPLIERS)
    check_choice("qrl_critic", "threshold", threshold, _THRESHOLDS)
