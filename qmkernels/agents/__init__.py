"""Agents, one file each: networks, losses, ``update(batch)`` and ``act(observation, goal)``; torch and numpy alone.
Planning by MPPI is beside them."""

from .agent import Agent
from .gcbc import GCBC, GCBCConfig
from .metric_rl import MetricRL, MetricRLConfig, monotonic_triplets
from .mppi import MPPI
from .qrl import QRL, QRLConfig
from .tmd import TMD, TMDConfig

__all__ = [
    "GCBC",
    "MPPI",
    "QRL",
    "TMD",
    "Agent",
    "GCBCConfig",
    "MetricRL",
    "MetricRLConfig",
    "QRLConfig",
    "TMDConfig",
    "monotonic_triplets",
]
