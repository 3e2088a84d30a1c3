"""Settings of IQE; the formulas are in definitions/iqe.py."""

from __future__ import annotations

import math
from typing import NamedTuple

from .checks import check_choice, check_count

REDUCTIONS = ("none", "sum", "mean", "max", "maxmean", "spread")
PUBLIC_REDUCTIONS = ("none", "sum", "mean", "max", "maxmean")
# The weight of the maximum where none is given: sigmoid(-1), with which torchqmet's begins.
INITIAL_MAX_WEIGHT = 1.0 / (1.0 + math.exp(1.0))


class IqeSettings(NamedTuple):
    """Settings of IQE, a plain number and names, in the order in which ops and backends take them."""

    dim_per_component: int
    reduction: str = "maxmean"
    weight_link: str = "identity"


def check_settings(op: str, size: int, dim_per_component: int, reduction: str, max_weight: object) -> None:
    """Raises unless the settings are those of embeddings of ``size`` values; a max_weight of None is left out."""
    check_count(op, "dim_per_component", dim_per_component, divides=size)
    check_choice(op, "reduction", reduction, PUBLIC_REDUCTIONS)
    if reduction != "maxmean" and max_weight is not None:
        raise ValueError(f"{op}: max_weight belongs to reduction 'maxmean', got reduction {reduction!r}.")
