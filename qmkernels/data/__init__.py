"""Transitions, offline and online, and the goals that are drawn for them; numpy and torch alone."""

from .dataset import Dataset
from .goals import GoalSampler
from .replay_buffer import ReplayBuffer
from .returns import NStepReturns, n_step_returns
from .spaces import check_actions, check_environment, check_goal_environment, has_goals, is_image
from .transitions import check_horizon

__all__ = [
    "Dataset", "GoalSampler", "NStepReturns", "ReplayBuffer", "check_actions", "check_environment",
    "check_goal_environment", "check_horizon", "has_goals", "is_image", "n_step_returns",
]  # fmt: skip
