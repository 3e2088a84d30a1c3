"""Settings of the losses over rows of distances; the forms are in definitions/row_loss.py."""

from __future__ import annotations

from typing import NamedTuple


class RowLossSettings(NamedTuple):
    """The form and its numbers, in the order in which ops and backends take them."""

    form: str = "smooth_l1"
    beta: float = 1.0
    power: float = 1.0
    expectile: float = 0.5
    huber_delta: float = 0.0
