"""How well one ordering of states agrees with another."""

from __future__ import annotations

import math

from scipy.stats import rankdata

from .mountaincar import FloatArray


def spearman(first: FloatArray, second: FloatArray) -> float:
    """Spearman's rank correlation of two vectors, ties at their mean rank; NaN where either is constant or has NaN."""
    return pearson(rankdata(first, nan_policy="propagate"), rankdata(second, nan_policy="propagate"))


def pearson(first: FloatArray, second: FloatArray) -> float:
    """Pearson's correlation of two vectors; NaN where either is constant or has NaN."""
    first, second = first - first.mean(), second - second.mean()
    scale = math.sqrt((first @ first) * (second @ second))
    return float(first @ second) / scale if scale > 0 else math.nan
