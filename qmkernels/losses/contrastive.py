"""Contrastive losses over pairwise distances, which match goals to states."""

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
    lead,
    matching,
    over,
    softplus_over_goals,
    together,
)
from ..distributed import gather_rows, is_alone
from ..ops.broadcasting import every_pair
from ..ops.pair_loss import pair_loss
from . import checks, tiles
from .ring import agree, around, side_by_side

_DIRECTIONS = ("backward", "forward", "symmetric")
_FORMS = ("softmax", "sigmoid")


class Contrastive(NamedTuple):
    """``loss`` is the scalar to minimise; the others are detached. All are 0-d.

    positive, negative  mean logits of matching and of other pairs; 0 if there are no other pairs.
    logsumexp           mean log-sum-exp of the softmaxes' logits; 0 for "sigmoid".
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
    label_smoothing: float = 0.0,
    offset: int = 0,
    group: torch.distributed.ProcessGroup | None = None,
    ring: bool = False,
    streaming: bool | None = None,
) -> Contrastive:
    r"""Tells each state's goal from the other states' goals by their distances.

    With logits :math:`\ell_{ij} = -s\, d(x_i, y_j)`, of which :math:`\ell_{ii}` are the matching pairs, the mean of

    - form "softmax", direction "backward": :math:`-\ell_{jj} + \log \sum_i e^{\ell_{ij}}` over goals j;
    - direction "forward": :math:`-\ell_{ii} + \log \sum_j e^{\ell_{ij}}` over states i; "symmetric": their mean;
    - form "sigmoid": :math:`\mathrm{softplus}(-\ell_{ii})` and, for i != j, :math:`\mathrm{softplus}(\ell_{ij})` over
      all pairs.

    Args:
        head: the quasimetric, a module or function of x and y; its parameters take part in autograd.
        x: states, ``(..., N, D)``; float32, float64, bfloat16 or float16. Leading dimensions are an ensemble, over
            which the loss is averaged.
        y: goals, ``(..., M, D)``, of x's dtype and device; the match of ``x[i]`` is ``y[i + offset]``.
        direction: "backward" (TMD, CMD), "forward" or "symmetric"; ignored by "sigmoid".
        form: "softmax" (InfoNCE) or "sigmoid" (binary cross-entropy, contrastive RL).
        scale: s, in 1 / the head's unit; None: ``1 / sqrt(D)``, as in the TMD code.
        logsumexp_weight: weight of the mean squared log-sum-exp of the softmaxes, which is added to the loss
            (contrastive RL: 0.1 or 0.01). Default 0.
        label_smoothing: epsilon in [0, 1), of the softmaxes: the cross-entropy is with 1 - epsilon for the match and
            epsilon / (n - 1) for each of the n - 1 other logits, as in TD-JEPA. Default 0.
        offset: where the matches begin in ``y``, for a global batch: x holds this process's rows, y all processes'.
        group: with an ``offset``: the `torch.distributed` processes that hold the other rows of x. Their logits take
            part in the backward softmax, and every process returns the loss of the whole batch; its gradients are such
            that DDP's average over processes is the gradient of that loss.
        ring: whether ``y`` holds this process's matches alone, as many on every process, and the others' come around a
            ring of the processes in ``group`` (None: all), a shard at a time: for batches whose gathered rows would not
            fit. The head must be a module. The numbers are those of gathered rows; a process holds two shards, and
            backward goes around again. Shards are compared first, which waits for the device.
        streaming: True: works in tiles of pairs. The matrix never exists, memory is that of the inputs, and backward
            recomputes the tiles. False: keeps the matrix. None: decides by size. The numbers are the same.

    Returns:
        `Contrastive`, in float32 for half embeddings, else in their dtype.

    Gradients flow to x, y and the head's parameters; goals without a match get none in the backward direction. NaN in
    a row gives NaN in the loss and in the gradients of all rows that share a softmax, or a pair for "sigmoid", with it.
    Infinities give what the head and the formula give.

    Raises:
        ValueError: shapes that do not fit or are empty, an offset that leaves rows without a match, unknown names, a
            head with a discount. With ``ring`` what is wrong on one process is an error on all.
        TypeError: a head that cannot be called, or tensors that are not float or differ in dtype.
        RuntimeError: different devices, or a forced backend that cannot run.

    Source: Myers et al. 2025 (TMD, arXiv 2509.20478) and 2024 (CMD, arXiv 2406.17098); Eysenbach et al. 2022
    (contrastive RL, arXiv 2206.07568) for "sigmoid" and the log-sum-exp penalty; the smoothed targets of
    https://github.com/HKBU-KnowComp/Temporal-Distance-JEPA.

    Example:
        >>> head = qm.nn.IQE(2, 2, reduction="sum")
        >>> states = torch.tensor([[0.0, 0.0], [4.0, 4.0]], requires_grad=True)
        >>> result = qm.losses.contrastive(head, states, states.detach() + 1)
        >>> result.accuracy
        tensor(0.5000)
        >>> result.loss.backward()
    """

    def check() -> None:
        checks.check_head("contrastive", head)
        check_pairs("contrastive", offset, x=x, y=y)

    ring = ring and not is_alone(group)
    if ring:
        group = agree("contrastive", head, check, x, y, group)
    else:
        check()
    for name, value, choices in (("direction", direction, _DIRECTIONS), ("form", form, _FORMS)):
        if value not in choices:
            raise ValueError(f"contrastive: {name} must be one of {', '.join(choices)}, got {value!r}.")
    if not 0 <= label_smoothing < 1 or (label_smoothing and form == "sigmoid"):
        raise ValueError(
            f"contrastive: label_smoothing must be in [0, 1), and 0 for form 'sigmoid', got {label_smoothing}."
        )
    scale = 1.0 / math.sqrt(x.shape[-1]) if scale is None else float(scale)
    kind, count = ("sigmoid" if form == "sigmoid" else direction), x.shape[-2]
    if kind == "backward" and group is None:
        y, offset = matches_of(y, offset, count), 0
    streaming = tiles.should_stream(streaming, x.shape[:-1].numel() * y.shape[-2], x.device)
    if group is None and not streaming:
        settings = PairLossSettings(kind, scale, float(logsumexp_weight), offset=offset)
        distance = every_pair(head, x, y)
        loss, stats = pair_loss(distance, None, None, settings)
        if label_smoothing:
            loss = loss + label_smoothing * _lead_of_matrix(-scale * distance, kind, offset)
        return Contrastive(loss, stats.positive, stats.negative, stats.logsumexp, stats.accuracy)
    weights = float(logsumexp_weight), float(label_smoothing)
    return Contrastive(*_by_tiles(head, x, y, kind, scale, weights, offset, streaming, group, ring))


def _lead_of_matrix(logits: Tensor, kind: str, offset: int) -> Tensor:
    """Returns `lead`, the mean over the directions."""
    count, columns = logits.shape[-2:]
    positive = matching(logits, offset, -1)
    sides = []
    if kind != "backward":
        sides.append(lead(positive, logits.sum(dim=-1), columns))
    if kind != "forward":
        sides.append(lead(positive, logits[..., offset : offset + count].sum(dim=-2), count))
    return sum(sides) / len(sides)


def matches_of(y: Tensor, offset: int, count: int) -> Tensor:
    """Returns the goals that have a match among ``count`` states."""
    return y if y.shape[-2] == count else y[..., offset : offset + count, :]


def _by_tiles(head, x, y, kind, scale, weights, offset, streaming, group, ring) -> Contrast:
    """Composes the loss from tiles of goals for backward softmaxes, else of states; computes each pair once."""
    count, columns = x.shape[-2], y.shape[-2]
    if ring:
        offset, columns = torch.distributed.get_rank(group) * count, torch.distributed.get_world_size(group) * count
    if kind == "backward":

        def of_goals(first, y, x):
            def part(begin, block, x):
                logits = -scale * every_pair(head, x, block)
                return matching(logits, first + begin - offset, -2), *over(logits, -2)

            return tiles.by_tiles(part, (y,), (x,), count, streaming)

        if ring:
            positive, *softmaxes = map(side_by_side, around(of_goals, head, y, (x,), group))
        else:
            positive, *softmaxes = of_goals(0, y, x)
        positive = positive[..., offset : offset + count]
        return contrast_of_sides([_everywhere(Softmaxes(positive, *softmaxes, count), group)], *weights)

    def of_states(first, y, x):
        def part(begin, block, y):
            logits = -scale * every_pair(head, block, y)
            positive = matching(logits, begin + offset - first, -1)
            if kind == "sigmoid":
                return positive, *softplus_over_goals(logits)
            goals = (value.unsqueeze(-1) for value in over(logits, -2)) if kind == "symmetric" else ()
            return positive, *over(logits, -1), *goals

        return tiles.by_tiles(part, (x,), (y,), y.shape[-2], streaming)

    if ring:
        positive, largest, log_sum, total, *goals = around(of_states, head, y, (x,), group)
        positive = positive.sum(dim=0)
        if kind == "sigmoid":
            largest, log_sum, total = largest.amax(dim=0), log_sum.sum(dim=0), total.sum(dim=0)
        else:
            largest, log_sum, total = together(largest, log_sum, total, dim=0)
    else:
        positive, largest, log_sum, total, *goals = of_states(0, y, x)
    rows = Softmaxes(positive, largest, log_sum, total, columns)
    if kind == "sigmoid":
        return contrast_of_sigmoids(rows)
    if kind == "forward":
        return contrast_of_sides([rows], *weights)
    goals = together(*goals, dim=-1)  # each tile holds the part of its states
    if ring:
        goals = map(side_by_side, goals)
    if group is None:
        goals = (value[..., offset : offset + count] for value in goals)
    return contrast_of_sides([rows, _everywhere(Softmaxes(positive, *goals, count), group)], *weights)


def _everywhere(local: Softmaxes, group) -> Softmaxes:
    return local if group is None else over_processes(local, group)


def over_processes(local: Softmaxes, group) -> Softmaxes:
    """Combines the processes' softmaxes, each over its own states, into softmaxes over all states.

    Every process has every goal, but only its own matching logits.
    """
    positive, *parts, count = local
    parts = [gather_rows(part.unsqueeze(0), dim=0, group=group) for part in parts]
    positive = gather_rows(positive, dim=-1, group=group)
    return Softmaxes(positive, *together(*parts, dim=0), count * len(parts[0]))


def check_pairs(loss: str, offset: int, **tensors: Tensor) -> None:
    """Raises unless two float tensors differ at most in their rows, and each row of the first has its match."""
    (name, x), (other, y) = tensors.items()
    checks.check_rows(loss, **{name: x})
    checks.check_rows(loss, **{other: y})
    checks.check_alike(loss, **tensors)
    if x.shape[-1] != y.shape[-1] or x.shape[:-2] != y.shape[:-2]:
        raise ValueError(
            f"{loss}: {name} and {other} may differ only in their number of rows, got {tuple(x.shape)} and "
            f"{tuple(y.shape)}."
        )
    if offset < 0 or offset + x.shape[-2] > y.shape[-2]:
        raise ValueError(
            f"{loss}: {other} must have the matches of {name} in its rows {offset} to {offset + x.shape[-2]}, got "
            f"{y.shape[-2]} rows."
        )
