"""METRA's representation loss with its dual."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ..backends import dispatch
from ..definitions.metra import NORMS, MetraSettings, loss_of, terms
from ..ops.arguments import in_compute_dtype
from ..ops.metra import metra as by_kernel
from . import checks


class Metra(NamedTuple):
    """``loss`` is the scalar to minimise; the others are detached.

    reward       (phi' - phi) . skill of every row, what the policy maximises, (...).
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
    r"""Representations along which skills travel far, of steps no longer than one.

    .. math:: -\overline{(\phi' - \phi)^\top z} - \lambda\, \bar c + \log \lambda \; \mathrm{stopgrad}\, \bar c,
              \qquad c = \min(\epsilon, 1 - \|\phi' - \phi\|^2)

    with lambda = exp(log_multiplier) held fixed in the second term. Minimising over ``log_multiplier`` too raises the
    multiplier while the constraint is broken (c < 0).

    Args:
        phi, phi_next: of a state and the next, ``(..., B, D)``.
        skill: z, of the same shape: unit vectors, or zero-centred one-hot for discrete skills.
        log_multiplier: 0-d; starts at log(30).
        slack: epsilon. Default 1e-3.
        norm: "sum" of the squares, as in the paper, or their "mean" over D, as in the public code. Default "sum".
        head: a quasimetric in place of the Euclidean norm: ``c = min(slack, 1 - d(phi, phi')^2)``, for steps that
            cannot be undone. ``norm`` then has no meaning.

    Returns:
        `Metra`, in float32 for half embeddings, else in their dtype.

    Without a head it is one kernel each way: backward keeps the embeddings and one number a row. Where a row's
    constraint is the slack itself, the gradient passes, as torch.clamp has it. NaN in a row gives NaN in the loss, and
    infinities give what the formula gives.

    Raises:
        ValueError: empty or mismatched batches, an unknown norm, a multiplier that is not 0-d.

    Source: Park et al. 2024, arXiv 2310.08887, equation 11 and its code; ``head`` is this package's own.
    """
    checks.check_rows("metra", phi=phi, phi_next=phi_next, skill=skill)
    checks.check_multiplier("metra", "log_multiplier", log_multiplier, phi)
    if norm not in NORMS:
        raise ValueError(f"metra: norm must be one of {', '.join(NORMS)}, got {norm!r}.")
    if head is not None:
        checks.check_head("metra", head)
    squared = None if head is None else head(phi, phi_next).square()
    phi, phi_next, skill = in_compute_dtype(phi), in_compute_dtype(phi_next), in_compute_dtype(skill)
    log_multiplier = log_multiplier.to(phi.dtype)
    if head is None:
        tensors, settings = (phi, phi_next, skill, log_multiplier), MetraSettings(float(slack), norm)
        loss, reward, stats = by_kernel(tensors, settings, dispatch.requested(None))
        return Metra(loss, reward, *stats.unbind())
    reward, constraint, multiplier = terms(phi_next - phi, skill, squared, log_multiplier, slack)
    loss = loss_of(reward, constraint, multiplier, log_multiplier)
    return Metra(loss, reward.detach(), constraint.detach(), multiplier, squared.detach().mean())
