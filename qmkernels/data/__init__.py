"""Offline and online transitions, and the goals drawn for them; needs numpy and torch, `GoalWrapper` also gymnasium."""

from typing import TYPE_CHECKING, Any

from .dataset import Dataset
from .goals import GoalSampler
from .replay_buffer import ReplayBuffer
from .returns import NStepReturns, n_step_returns
from .spaces import check_actions, check_environment, check_goal_environment, has_goals, is_image
from .transitions import check_horizon

if TYPE_CHECKING:
    from .goal_wrapper import GoalWrapper

__all__ = [
    "Dataset", "GoalSampler", "GoalWrapper", "NStepReturns", "ReplayBuffer", "check_actions", "check_environment",
    "check_goal_environment", "check_horizon", "has_goals", "is_image", "n_step_returns",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Imports `GoalWrapper` on first use: everything else works without gymnasium."""
    if name == "GoalWrapper":
        from .goal_wrapper import GoalWrapper

        globals()[name] = GoalWrapper
        return GoalWrapper
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
