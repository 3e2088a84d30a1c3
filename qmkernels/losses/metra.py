"""METRA's representation loss with its dual variable."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ..arguments.metra import MetraSettings
from ..backends import dispatch
from ..definitions.dtypes import compute_dtype, in_compute_dtype
from ..definitions.metra import NORMS, loss_of, terms
from ..ops.metra import metra as by_kernel
from . import checks


class Metra(NamedTuple):
    """``loss`` is the scalar to minimise; the others are detached. All but the reward are 0-d.

    reward       (phi' - phi) . skill per row, ``(..., B)``, which the policy maximises.
    constraint   mean of min(slack, 1 - squared distance).
    multiplier   exp(log_multiplier).
    distance     mean squared distance.
    """

    loss: Tensor
    reward: Tensor
    constraint: Tensor
    multiplier: Tensor
    distance: Tensor


def metra(
    phi: Tensor,
    phi_next: Tensor,
    skill: Tensor,
    log_multiplier: Tensor,
    *,
    slack: float = 1e-3,
    norm: str = "sum",
    head: checks.Head | None = None,
) -> Metra:
    r"""Learns a representation in which skills travel far by steps no longer than one.

    .. math:: -\overline{(\phi' - \phi)^\top z} - \lambda\, \bar c + \log \lambda \; \mathrm{stopgrad}\, \bar c,
              \qquad c = \min(\epsilon, 1 - \|\phi' - \phi\|^2)

    with lambda = exp(log_multiplier) fixed in the second term. Minimising also over ``log_multiplier`` raises lambda
    while the constraint is violated (c < 0). Lengths are in steps. Without a head it is one kernel each way, and
    backward keeps the embeddings and one number per row.

    Args:
        phi, phi_next: embeddings of a state and the next, ``(..., B, D)``; float32, float64, bfloat16 or float16.
        skill: z, of the same shape, dtype and device: unit vectors, or zero-centred one-hot for discrete skills.
        log_multiplier: 0-d float tensor; starts at log(30) in the paper.
        slack: epsilon. Default 1e-3.
        norm: "sum" of the squares, as in the paper, or their "mean" over D, as in the public code. Default "sum".
        head: a quasimetric in place of the Euclidean norm: ``c = min(slack, 1 - d(phi, phi')^2)``, for steps that
            cannot be undone; ``norm`` is then ignored.

    Returns:
        `Metra`, in float32 for half embeddings, else in their dtype.

    Gradients flow to phi, phi_next, skill, log_multiplier and the head's parameters. Where a row's 1 - squared distance
    equals the slack, the gradient passes, as in torch.clamp. NaN in a row gives NaN in the loss and in that row's
    gradients; infinities give what the formula gives.

    Raises:
        ValueError: shapes that differ or are empty, an unknown norm, a log_multiplier that is not 0-d, a head with a
            discount.
        TypeError: a head that cannot be called, or tensors that are not float or differ in dtype.
        RuntimeError: different devices, or a forced backend that cannot run.

    Source: Park et al. 2024, arXiv 2310.08887, equation 11 and its code; ``head`` is this package's own.

    Example:
        >>> phi, phi_next = torch.zeros(2, 2), torch.tensor([[0.5, 0.0], [0.0, 2.0]])
        >>> skill, log_multiplier = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor(0.0)
        >>> result = qm.losses.metra(phi, phi_next, skill, log_multiplier, slack=0.0)
        >>> result.reward, result.constraint
        (tensor([0.5000, 2.0000]), tensor(-1.5000))
    """
    checks.check_rows("metra", phi=phi, phi_next=phi_next, skill=skill)
    checks.check_multiplier("metra", "log_multiplier", log_multiplier, phi)
    if norm not in NORMS:
        raise ValueError(f"metra: norm must be one of {', '.join(NORMS)}, got {norm!r}.")
    if head is not None:
        checks.check_head("metra", head)
    log_multiplier = log_multiplier.to(compute_dtype(phi))
    if head is None:
        tensors, settings = (phi, phi_next, skill, log_multiplier), MetraSettings(float(slack), norm)
        loss, reward, stats = by_kernel(tensors, settings, dispatch.requested(None))
        return Metra(loss, reward, *stats.unbind())
    squared = head(phi, phi_next).square()
    step = in_compute_dtype(phi_next) - in_compute_dtype(phi)
    reward, constraint, multiplier = terms(step, in_compute_dtype(skill), squared, log_multiplier, slack)
    loss = loss_of(reward, constraint, multiplier, log_multiplier)
    return Metra(loss, reward.detach(), constraint.detach(), multiplier, squared.detach().mean())
