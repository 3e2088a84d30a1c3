"""Transitions, offline and online, and the goals that are drawn for them; numpy and torch alone."""

from .dataset import Dataset
from .goals import GoalSampler
from .replay_buffer import ReplayBuffer
from .spaces import check_actions, check_goal_environment

__all__ = ["Dataset", "GoalSampler", "ReplayBuffer", "check_actions", "check_goal_environment"]
