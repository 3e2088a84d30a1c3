"""Regression of distances onto known numbers of steps."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ..arguments.checks import check_choice
from ..arguments.row_loss import RowLossSettings
from . import checks
from .row_loss import at_least, check_flags, row_loss, weight_per_row

_FORMS = ("smooth_l1", "squared", "relative", "upper", "apart")


class StepGap(NamedTuple):
    """``loss`` is the scalar to minimise; the others are detached. All are 0-d, over the rows that the mask keeps.

    distance, steps  mean d(x, y) and mean number of steps.
    below            share of rows with d(x, y) < steps.
    """

    loss: Tensor
    distance: Tensor
    steps: Tensor
    below: Tensor


def step_gap(
    head: checks.Head,
    x: Tensor,
    y: Tensor,
    steps: Tensor | float,
    *,
    form: str = "smooth_l1",
    beta: float = 1.0,
    power: float = 1.0,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> StepGap:
    r"""Holds distances between two states of a trajectory to the number of steps n from one to the other.

    .. math:: \overline{w_i\, \ell(d(x_i, y_i), n_i)}

    over the rows that the mask keeps, with the form's

    =============  ======================================================================================
    "smooth_l1"    (d - n)^2 / (2 beta) where abs(d - n) < beta, else abs(d - n) - beta / 2: regression
    "squared"      (d - n)^2
    "relative"     (d / n - 1)^2
    "upper"        relu(d - n)^2: n steps are an upper bound, as on any trajectory that is not the shortest
    "apart"        relu(n - d)^power: pairs that are at least n, a margin, apart, as of two trajectories
    =============  ======================================================================================

    IQE and MRN heads (`nn.IQE`, `nn.MRN`, `nn.MRNFixed`, `nn.LatentMRN`) run in one kernel from embeddings to loss, any
    other in composed ops: the numbers agree.

    Args:
        head: the quasimetric, a module or function of x and y; its parameters take part in autograd.
        x, y: the earlier and the later state, ``(..., B, D)``; float32, float64, bfloat16 or float16.
        steps: n, a number, or one per row, a tensor of any dtype that broadcasts to ``(..., B)``; in the head's unit.
        form: see above. Default "smooth_l1".
        beta: where "smooth_l1" turns from squared to linear; 0 is L1. Default 1.
        power: exponent of "apart", at least 1. Default 1.
        weight: w, a float tensor that broadcasts to ``(..., B)``. The loss is not divided by its sum. Default: all 1.
        mask: bool, broadcasts to ``(..., B)``; rows where it is False take no part, whatever they hold. If none is
            left, the loss, its gradients and the diagnostics are 0. Default: all True.

    Returns:
        `StepGap`, in float32 for half embeddings, else in their dtype.

    Gradients flow to x, y, steps, weight and the head's parameters. NaN in a row gives NaN in the loss and in the
    gradients of that row; in a row that the mask leaves out, at most in the gradients of that row. In a tensor, steps
    below 0, or 0 in the form "relative", count as NaN: checking them would wait for the device. Infinities give what
    the head and the formula give.

    Raises:
        ValueError: shapes that differ, do not broadcast or are empty, an unknown form, a number of steps below 0 (0 in
            the form "relative"), a beta below 0, a power below 1, a head with a discount.
        TypeError: a head that cannot be called, tensors that are not float or differ in dtype, a mask that is not bool.
        RuntimeError: different devices, or a forced backend that cannot run.

    Source: "relative", "upper" and "apart" with power 2 (for n = D_max, divided by D_max^2): MAD, arXiv 2506.09276.
    "smooth_l1" and "apart": TD-JEPA's code. "squared" and "apart": dynamical distances, arXiv 1907.08225; x-jepa's
    code.

    Example:
        >>> head = qm.nn.IQE(2, 2, reduction="sum")
        >>> x, y = torch.zeros(2, 2), torch.tensor([[3.0, 0.0], [0.0, 1.0]])
        >>> qm.losses.step_gap(head, x, y, torch.tensor([2, 4]), form="squared")
        StepGap(loss=tensor(5.), distance=tensor(2.), steps=tensor(3.), below=tensor(0.5000))
    """
    checks.check_head("step_gap", head)
    checks.check_rows("step_gap", x=x, y=y)
    check_choice("step_gap", "form", form, _FORMS)
    if not beta >= 0:
        raise ValueError(f"step_gap: beta must be at least 0, got {beta}.")
    if not power >= 1:
        raise ValueError(f"step_gap: power must be at least 1, got {power}.")
    steps = at_least("step_gap", x, "steps", steps, 0.0, above=form == "relative")
    weight = weight_per_row("step_gap", x, weight)
    check_flags("step_gap", x, "mask", mask)
    settings = RowLossSettings(form, float(beta), float(power))
    loss, stats = row_loss(head, x, y, steps, weight, mask, settings)
    return StepGap(loss, *stats)
