"""The repulsion of points, which spreads landmarks over the states that a head embeds."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor

from ..arguments.pair_loss import PairLossSettings
from ..definitions.pair_loss import energy
from ..ops.broadcasting import every_pair
from ..ops.pair_loss import pair_loss
from . import checks, tiles


class CoulombRepulsion(NamedTuple):
    """``loss`` is the scalar to minimise; the other is detached. Both are 0-d.

    distance  mean distance of two points.
    """

    loss: Tensor
    distance: Tensor


def coulomb_repulsion(
    head: checks.Head, points: Tensor, *, eps: float = 1e-3, streaming: bool | None = None
) -> CoulombRepulsion:
    r"""Pushes points apart as equal charges do, most where they are close.

    .. math:: \overline{\frac{1}{d(z_i, z_j) + \varepsilon}}^{\,i \ne j}

    Both directions of a pair count, since a quasimetric is not symmetric. A term's force, 1 / (d + eps)^2, is at most
    1 / eps^2.

    Args:
        head: the quasimetric, a module or function of x and y; its parameters take part in autograd. With a trained
            head, detach them or optimise the points alone.
        points: embeddings of landmarks (keypoints), ``(..., N, D)``; float32, float64, bfloat16 or float16. Leading
            dimensions are an ensemble, over which the loss is averaged.
        eps: positive, in the head's unit. Default 1e-3.
        streaming: as for `contrastive`.

    Returns:
        `CoulombRepulsion`, in float32 for half embeddings, else in their dtype. The loss of a single point is 0.

    Gradients flow to the points and the head's parameters; points that coincide get the head's subgradient. NaN in a
    point gives NaN in the loss and in the gradients of all; an infinite distance adds nothing.

    Raises:
        ValueError: points of another shape or none, an eps that is not positive and finite, a head with a discount.
        TypeError: a head that cannot be called, or points that are not float.
        RuntimeError: a forced backend that cannot run.

    Source: ProQ (Kobanda et al. 2025, arXiv 2506.18847), which spreads keypoints so; it has no public code, and eps and
    the mean instead of a sum are ours. `qmkernels.shortest_paths` and `qmkernels.through` then plan over the points.

    Example:
        >>> head = qm.nn.IQE(2, 2, reduction="sum")
        >>> qm.losses.coulomb_repulsion(head, torch.tensor([[0.0, 0.0], [1.0, 3.0]]), eps=1.0).loss
        tensor(0.6250)
    """
    checks.check_head("coulomb_repulsion", head)
    checks.check_rows("coulomb_repulsion", points=points)
    eps = float(eps)
    if not 0 < eps < math.inf:
        raise ValueError(f"coulomb_repulsion: eps must be positive and finite, got {eps}.")
    count = points.shape[-2]
    streaming = tiles.should_stream(streaming, points.shape[:-1].numel() * count, points.device)
    if not streaming:
        settings = PairLossSettings("coulomb", eps=eps)
        loss, stats = pair_loss(every_pair(head, points, points), None, None, settings)
        return CoulombRepulsion(loss, stats.apart)

    def part(begin, block, points):
        return energy(every_pair(head, block, points), eps, begin)

    loss, distance = (value.mean() for value in tiles.by_tiles(part, (points,), (points,), count, streaming))
    return CoulombRepulsion(loss, distance)
