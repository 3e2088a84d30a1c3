"""Contrastive losses over pairwise distances: which goal belongs to which state."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..definitions.pair_loss import (
    Contrast,
    PairLossSettings,
    Softmaxes,
    contrast_of_sides,
    contrast_of_sigmoids,
    matching,
    over,
    softplus_over_goals,
    together,
)
from ..distributed import gather_rows
from ..ops.broadcasting import every_pair
from ..ops.pair_loss import pair_loss
from . import checks, tiles

_DIRECTIONS = ("backward", "forward", "symmetric")
_FORMS = ("softmax", "sigmoid")


class Contrastive(NamedTuple):
    """``loss`` is the scalar to minimise; the others are detached.

    positive, negative  mean logits of matching and of other pairs; 0 where there is no other pair.
    logsumexp           mean log-sum-exp of the logits that a softmax normalises; 0 for "sigmoid".
    accuracy            share of softmaxes, or of rows for "sigmoid", whose largest logit is the matching pair's.
    """

    loss: Tensor
    positive: Tensor
    negative: Tensor
    logsumexp: Tensor
    accuracy: Tensor


def contrastive(
    head: checks.Head,
    x: Tensor,
    y: Tensor,
    *,
    direction: str = "backward",
    form: str = "softmax",
    scale: float | None = None,
    logsumexp_weight: float = 0.0,
    offset: int = 0,
    group: torch.distributed.ProcessGroup | None = None,
    streaming: bool | None = None,
) -> Contrastive:
    r"""Tells the goal of each state from the goals of the others by their distances.

    With logits :math:`\ell_{ij} = -s\, d(x_i, y_j)`, of which :math:`\ell_{ii}` are the matching pairs, the mean of

    - form "softmax", direction "backward": :math:`-\ell_{jj} + \log \sum_i e^{\ell_{ij}}` over goals j;
    - direction "forward": :math:`-\ell_{ii} + \log \sum_j e^{\ell_{ij}}` over states i; "symmetric": their mean;
    - form "sigmoid": :math:`\mathrm{softplus}(-\ell_{ii})` and, for i != j, :math:`\mathrm{softplus}(\ell_{ij})` over
      all pairs.

    Args:
        head: the quasimetric, a module or function of x and y; its parameters take part in autograd.
        x: states, ``(..., N, D)``; leading dimensions are an ensemble, over which the loss is averaged.
        y: goals, ``(..., M, D)``; the match of ``x[i]`` is ``y[i + offset]``.
        direction: "backward" (TMD, CMD), "forward" or "symmetric"; no meaning for "sigmoid".
        form: "softmax" (InfoNCE) or "sigmoid" (binary cross-entropy, contrastive RL).
        scale: s; None: ``1 / sqrt(D)``, as in the TMD code.
        logsumexp_weight: the mean square of every softmax's log-sum-exp is added this many times (contrastive RL: 0.1
            or 0.01). 0 by default.
        offset: where in ``y`` the matches begin, for a global batch: x the rows of this process, y those of all.
        group: with an ``offset``: the processes that the other rows of x are on (`torch.distributed`). Their logits
            take part in the backward softmax, and every process returns the loss of the whole batch; gradients are
            those that DDP's averaging over processes makes the gradient of that loss.
        streaming: True: by tiles of pairs, the matrix never exists, and memory is that of the inputs; the tiles are
            computed again in the backward pass. False: the matrix is kept. None: by size. The numbers are the same.

    Returns:
        `Contrastive`.

    Raises:
        ValueError: empty or mismatched batches, an offset that leaves rows without a match, unknown names.

    Source: Myers et al. 2025 (TMD, arXiv 2509.20478) and 2024 (CMD, arXiv 2406.17098); Eysenbach et al. 2022
    (contrastive RL, arXiv 2206.07568) for "sigmoid" and the log-sum-exp penalty.

    Example:
        >>> head = qm.nn.IQE(64, 8)
        >>> states, goals = torch.randn(32, 64, requires_grad=True), torch.randn(32, 64)
        >>> qm.losses.contrastive(head, states, goals).loss.backward()
    """
    checks.check_head("contrastive", head)
    check_pairs("contrastive", x, y, offset)
    for name, value, choices in (("direction", direction, _DIRECTIONS), ("form", form, _FORMS)):
        if value not in choices:
            raise ValueError(f"contrastive: {name} must be one of {', '.join(choices)}, got {value!r}.")
    scale = 1.0 / math.sqrt(x.shape[-1]) if scale is None else float(scale)
    kind, count = ("sigmoid" if form == "sigmoid" else direction), x.shape[-2]
    if kind == "backward" and group is None:
        y, offset = matches_of(y, offset, count), 0
    streaming = tiles.should_stream(streaming, x.shape[:-1].numel() * y.shape[-2], x.device)
    if group is None and not streaming:
        settings = PairLossSettings(kind, scale, float(logsumexp_weight), offset=offset)
        loss, stats = pair_loss(every_pair(head, x, y), None, None, settings)
        return Contrastive(loss, stats.positive, stats.negative, stats.logsumexp, stats.accuracy)
    found = _by_tiles(head, x, y, kind, scale, logsumexp_weight, offset, streaming, group)
    return Contrastive(*found)


def matches_of(y: Tensor, offset: int, count: int) -> Tensor:
    """The goals that have a match here."""
    return y if y.shape[-2] == count else y[..., offset : offset + count, :]


def _by_tiles(head, x, y, kind, scale, logsumexp_weight, offset, streaming, group) -> Contrast:
    """Composed, as backward softmaxes a tile is some goals, else some states; each pair is computed once."""
    count, columns = x.shape[-2], y.shape[-2]
    if kind == "backward":

        def part(begin, block, x):
            logits = -scale * every_pair(head, x, block)
            return matching(logits, begin - offset, -2), *over(logits, -2)

        found = tiles.by_tiles(part, (y,), (x,), count, streaming)
        found[0] = found[0][..., offset : offset + count]
        return contrast_of_sides([_everywhere(Softmaxes(*found, count), group)], logsumexp_weight)

    def part(begin, block, y):
        logits = -scale * every_pair(head, block, y)
        positive = matching(logits, begin + offset, -1)
        if kind == "sigmoid":
            return positive, *softplus_over_goals(logits)
        of_goals = (one.unsqueeze(-1) for one in over(logits, -2)) if kind == "symmetric" else ()
        return positive, *over(logits, -1), *of_goals

    positive, largest, log_sum, total, *of_goals = tiles.by_tiles(part, (x,), (y,), columns, streaming)
    rows = Softmaxes(positive, largest, log_sum, total, columns)
    if kind == "sigmoid":
        return contrast_of_sigmoids(rows)
    if kind == "forward":
        return contrast_of_sides([rows], logsumexp_weight)
    goals = together(*of_goals, dim=-1)  # of what every tile of states knows of them
    if group is None:
        goals = (one[..., offset : offset + count] for one in goals)
    return contrast_of_sides([rows, _everywhere(Softmaxes(positive, *goals, count), group)], logsumexp_weight)


def _everywhere(local: Softmaxes, group) -> Softmaxes:
    return local if group is None else over_processes(local, group)


def over_processes(local: Softmaxes, group) -> Softmaxes:
    """Softmaxes over the states of all processes from those over the states of each, for all goals alike; of the
    matching logits each process has its own."""

    positive, *parts, count = local
    parts = [gather_rows(part.unsqueeze(0), dim=0, group=group) for part in parts]
    positive = gather_rows(positive, dim=-1, group=group)
    return Softmaxes(positive, *together(*parts, dim=0), count * len(parts[0]))


def check_pairs(loss: str, x: Tensor, y: Tensor, offset: int) -> None:
    checks.check_rows(loss, x=x)
    checks.check_rows(loss, y=y)
    checks.check_alike(loss, x=x, y=y)
    if x.shape[-1] != y.shape[-1] or x.shape[:-2] != y.shape[:-2]:
        raise ValueError(
            f"{loss}: x and y must agree but for their numbers of rows, got {tuple(x.shape)} and {tuple(y.shape)}."
        )
    if offset < 0 or offset + x.shape[-2] > y.shape[-2]:
        raise ValueError(
            f"{loss}: rows {offset} to {offset + x.shape[-2]} of y must be the matches of x, but y has "
            f"{y.shape[-2]} rows."
        )
