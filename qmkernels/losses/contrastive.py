"""Contrastive losses over pairwise distances, which match goals to states."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..arguments.pair_loss import PairLossSettings
from ..definitions.pair_loss import (
    Contrast,
    Softmaxes,
    contrast_of_sides,
    contrast_of_sigmoids,
    counts,
    lead,
    left_out,
    matching,
    over,
    softplus_over_goals,
    together,
)
from ..distributed import gather_rows, is_alone
from ..ops.arguments import check_float
from ..ops.broadcasting import every_pair
from ..ops.pair_loss import pair_loss
from . import checks, tiles
from .near_goals import places_of_goals
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
    exclude: tuple[Tensor, Tensor, int] | None = None,
    potential: Tensor | None = None,
    offset: int = 0,
    group: torch.distributed.ProcessGroup | None = None,
    ring: bool = False,
    streaming: bool | None = None,
) -> Contrastive:
    r"""Tells each state's goal from the other states' goals by their distances.

    With logits :math:`\ell_{ij} = s\, (c_j - d(x_i, y_j))`, of which :math:`\ell_{ii}` are the matching pairs and c is
    the potential, else 0, the mean of

    - form "softmax", direction "backward": :math:`-\ell_{jj} + \log \sum_i e^{\ell_{ij}}` over goals j;
    - direction "forward": :math:`-\ell_{ii} + \log \sum_j e^{\ell_{ij}}` over states i; "symmetric": their mean;
    - form "sigmoid": :math:`\mathrm{softplus}(-\ell_{ii})` and, for i != j, :math:`\mathrm{softplus}(\ell_{ij})` over
      all pairs.

    Args:
        head: the quasimetric, a module or function of x and y; its parameters take part in autograd.
        x: states, ``(..., N, D)``; float32, float64, bfloat16 or float16. Leading dimensions are an ensemble, over
            which the loss is averaged.
        y: goals, ``(..., M, D)``, of x's dtype and device; the match of ``x[i]`` is ``y[i + offset]``. Other rows, as
            from a queue of earlier goals, are negatives alone, for "forward", "symmetric" and "sigmoid".
        direction: "backward" (TMD, CMD), "forward" or "symmetric"; ignored by "sigmoid".
        form: "softmax" (InfoNCE) or "sigmoid" (binary cross-entropy, contrastive RL).
        scale: s, in 1 / the head's unit; None: ``1 / sqrt(D)``, as in the TMD code.
        logsumexp_weight: weight of the mean squared log-sum-exp of the softmaxes, which is added to the loss
            (contrastive RL: 0.1 or 0.01). Default 0.
        label_smoothing: epsilon in [0, 1), of the softmaxes: the cross-entropy is with 1 - epsilon for the match and
            epsilon / (n - 1) for each of the n - 1 other logits, as in TD-JEPA. Default 0.
        exclude: (clip, time, window), of the softmaxes: goals near a state's match are no negatives for it, those of
            the match's clip (trajectory) whose time differs from its by at most ``window``, as in TD-JEPA. clip and
            time are integer tensors, one number per goal, ``(M,)`` or ``(..., M)``; queued goals may have a clip that
            no match has, such as -1. The kernels compare these numbers: there is no mask of all pairs, except for
            label_smoothing, and in tiles one of the tile.
        potential: c, one number per goal, ``(M,)`` or ``(..., M)``, in d's unit: CMD's critic, see below.
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

    CMD's critic, in its authors' code for representations of 64 values, is

    .. code-block:: python

        contrastive(head, x, y, potential=c(y), scale=1 / 8, direction="forward", logsumexp_weight=0.01)

    with a network c; without the penalty, their code averages both directions ("symmetric"). Then c(y) - d(x, y) is the
    log-ratio of reaching y from x, and d the successor distance.

    Gradients flow to x, y, the potential and the head's parameters; goals without a match get none in the backward
    direction. NaN in a row gives NaN in the loss and in the gradients of all rows that share a softmax, or a pair for
    "sigmoid", with it. Infinities give what the head and the formula give.

    Raises:
        ValueError: shapes that do not fit or are empty, an offset that leaves rows without a match, unknown names, a
            negative window or one of 2^31 / M or more, exclude with "sigmoid", exclude or a potential with ``ring``, a
            head with a discount. With ``ring`` what is wrong on one process is an error on all.
        TypeError: a head that cannot be called, tensors that are not float or differ in dtype, or a clip or time that
            is not an integer tensor.
        RuntimeError: different devices, or a forced backend that cannot run.

    Source: Myers et al. 2025 (TMD, arXiv 2509.20478) and 2024 (CMD, arXiv 2406.17098); Eysenbach et al. 2022
    (contrastive RL, arXiv 2206.07568) for "sigmoid" and the log-sum-exp penalty; the smoothed targets, exclusions and
    queue of https://github.com/HKBU-KnowComp/Temporal-Distance-JEPA; the critic of
    https://github.com/vivekmyers/contrastive_metrics.

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
    if ring and (exclude is not None or potential is not None):
        raise ValueError("contrastive: ring takes neither exclude nor potential: goals come around without them.")
    places, window = None, 0
    if exclude is not None:
        clip, time, window = exclude
        if form == "sigmoid":
            raise ValueError("contrastive: exclude must be None for form 'sigmoid'.")
        places = places_of_goals("contrastive", y, clip, time, window)
    if potential is not None:
        potential = _potential_of_goals(potential, y)
    scale = 1.0 / math.sqrt(x.shape[-1]) if scale is None else float(scale)
    kind, count = ("sigmoid" if form == "sigmoid" else direction), x.shape[-2]
    if kind == "backward" and group is None:
        y, potential, places = (
            None if of_goals is None else matches_of(of_goals, offset, count, dim)
            for of_goals, dim in ((y, -2), (potential, -1), (places, -1))
        )
        offset = 0
    pairs = _Pairs(head, scale, potential, places, window, offset)
    streaming = tiles.should_stream(streaming, x.shape[:-1].numel() * y.shape[-2], x.device)
    if group is None and not streaming:
        settings = PairLossSettings(kind, scale, float(logsumexp_weight), offset=offset, window=window)
        distance = pairs.distance(x, y)
        loss, stats = pair_loss(distance, None, None, settings, places)
        if label_smoothing:
            near = pairs.near(count, y.shape[-2])
            loss = loss + label_smoothing * _lead_of_matrix(-scale * distance, kind, offset, near)
        return Contrastive(loss, stats.positive, stats.negative, stats.logsumexp, stats.accuracy)
    weights = float(logsumexp_weight), float(label_smoothing)
    return Contrastive(*_by_tiles(pairs, x, y, kind, weights, streaming, group, ring))


class _Pairs(NamedTuple):
    """What the logits of any block of states and goals are made from, and the pairs among them that are left out."""

    head: checks.Head
    scale: float
    potential: Tensor | None  # (..., M)
    places: Tensor | None  # (..., M)
    window: int
    offset: int

    def distance(self, x: Tensor, y: Tensor, first_goal: int = 0) -> Tensor:
        """Returns distances to the goals y from ``first_goal`` on, minus their potential."""
        distance = every_pair(self.head, x, y)
        if self.potential is None:
            return distance
        of_goals = self.potential[..., first_goal : first_goal + y.shape[-2]]
        return distance - of_goals.to(distance.dtype).unsqueeze(-2)

    def near(self, num_states: int, num_goals: int, first_state: int = 0, first_goal: int = 0) -> Tensor | None:
        """Returns which pairs of a block are left out; None if no pair is."""
        if self.places is None:
            return None
        match = self.offset + first_state
        of_states = self.places[..., match : match + num_states]
        of_goals = self.places[..., first_goal : first_goal + num_goals]
        return left_out(of_states, of_goals, self.window, match - first_goal)


def _potential_of_goals(potential: Tensor, y: Tensor) -> Tensor:
    check_float("contrastive", "potential", potential)
    if potential.device != y.device:
        raise RuntimeError(f"contrastive: potential must be on {y.device}, like y, got {potential.device}.")
    checks.check_per_row("contrastive", "potential", potential, y.shape[:-1])
    return potential.expand(y.shape[:-1])


def _lead_of_matrix(logits: Tensor, kind: str, offset: int, near: Tensor | None) -> Tensor:
    """Returns `lead`, the mean over the directions, without the pairs ``near``."""
    count, columns = logits.shape[-2:]
    matched = slice(offset, offset + count)
    positive = matching(logits, offset, -1)
    kept = logits if near is None else logits.masked_fill(near, 0.0)
    sides = []
    if kind != "backward":
        sides.append(lead(positive, kept.sum(dim=-1), counts(near, -1, columns)))
    if kind != "forward":
        of_matches = None if near is None else near[..., matched]
        sides.append(lead(positive, kept[..., matched].sum(dim=-2), counts(of_matches, -2, count)))
    return sum(sides) / len(sides)


def matches_of(of_goals: Tensor, offset: int, count: int, dim: int = -2) -> Tensor:
    """Returns what is given per goal, along ``dim``, for the goals that have a match among ``count`` states."""
    return of_goals if of_goals.shape[dim] == count else of_goals.narrow(dim, offset, count)


def _by_tiles(pairs, x, y, kind, weights, streaming, group, ring) -> Contrast:
    """Composes the loss from tiles of goals for backward softmaxes, else of states; computes each pair once."""
    count, columns, offset, scale = x.shape[-2], y.shape[-2], pairs.offset, pairs.scale
    leaves_out = pairs.places is not None
    if ring:
        offset, columns = torch.distributed.get_rank(group) * count, torch.distributed.get_world_size(group) * count
    if kind == "backward":

        def of_goals(first, y, x):
            def part(begin, block, x):
                logits = -scale * pairs.distance(x, block, begin)
                near = pairs.near(count, block.shape[-2], first_goal=begin)
                numbers = (counts(near, -2, count),) if leaves_out else ()
                return matching(logits, first + begin - offset, -2), *over(logits, -2, near), *numbers

            return tiles.by_tiles(part, (y,), (x,), count, streaming)

        if ring:
            positive, *softmaxes = map(side_by_side, around(of_goals, pairs.head, y, (x,), group))
        else:
            positive, *softmaxes = of_goals(0, y, x)
        positive = positive[..., offset : offset + count]
        softmaxes = softmaxes if leaves_out else (*softmaxes, count)
        return contrast_of_sides([_everywhere(Softmaxes(positive, *softmaxes), group)], *weights)

    def of_states(first, y, x):
        def part(begin, block, y):
            logits = -scale * pairs.distance(block, y)
            positive = matching(logits, begin + offset - first, -1)
            if kind == "sigmoid":
                return positive, *softplus_over_goals(logits)
            near = pairs.near(block.shape[-2], columns, first_state=begin)
            numbers = (counts(near, -1, columns),) if leaves_out else ()
            goals = ()
            if kind == "symmetric":
                goals = over(logits, -2, near)
                goals = (*goals, counts(near, -2, block.shape[-2])) if leaves_out else goals
            return positive, *over(logits, -1, near), *numbers, *(value.unsqueeze(-1) for value in goals)

        return tiles.by_tiles(part, (x,), (y,), y.shape[-2], streaming)

    if ring:
        positive, largest, log_sum, total, *goals = around(of_states, pairs.head, y, (x,), group)
        positive = positive.sum(dim=0)
        if kind == "sigmoid":
            of_rows = largest.amax(dim=0), log_sum.sum(dim=0), total.sum(dim=0)
        else:
            of_rows = together(largest, log_sum, total, dim=0)
    else:
        positive, *results = of_states(0, y, x)
        of_rows, goals = (results[:4], results[4:]) if leaves_out else (results[:3], results[3:])
    rows = Softmaxes(positive, *of_rows) if leaves_out else Softmaxes(positive, *of_rows, columns)
    if kind == "sigmoid":
        return contrast_of_sigmoids(rows)
    if kind == "forward":
        return contrast_of_sides([rows], *weights)
    number = goals[3].sum(dim=-1) if leaves_out else count
    goals = together(*goals[:3], dim=-1)  # each tile holds the part of its states
    if ring:
        goals = map(side_by_side, goals)
    goals = *goals, number
    if group is None:
        goals = (value[..., offset : offset + count] if isinstance(value, Tensor) else value for value in goals)
    return contrast_of_sides([rows, _everywhere(Softmaxes(positive, *goals), group)], *weights)


def _everywhere(local: Softmaxes, group) -> Softmaxes:
    return local if group is None else over_processes(local, group)


def over_processes(local: Softmaxes, group) -> Softmaxes:
    """Combines the processes' softmaxes, each over its own states, into softmaxes over all states.

    Every process has every goal, but only its own matching logits.
    """
    positive, *parts, count = local
    parts = [gather_rows(part.unsqueeze(0), dim=0, group=group) for part in parts]
    positive = gather_rows(positive, dim=-1, group=group)
    if isinstance(count, Tensor):
        count = gather_rows(count.to(positive.dtype).unsqueeze(0), dim=0, group=group).sum(dim=0)
    else:
        count = count * len(parts[0])
    return Softmaxes(positive, *together(*parts, dim=0), count)


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
