"""MetricRL's representation loss."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ..definitions.pair_loss import PairLossSettings, log_distance, matching
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
    z: Tensor, z_next: Tensor, *, step: float = 1.0, weight: float = 1.0, streaming: bool | None = None
) -> MetricContrastive:
    r"""Steps of one length, everything else far apart.

    .. math:: \overline{(\|z'_i - z_i\| - s)^2} - w\, \overline{\log(\|z_i - z'_j\| + 10^{-6})}^{\,i \ne j}

    Args:
        z, z_next: of a state and the next, ``(..., B, D)``.
        step: s, the length of a step. Default 1.
        weight: w. Default 1.
        streaming: as for `contrastive`.

    Returns:
        `MetricContrastive`. A batch of one has no second term.

    Raises:
        ValueError: empty or mismatched batches.

    Source: Reichlin et al. 2024, arXiv 2402.10820. As in the paper the first term is over matched pairs; the public
    code averages it over all.
    """
    checks.check_rows("metric_contrastive", z=z, z_next=z_next)
    count = z.shape[-2]

    streaming = tiles.should_stream(streaming, z.shape[:-1].numel() * count, z.device)
    if not streaming:
        settings = PairLossSettings("repulsion", step=float(step), repulsion_weight=float(weight))
        loss, stats = pair_loss(euclidean_pairwise(z, z_next), None, None, settings)
        return MetricContrastive(loss, stats.steps, stats.repulsion, stats.length)

    def part(begin, block, z_next):
        distance = euclidean_pairwise(block, z_next)
        logs = log_distance(distance)
        return matching(distance, begin, -1), logs.sum(dim=-1) - matching(logs, begin, -1)

    length, logs = tiles.by_tiles(part, (z,), (z_next,), count, streaming)
    steps, repulsion = (length - step).square().mean(), -logs.mean() / max(1, count - 1)
    loss = steps + weight * repulsion
    return MetricContrastive(loss, steps.detach(), repulsion.detach(), length.detach().mean())
