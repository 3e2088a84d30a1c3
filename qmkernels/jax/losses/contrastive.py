"""Contrastive losses over pairwise distances, which match goals to states."""

from __future__ import annotations

import math
from typing import NamedTuple

from jax import Array

from ...arguments.checks import check_choice
from ...arguments.pair_loss import PairLossSettings
from . import checks
from .heads import every_pair
from .pair_loss import lead, pair_loss

_DIRECTIONS = ("backward", "forward", "symmetric")
_FORMS = ("softmax", "sigmoid")


class Contrastive(NamedTuple):
    """``loss`` is the scalar to minimise; the others have no gradient. All are 0-d.

    positive, negative  mean logits of matching and of other pairs; 0 if there are no other pairs.
    logsumexp           mean log-sum-exp of the softmaxes' logits; 0 for "sigmoid".
    accuracy            share of softmaxes, or of rows for "sigmoid", whose largest logit is the matching pair's.
    """

    loss: Array
    positive: Array
    negative: Array
    logsumexp: Array
    accuracy: Array


def contrastive(
    head: checks.Head,
    x: Array,
    y: Array,
    *,
    direction: str = "backward",
    form: str = "softmax",
    scale: float | None = None,
    logsumexp_weight: float = 0.0,
    label_smoothing: float = 0.0,
    offset: int = 0,
) -> Contrastive:
    r"""Tells each state's goal from the other states' goals by their distances.

    With logits :math:`\ell_{ij} = -s\, d(x_i, y_j)`, of which :math:`\ell_{ii}` are the matching pairs, the mean of

    - form "softmax", direction "backward": :math:`-\ell_{jj} + \log \sum_i e^{\ell_{ij}}` over goals j;
    - direction "forward": :math:`-\ell_{ii} + \log \sum_j e^{\ell_{ij}}` over states i; "symmetric": their mean;
    - form "sigmoid": :math:`\mathrm{softplus}(-\ell_{ii})` and, for i != j, :math:`\mathrm{softplus}(\ell_{ij})` over
      all pairs.

    Args:
        head: the quasimetric, a function of x and y (see `qmkernels.jax.losses`).
        x: states, ``(..., N, D)``; float32, float64, bfloat16 or float16. Leading dimensions are an ensemble, over
            which the loss is averaged.
        y: goals, ``(..., M, D)``, of x's dtype; the match of ``x[i]`` is ``y[i + offset]``.
        direction: "backward" (TMD, CMD), "forward" or "symmetric"; ignored by "sigmoid".
        form: "softmax" (InfoNCE) or "sigmoid" (binary cross-entropy, contrastive RL).
        scale: s, in 1 / the head's unit; None: ``1 / sqrt(D)``, as in the TMD code.
        logsumexp_weight: weight of the mean squared log-sum-exp of the softmaxes, which is added to the loss
            (contrastive RL: 0.1 or 0.01). Default 0.
        label_smoothing: epsilon in [0, 1), of the softmaxes. Default 0.
        offset: where the matches begin in ``y``, an int, not traced. Default 0.

    Returns:
        `Contrastive`, in float32 for half embeddings, else in their dtype.

    Gradients flow to x, y and what the head closes over. NaN in a row gives NaN in the loss and in the gradients of all
    rows that share a softmax, or a pair for "sigmoid", with it. Infinities give what the head and the formula give.

    Raises:
        ValueError: shapes that do not fit or are empty, an offset that leaves rows without a match, unknown names.
        TypeError: a head that cannot be called, or arrays that are not float or differ in dtype.

    Source: Myers et al. 2025 (TMD, arXiv 2509.20478) and 2024 (CMD, arXiv 2406.17098); Eysenbach et al. 2022
    (contrastive RL, arXiv 2206.07568) for "sigmoid" and the log-sum-exp penalty.
    """
    checks.check_head("contrastive", head)
    checks.check_pairs("contrastive", offset, x=x, y=y)
    check_choice("contrastive", "direction", direction, _DIRECTIONS)
    check_choice("contrastive", "form", form, _FORMS)
    if not 0 <= label_smoothing < 1 or (label_smoothing and form == "sigmoid"):
        raise ValueError(
            f"contrastive: label_smoothing must be in [0, 1), and 0 for form 'sigmoid', got {label_smoothing}."
        )
    scale = 1.0 / math.sqrt(x.shape[-1]) if scale is None else float(scale)
    kind = "sigmoid" if form == "sigmoid" else direction
    if kind == "backward":
        y, offset = y[..., offset : offset + x.shape[-2], :], 0
    distance = every_pair(head, x, y)
    settings = PairLossSettings(kind, scale, float(logsumexp_weight), offset=offset)
    loss, stats = pair_loss(distance, None, settings)
    if label_smoothing:
        loss = loss + label_smoothing * lead(distance, kind, scale, offset)
    return Contrastive(loss, stats.positive, stats.negative, stats.logsumexp, stats.accuracy)
