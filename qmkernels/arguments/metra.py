"""Settings of METRA's loss; the formulas are in definitions/metra.py."""

from __future__ import annotations

from typing import NamedTuple


class MetraSettings(NamedTuple):
    """Settings of the constraint, a plain number and a string, in the order in which ops and backends take them."""

    slack: float = 1e-3
    norm: str = "sum"
