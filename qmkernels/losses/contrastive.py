"""Contrastive losses over pairwise distances: which goal belongs to which state."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ..distributed import gather_rows
from ..ops.broadcasting import every_pair
from . import common, tiles

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
    head: common.Head,
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
    common.check_head("contrastive", head)
    check_pairs("contrastive", x, y, offset)
    for name, value, choices in (("direction", direction, _DIRECTIONS), ("form", form, _FORMS)):
        if value not in choices:
            raise ValueError(f"contrastive: {name} must be one of {', '.join(choices)}, got {value!r}.")
    scale = 1.0 / math.sqrt(x.shape[-1]) if scale is None else float(scale)
    if form == "sigmoid":
        return _sigmoid(head, x, y, scale, offset, streaming)
    sides = []
    if direction != "backward":
        sides.append(_over_goals(head, x, y, scale, offset, streaming))
    if direction != "forward":
        sides.append(_over_states(head, x, y, scale, offset, streaming, group))
    parts = [
        torch.stack(part).mean() for part in zip(*(summary(*side, logsumexp_weight) for side in sides), strict=True)
    ]
    return Contrastive(*parts)


class Softmaxes(NamedTuple):
    """Of every softmax, (..., S): the matching logit, log-sum-exp, sum, largest and number of its logits."""

    positive: Tensor
    logsumexp: Tensor
    total: Tensor
    largest: Tensor
    count: int


def summary(
    positive: Tensor, logsumexp: Tensor, total: Tensor, largest: Tensor, count: int, logsumexp_weight: float
) -> Contrastive:
    """The loss and its diagnostics from what is known of every softmax."""
    loss = (logsumexp - positive).mean()
    if logsumexp_weight:
        loss = loss + logsumexp_weight * logsumexp.square().mean()
    with torch.no_grad():
        negative = (total - positive).mean() / max(1, count - 1)
        accuracy = (positive >= largest).to(loss.dtype).mean()
        return Contrastive(loss, positive.mean(), negative, logsumexp.mean(), accuracy)


def matching(matrix: Tensor, first: int, dim: int) -> tuple[Tensor, Tensor]:
    """Of each row or column of a matrix (..., N, M) the entry that is ``first`` plus its place along ``dim``, the other
    dimension, and whether there is one; the entry is 0 where there is not."""
    kept = -1 if dim == -2 else -2
    place = first + torch.arange(matrix.shape[kept], device=matrix.device)
    exists = (place >= 0) & (place < matrix.shape[dim])
    place = place.clamp(0, matrix.shape[dim] - 1).unsqueeze(dim)
    found = matrix.gather(dim, place.expand(*matrix.shape[:-2], *place.shape)).squeeze(dim)
    return torch.where(exists, found, 0.0), exists


def of_logits(logits: Tensor, first: int, dim: int) -> tuple[Tensor, ...]:
    """What `Softmaxes` needs of a block of logits that are normalised along ``dim``."""
    positive, _ = matching(logits, first, dim)
    detached = logits.detach()
    return positive, logits.logsumexp(dim=dim), detached.sum(dim=dim), detached.amax(dim=dim)


def _over_goals(head, x, y, scale, offset, streaming) -> Softmaxes:
    """A softmax over all goals for each state."""

    def part(begin, block, y):
        return of_logits(-scale * every_pair(head, block, y), begin + offset, -1)

    streaming = tiles.should_stream(streaming, x.shape[:-1].numel() * y.shape[-2], x.device)
    return Softmaxes(*tiles.by_tiles(part, (x,), (y,), y.shape[-2], streaming), y.shape[-2])


def _over_states(head, x, y, scale, offset, streaming, group) -> Softmaxes:
    """A softmax over all states for each goal: the goals that have a match here, or with a group all."""
    first = offset
    if group is None:
        y, first = y[..., offset : offset + x.shape[-2], :], 0

    def part(begin, block, x):
        return of_logits(-scale * every_pair(head, x, block), begin - first, -2)

    streaming = tiles.should_stream(streaming, x.shape[:-1].numel() * y.shape[-2], x.device)
    found = Softmaxes(*tiles.by_tiles(part, (y,), (x,), x.shape[-2], streaming), x.shape[-2])
    return found if group is None else over_processes(found, first, x.shape[-2], group)


def over_processes(local: Softmaxes, first: int, num_states: int, group) -> Softmaxes:
    """Softmaxes over the states of all processes from those over the states of each, for all goals alike."""

    def gathered(part: Tensor) -> Tensor:
        return gather_rows(part.unsqueeze(0), dim=0, group=group)

    positive = gather_rows(local.positive[..., first : first + num_states], dim=-1, group=group)
    largest, total = gathered(local.largest).amax(dim=0), gathered(local.total).sum(dim=0)
    logsumexp = gathered(local.logsumexp)
    return Softmaxes(positive, logsumexp.logsumexp(dim=0), total, largest, local.count * logsumexp.shape[0])


def _sigmoid(head, x, y, scale, offset, streaming) -> Contrastive:
    def part(begin, block, y):
        logits = -scale * every_pair(head, block, y)
        positive, _ = matching(logits, begin + offset, -1)
        detached = logits.detach()
        # softplus(-l) = softplus(l) - l
        return positive, functional.softplus(logits).sum(dim=-1), detached.sum(dim=-1), detached.amax(dim=-1)

    count = y.shape[-2]
    streaming = tiles.should_stream(streaming, x.shape[:-1].numel() * count, x.device)
    found = Softmaxes(*tiles.by_tiles(part, (x,), (y,), count, streaming), count)
    diagnostics = summary(*found, 0.0)
    loss = (found.logsumexp - found.positive).mean() / count
    return diagnostics._replace(loss=loss, logsumexp=torch.zeros_like(diagnostics.logsumexp))


def check_pairs(loss: str, x: Tensor, y: Tensor, offset: int) -> None:
    common.check_rows(loss, x=x)
    common.check_rows(loss, y=y)
    common.check_alike(loss, x=x, y=y)
    if x.shape[-1] != y.shape[-1] or x.shape[:-2] != y.shape[:-2]:
        raise ValueError(
            f"{loss}: x and y must agree but for their numbers of rows, got {tuple(x.shape)} and {tuple(y.shape)}."
        )
    if offset < 0 or offset + x.shape[-2] > y.shape[-2]:
        raise ValueError(
            f"{loss}: rows {offset} to {offset + x.shape[-2]} of y must be the matches of x, but y has "
            f"{y.shape[-2]} rows."
        )
