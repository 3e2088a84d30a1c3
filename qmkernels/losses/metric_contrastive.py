"""MetricRL's representation loss."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from torch import Tensor

from ..arguments.pair_loss import PairLossSettings
from ..definitions.pair_loss import log_distance, matching
from ..ops.broadcasting import every_pair
from ..ops.mrn import euclidean_pairwise
from ..ops.pair_loss import pair_loss
from . import checks, tiles


class MetricContrastive(NamedTuple):
    """``loss`` is the scalar to minimise; the others are detached. All are 0-d.

    steps, repulsion  the unweighted terms.
    length            mean length of a step.
    """

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
    r"""Gives all steps one length and pushes all other pairs apart.

    .. math:: \overline{(d(z_i, z'_i) - s)^2} - w\, \overline{\log(d(z_i, z'_j) + 10^{-6})}^{\,i \ne j}

    Args:
        z, z_next: embeddings of a state and the next, ``(..., B, D)``; float32, float64, bfloat16 or float16. Leading
            dimensions are an ensemble, over which the loss is averaged.
        head: d, a module or function of x and y; its parameters take part in autograd. None: the Euclidean distance,
            as published.
        step: s, the length of a step, in d's unit. Default 1.
        weight: w. Default 1.
        streaming: as for `contrastive`.

    Returns:
        `MetricContrastive`, in float32 for half embeddings, else in their dtype. A batch of one has no second term.

    Gradients flow to z, z_next and the head's parameters. NaN in a row gives NaN in the loss and in the gradients of
    all rows paired with it; infinities give what the distance and the formula give.

    Raises:
        ValueError: shapes that differ or are empty, a head with a discount.
        TypeError: a head that cannot be called, or tensors that are not float or differ in dtype.
        RuntimeError: different devices, or a forced backend that cannot run.

    Source: Reichlin et al. 2024, arXiv 2402.10820, which suggests a quasimetric d as the next step. As in the paper,
    the first term averages over matching pairs; the public code averages it over all pairs.

    Example:
        >>> z, z_next = torch.tensor([[0.0, 0.0], [4.0, 0.0]]), torch.tensor([[1.0, 0.0], [4.0, 3.0]])
        >>> result = qm.losses.metric_contrastive(z, z_next)
        >>> result.steps, result.length
        (tensor(2.), tensor(2.))
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
