"""Settings of QRL's critic loss; the formulas are in definitions/qrl_critic.py."""

from __future__ import annotations

from typing import NamedTuple


class QrlCriticSettings(NamedTuple):
    """Settings of IQE and of the Lagrangian, plain numbers and strings, in the order in which ops and backends take
    them.

    ``threshold`` is compared with the mean squared violation: epsilon squared, or in OGBench epsilon.
    """

    dim_per_component: int
    reduction: str = "maxmean"
    weight_link: str = "identity"
    softplus_beta: float = 0.1
    softplus_offset: float = 15.0
    multiplier: str = "softplus"
    threshold: float = 0.0625
