"""Agents, one file each: networks, losses, ``update(batch)`` and ``act(observation, goal)``; torch and numpy alone.
Planning by MPPI is beside them."""

from .mppi import MPPI
from .qrl import QRL, QRLConfig

__all__ = ["MPPI", "QRL", "QRLConfig"]
