"""The n-step backup of distances by expectile regression."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..arguments.checks import check_choice
from ..arguments.row_loss import RowLossSettings
from ..ops.arguments import constant
from . import checks
from .row_loss import at_least, check_flags, row_loss, weight_per_row

_COSTS = ("steps", "discounted")


class ExpectileBackup(NamedTuple):
    """``loss`` is the scalar to minimise; the others are detached. All are 0-d, over the rows that the mask keeps.

    distance, target  mean d(x, goal) and mean target.
    below             share of rows with d(x, goal) < target.
    """

    loss: Tensor
    distance: Tensor
    target: Tensor
    below: Tensor


def expectile_backup(
    head: checks.Head,
    x: Tensor,
    goal: Tensor,
    next: Tensor,
    *,
    steps: Tensor | float = 1.0,
    reached: Tensor | None = None,
    distance: Tensor | float | None = None,
    discount: float = 1.0,
    cost: str = "steps",
    expectile: float = 0.5,
    huber_delta: float | None = None,
    target_head: checks.Head | None = None,
    target_goal: Tensor | None = None,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> ExpectileBackup:
    r"""Backs up the distance to a goal over the n steps from x to next, by expectile regression.

    .. math:: t_i = c_i + \gamma^{n_i}\, \mathrm{stopgrad}\, \bar d(\mathrm{next}_i, g_i),
              \text{ or the known distance where the goal is reached}

    .. math:: \overline{w_i\, |\tau - [t_i - d(x_i, g_i) > 0]|\; h(t_i - d(x_i, g_i))}

    over the rows that the mask keeps; h(u) is u^2, or with a huber_delta torch's Huber loss, u^2 / 2 where
    abs(u) <= huber_delta.

    **The sign of tau** is that of IQL for values V = -d: the difference is target minus distance, and a row whose
    target is farther than d weighs 1 - tau, one whose target is nearer tau. So tau above 0.5 follows the nearest
    targets, the shortest paths in the data. Code that weighs ``abs(tau - (d > target))`` takes 1 - tau.

    IQE and MRN heads (`nn.IQE`, `nn.MRN`, `nn.MRNFixed`, `nn.LatentMRN`) run in one kernel from embeddings to loss, any
    other in composed ops: the numbers agree.

    Args:
        head: the quasimetric d, a module or function of x and y; its parameters take part in autograd.
        x, goal: ``(..., B, D)``; float32, float64, bfloat16 or float16.
        next: the state n steps after x, as target_head takes it; of goal's shape, or of target_goal's.
        steps: n, a number, or one per row, a tensor of any dtype that broadcasts to ``(..., B)``; above 0. Default 1.
        reached: bool, broadcasts to ``(..., B)``: whether the goal lies within these n steps, so that the target is
            ``distance``. Default: nowhere.
        distance: the known distance to a goal that is reached, a number or one per row; others are not looked at.
        discount: gamma, in (0, 1]. Default 1.
        cost: c is the number of "steps" n, or "discounted", (1 - gamma^n) / (1 - gamma). Default "steps".
        expectile: tau, in (0, 1). Default 0.5.
        huber_delta: where the square turns linear, above 0; None: nowhere. Default None.
        target_head: the quasimetric of the target, for example a moving average of ``head``. Default: ``head``.
        target_goal: the goal as target_head takes it, for target networks with embeddings of their own; of next's
            shape, whose last size may differ from D. Default: ``goal``.
        weight: w, a float tensor that broadcasts to ``(..., B)``. The loss is not divided by its sum. Default: all 1.
        mask: bool, broadcasts to ``(..., B)``; rows where it is False take no part, whatever they hold. If none is
            left, the loss, its gradients and the diagnostics are 0. Default: all True.

    Returns:
        `ExpectileBackup`, in float32 for half embeddings, else in their dtype.

    Gradients flow to x, goal, weight and the head's parameters; none to the target and what it is made of: next,
    target_goal, steps, distance and target_head. NaN in a row gives NaN in the loss and in the gradients of that row;
    in a row that the mask leaves out, at most in the gradients of that row. In a tensor, steps of 0 or below count as
    NaN where the goal is not reached, and so does a target below 0: checking them would wait for the device. Infinities
    give what the head and the formula give.

    Raises:
        ValueError: shapes that differ, do not broadcast or are empty, reached without distance or distance without
            reached, a number of steps of 0 or below, a negative distance, a discount, expectile or huber_delta out of
            range, an unknown cost, a head with a discount.
        TypeError: a head that cannot be called, tensors that are not float or differ in dtype, reached or a mask that
            is not bool.
        RuntimeError: different devices, or a forced backend that cannot run.

    Source: the expectile of IQL (arXiv 2110.06169) on distances, as in value-guided world models (arXiv 2601.00844) and
    HIQL (arXiv 2307.11949).

    Example:
        >>> head = qm.nn.IQE(2, 2, reduction="sum")
        >>> x, next_x, goal = torch.zeros(1, 2), torch.full((1, 2), 2.0), torch.full((1, 2), 6.0)
        >>> qm.losses.expectile_backup(head, x, goal, next_x, steps=3, expectile=0.9)
        ExpectileBackup(loss=tensor(0.1000), distance=tensor(6.), target=tensor(7.), below=tensor(1.))
    """
    name = "expectile_backup"
    checks.check_head(name, head)
    checks.check_rows(name, x=x, goal=goal)
    if target_head is not None:
        checks.check_head(name, target_head)
    if target_goal is None:
        checks.check_rows(name, goal=goal, next=next)
        target_goal = goal
    else:
        checks.check_rows(name, next=next, target_goal=target_goal)
        if next.shape[:-1] != x.shape[:-1]:
            raise ValueError(f"{name}: next must have a row for each of x {tuple(x.shape)}, got {tuple(next.shape)}.")
        checks.check_alike(name, x=x, next=next)
    check_choice(name, "cost", cost, _COSTS)
    if not 0 < discount <= 1:
        raise ValueError(f"{name}: discount must be in (0, 1], got {discount}.")
    if not 0 < expectile < 1:
        raise ValueError(f"{name}: expectile must be in (0, 1), got {expectile}.")
    if huber_delta is not None and not huber_delta > 0:
        raise ValueError(f"{name}: huber_delta must be above 0, or None, got {huber_delta}.")
    if (reached is None) != (distance is None):
        raise ValueError(f"{name}: reached and distance must be given together; distance holds where reached is True.")
    steps = at_least(name, x, "steps", steps, 0.0, above=True)
    check_flags(name, x, "reached", reached)
    if distance is not None:
        distance = at_least(name, x, "distance", distance, 0.0)
    weight = weight_per_row(name, x, weight)
    check_flags(name, x, "mask", mask)
    with torch.no_grad():
        after = (head if target_head is None else target_head)(next, target_goal)
        target = _backup(after, steps, float(discount), cost)
        if reached is not None:
            target = torch.where(reached, distance, target)
    settings = RowLossSettings("expectile", expectile=float(expectile), huber_delta=float(huber_delta or 0.0))
    target = target.detach()  # forward mode ignores no_grad
    loss, stats = row_loss(head, x, goal, target, weight, mask, settings)
    return ExpectileBackup(loss, *stats)


def _backup(after: Tensor, steps: Tensor | float, discount: float, cost: str) -> Tensor:
    """Returns the targets of goals that are not reached, given the distances after the steps."""
    steps = steps.masked_fill(steps <= 0, torch.nan) if isinstance(steps, Tensor) else constant(steps, after)
    if discount == 1:
        return after + steps
    log_kept = steps * math.log(discount)
    costs = steps if cost == "steps" else torch.expm1(log_kept) / (discount - 1)
    return costs + log_kept.exp() * after
