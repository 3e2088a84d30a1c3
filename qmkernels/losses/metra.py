"""METRA's representation loss with its dual."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from . import common

_NORMS = ("sum", "mean")


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
    head: common.Head | None = None,
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
        `Metra`.

    Raises:
        ValueError: empty or mismatched batches, an unknown norm, a multiplier that is not 0-d.

    Source: Park et al. 2024, arXiv 2310.08887, equation 11 and its code; ``head`` is this package's own.
    """
    common.check_rows("metra", phi=phi, phi_next=phi_next, skill=skill)
    common.check_multiplier("metra", "log_multiplier", log_multiplier, phi)
    if norm not in _NORMS:
        raise ValueError(f"metra: norm must be one of {', '.join(_NORMS)}, got {norm!r}.")
    step = phi_next - phi
    reward = (step * skill).sum(dim=-1)
    if head is not None:
        common.check_head("metra", head)
        squared = head(phi, phi_next).square()
    else:
        squared = step.square().sum(dim=-1) if norm == "sum" else step.square().mean(dim=-1)
    constraint = (1 - squared).clamp(max=slack).mean()
    multiplier = log_multiplier.detach().exp()
    loss = -reward.mean() - multiplier * constraint + log_multiplier * constraint.detach()
    return Metra(loss, reward.detach(), constraint.detach(), multiplier, squared.detach().mean())
