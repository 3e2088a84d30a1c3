"""Agents, one file each: networks, losses, ``update(batch)`` and ``act(observation, goal)``; torch and numpy alone."""

from .qrl import QRL, QRLConfig

__all__ = ["QRL", "QRLConfig"]
