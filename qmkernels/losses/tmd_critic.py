"""TMD's critic loss."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..arguments.pair_loss import PairLossSettings
from ..definitions.pair_loss import Softmaxes, contrast, divergence, matching, over
from ..distributed import is_alone
from ..ops.pair_loss import pair_loss
from . import checks, tiles
from .contrastive import check_pairs, matches_of, over_processes
from .linex import distances
from .ring import agree, around, side_by_side

# What the action invariance makes of d(psi, phi).
INVARIANCES = {"distance": lambda distance: distance, "exp_squared": lambda distance: torch.expm1(-distance).square()}


class TMDCritic(NamedTuple):
    """``loss`` is the scalar to minimise; the others are detached. All are 0-d.

    contrastive, action_invariance, temporal_invariance  the unweighted terms.
    positive, negative, accuracy                          as in `Contrastive`.
    difference                                            mean d(phi, psi_goal) - d(psi_next, psi_goal).
    """

    loss: Tensor
    contrastive: Tensor
    action_invariance: Tensor
    temporal_invariance: Tensor
    positive: Tensor
    negative: Tensor
    accuracy: Tensor
    difference: Tensor


def tmd_critic(
    head: checks.Head,
    phi: Tensor,
    psi: Tensor,
    psi_next: Tensor,
    psi_goal: Tensor,
    *,
    discount: float = 0.99,
    zeta: float = 0.05,
    clip: float = 3.0,
    diagonal_weight: float = 0.5,
    scale: float | None = None,
    invariance: str = "distance",
    offset: int = 0,
    group: torch.distributed.ProcessGroup | None = None,
    ring: bool = False,
    streaming: bool | None = None,
) -> TMDCritic:
    r"""Computes contrastive loss + action invariance + zeta * temporal invariance, visiting each pair only once.

    .. math:: \mathrm{contrastive}(\phi, \psi_g) + \overline{d(\psi_i, \phi_i)}
              + \zeta\, \mathrm{linex}(\phi, \psi_g, \psi')

    as `contrastive` (backward) and `linex` define them. MQE's action invariance is :math:`(e^{-d} - 1)^2` instead of d.

    Args:
        head: the quasimetric, a module or function of x and y; its parameters take part in autograd.
        phi: phi(s, a), ``(..., N, D)``; float32, float64, bfloat16 or float16. Leading dimensions are an ensemble, over
            which the loss is averaged.
        psi, psi_next: psi(s) and psi(s'), of phi's shape, dtype and device.
        psi_goal: psi(g), ``(..., M, D)``; row ``i + offset`` is a future state of row i of phi.
        discount: gamma, in (0, 1]. Default 0.99.
        zeta: weight of the temporal invariance. Default 0.05.
        clip, diagonal_weight: of `linex`. Defaults 3 and 0.5.
        scale: of the logits; None: ``1 / sqrt(D)``.
        invariance: the action invariance, the mean "distance" (TMD) or "exp_squared", (exp(-d) - 1)^2 (MQE).
        offset, group, ring, streaming: as for `contrastive`.

    Returns:
        `TMDCritic`, in float32 for half embeddings, else in their dtype.

    Gradients flow to phi, psi, psi_goal and the head's parameters; none flow to psi_next. NaN in a row of phi or
    psi_goal gives NaN in the loss and in the gradients of all rows paired with it; in psi or psi_next, only through its
    own term. Infinities give what the head and the formula give.

    Raises:
        ValueError: shapes that do not fit or are empty, an offset that leaves rows without a match, a discount outside
            (0, 1], an unknown invariance, a head with a discount.
        TypeError: a head that cannot be called, or tensors that are not float or differ in dtype.
        RuntimeError: different devices, or a forced backend that cannot run.

    Source: Myers et al. 2025, arXiv 2509.20478; defaults as published. MQE: arXiv 2511.07730, whose temporal invariance
    is `linex` with a ``log_discount`` per row. The published critic is an ensemble of two with
    ``head = qm.nn.LatentMRN(D, preset="tmd")``.

    Example:
        >>> head = qm.nn.LatentMRN(64, 8, preset="tmd")
        >>> phi, psi, psi_next, psi_goal = torch.randn(4, 2, 32, 64, requires_grad=True)
        >>> result = qm.losses.tmd_critic(head, phi, psi, psi_next, psi_goal)
        >>> weighted = result.contrastive + result.action_invariance + 0.05 * result.temporal_invariance
        >>> torch.allclose(result.loss, weighted)
        True
        >>> result.loss.backward()
    """

    def check() -> None:
        checks.check_head("tmd_critic", head)
        check_pairs("tmd_critic", offset, phi=phi, psi_goal=psi_goal)
        checks.check_rows("tmd_critic", phi=phi, psi=psi, psi_next=psi_next)

    ring = ring and not is_alone(group)
    if ring:
        group = agree("tmd_critic", head, check, phi, psi_goal, group)
    else:
        check()
    if not 0 < discount <= 1:
        raise ValueError(f"tmd_critic: discount must be in (0, 1], got {discount}.")
    if invariance not in INVARIANCES:
        raise ValueError(f"tmd_critic: invariance must be one of {', '.join(INVARIANCES)}, got {invariance!r}.")
    scale = 1.0 / math.sqrt(phi.shape[-1]) if scale is None else float(scale)
    count, log_discount = phi.shape[-2], math.log(discount)
    streaming = tiles.should_stream(streaming, phi.shape[:-1].numel() * count, phi.device)
    action = INVARIANCES[invariance](head(psi, phi)).mean()
    if group is None:
        psi_goal, offset = matches_of(psi_goal, offset, count), 0
    if group is None and not streaming:
        distance, after = distances(head, phi, psi_goal, psi_next)
        settings = PairLossSettings(
            "backward", scale, 0.0, float(zeta), float(clip), float(diagonal_weight), log_discount
        )
        loss, stats = pair_loss(distance, after, None, settings)
        return TMDCritic(
            loss + action, stats.contrastive, action.detach(), stats.linex, stats.positive, stats.negative,
            stats.accuracy, stats.difference,
        )  # fmt: skip

    if ring:
        offset = torch.distributed.get_rank(group) * count

    def of_goals(first, goals, phi, psi_next):
        def part(begin, goals, phi, psi_next):
            distance, after = distances(head, phi, goals, psi_next)
            terms = divergence(distance, after, log_discount, clip)
            difference = (distance - after).detach().mean(dim=-2)
            logits = -scale * distance
            matches = (matching(matrix, first + begin - offset, -2) for matrix in (logits, terms))
            return *matches, *over(logits, -2), terms.mean(dim=-2), difference

        return tiles.by_tiles(part, (goals,), (phi, psi_next), count, streaming)

    if ring:
        results = map(side_by_side, around(of_goals, head, psi_goal, (phi, psi_next), group))
    else:
        results = of_goals(0, psi_goal, phi, psi_next)
    positive, diagonal, *sums, everywhere, difference = results
    # In a global batch only this process's goals have their match here.
    positive, diagonal = (values[..., offset : offset + count] for values in (positive, diagonal))
    softmaxes = Softmaxes(positive, *sums, count)
    if group is not None:
        softmaxes = over_processes(softmaxes, group)
    contrastive = contrast(softmaxes, 0.0)
    everywhere, diagonal = everywhere.mean(), diagonal.mean()
    temporal = everywhere + diagonal_weight * (diagonal - everywhere)
    loss = contrastive.loss + action + zeta * temporal
    return TMDCritic(
        loss, contrastive.loss.detach(), action.detach(), temporal.detach(), contrastive.positive,
        contrastive.negative, contrastive.accuracy, difference.mean(),
    )  # fmt: skip
