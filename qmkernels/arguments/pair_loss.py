"""Settings of the losses over a matrix of distances; the formulas are in definitions/pair_loss.py."""

from __future__ import annotations

from typing import Any, NamedTuple

# What the contrastive term's softmaxes normalise: "backward" the states for each matching goal, "forward" all goals for
# each state, "symmetric" both; "sigmoid", "repulsion" (`metric_contrastive`) and "coulomb" (`coulomb_repulsion`) have
# no softmax.
KINDS = ("none", "backward", "forward", "symmetric", "sigmoid", "repulsion", "coulomb")
SOFTMAXES = ("backward", "forward", "symmetric")


class PairLossSettings(NamedTuple):
    """Settings of the terms, plain numbers and strings, in the order in which ops and backends take them."""

    kind: str = "none"
    scale: float = 1.0  # the logits are -scale * d
    logsumexp_weight: float = 0.0
    linex_weight: float = 1.0  # of the LINEX term, which exists if distances after a step are given
    clip: float = 3.0
    diagonal_weight: float = 0.5
    log_discount: float = 0.0  # unless there is one per row
    step: float = 1.0
    repulsion_weight: float = 1.0
    offset: int = 0
    eps: float = 1e-6  # of "coulomb"
    window: int = 0  # of what definitions.pair_loss.left_out leaves out


class PairLossStats(NamedTuple):
    """The unweighted diagnostics; 0 for terms that do not exist."""

    contrastive: Any
    positive: Any
    negative: Any
    logsumexp: Any
    accuracy: Any
    linex: Any
    everywhere: Any
    diagonal: Any
    difference: Any
    steps: Any
    repulsion: Any
    length: Any
    apart: Any
