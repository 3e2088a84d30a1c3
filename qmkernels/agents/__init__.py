"""Agents, one file each: networks, losses, ``update(batch)`` and ``act(observation, goal)``; and planning by MPPI.

They need only torch and numpy."""

from .agent import Agent
from .crl import CRL, CRLConfig
from .ddpg_her import DDPGHER, DDPGHERConfig
from .gcbc import GCBC, GCBCConfig
from .iqrl import IQRL, IQRLConfig
from .metra import METRA, METRAConfig
from .metric_rl import MetricRL, MetricRLConfig, monotonic_triplets
from .mppi import MPPI
from .qrl import QRL, QRLConfig
from .tmd import TMD, TMDConfig

__all__ = [
    "CRL", "DDPGHER", "GCBC", "IQRL", "METRA", "MPPI", "QRL", "TMD", "Agent", "CRLConfig", "DDPGHERConfig",
    "GCBCConfig", "IQRLConfig", "METRAConfig", "MetricRL", "MetricRLConfig", "QRLConfig", "TMDConfig",
    "monotonic_triplets",
]  # fmt: skip
