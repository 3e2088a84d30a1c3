"""Settings of QRL's latent dynamics loss; the formulas are in definitions/latent_dynamics.py."""

from __future__ import annotations

from typing import NamedTuple


class LatentDynamicsSettings(NamedTuple):
    """Settings of IQE, and the power: plain numbers and strings, in the order in which ops and backends take them."""

    dim_per_component: int
    reduction: str = "maxmean"
    weight_link: str = "identity"
    power: int = 2
