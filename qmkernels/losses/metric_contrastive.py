"""MetricRL's representation loss."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from torch import Tensor

from ..definitions.pair_loss import PairLossSettings, log_distance, matching
from ..ops.broadcasting import every_pair
from ..ops.mrn import euclidean_pairwise
from ..ops.pair_loss import pair_loss
from . import checks, tiles


class MetricContrastive(NamedTuple):
    """``loss`` is the scalar to minimise; the others are detached: its two terms, not weighted, and the mean length of
    a step."""

    loss: Tensor
    steps: Tensor
    repulsion: Tensor
    length: Tensor


def metric_contrastive(
    z: Tensor,
    z_next: Tensor,
    *,
    head: checks.Head | None = None,
    step: float = 1.0,
    weight: float = 1.0,
    streaming: bool | None = None,
) -> MetricContrastive:
    r"""Steps of one length, everything else far apart.

    .. math:: \overline{(d(z_i, z'_i) - s)^2} - w\, \overline{\log(d(z_i, z'_j) + 10^{-6})}^{\,i \ne j}

    Args:
        z, z_next: of a state and the next, ``(..., B, D)``.
        head: d, a module or function of x and y; its parameters take part in autograd. None: the Euclidean distance,
            as published.
        step: s, the length of a step. Default 1.
        weight: w. Default 1.
        streaming: as for `contrastive`.

    Returns:
        `MetricContrastive`. A batch of one has no second term.

    Raises:
        ValueError: empty or mismatched batches, or a head that returns discounts.

    Source: Reichlin et al. 2024, arXiv 2402.10820, which names a quasimetric d as the next step. As in the paper the
    first term is over matched pairs; the public code averages it over all.
    """
    checks.check_rows("metric_contrastive", z=z, z_next=z_next)
    if head is not None:
        checks.check_head("metric_contrastive", head)
    every_distance = euclidean_pairwise if head is None else partial(every_pair, head)
    count = z.shape[-2]

    streaming = tiles.should_stream(streaming, z.shape[:-1].numel() * count, z.device)
    if not streaming:
        settings = PairLossSettings("repulsion", step=float(step), repulsion_weight=float(weight))
        loss, stats = pair_loss(every_distance(z, z_next), None, None, settings)
        return MetricContrastive(loss, stats.steps, stats.repulsion, stats.length)

    def part(begin, block, z_next):
        distance = every_distance(block, z_next)
        logs = log_distance(distance)
        return matching(distance, begin, -1), logs.sum(dim=-1) - matching(logs, begin, -1)

    length, logs = tiles.by_tiles(part, (z,), (z_next,), count, streaming)
    steps, repulsion = (length - step).square().mean(), -logs.mean() / max(1, count - 1)
    loss = steps + weight * repulsion
    return MetricContrastive(loss, steps.detach(), repulsion.detach(), length.detach().mean())
