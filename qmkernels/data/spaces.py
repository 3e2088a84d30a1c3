"""Checks of gymnasium spaces by their attributes, without importing gymnasium."""

from __future__ import annotations

from typing import Any

import numpy

GOAL_KEYS = ("observation", "achieved_goal", "desired_goal")


def has_goals(space: Any) -> bool:
    """Returns whether an observation space is a Dict with observation, achieved_goal and desired_goal."""
    return all(key in (getattr(space, "spaces", None) or ()) for key in GOAL_KEYS)


def is_image(space: Any) -> bool:
    """Returns whether a space is a Box of uint8 values with three dimensions."""
    return len(getattr(space, "shape", None) or ()) == 3 and space.dtype == numpy.uint8


def check_goal_environment(environment: Any) -> None:
    """Raises ValueError unless the environment has goals, and observations and goals are flat vectors."""
    space, name = environment.observation_space, _name(environment)
    steps = getattr(getattr(environment, "spec", None), "max_episode_steps", None) or 200
    if not has_goals(space):
        raise ValueError(
            f"{name} has no goals: its observation space must be a Dict with {', '.join(GOAL_KEYS)}, as of a GoalEnv, "
            f"got {space}. qmkernels.data.GoalWrapper adds goals: put this into a module my_env.py, and train with "
            f"--env my_env:Goals-v0:\n"
            f"  import gymnasium, qmkernels as qm\n"
            f'  gymnasium.register("Goals-v0", lambda: qm.data.GoalWrapper(gymnasium.make("{name}"), success=0.1), '
            f"max_episode_steps={steps})"
        )
    check_environment(environment)
    if is_image(environment.observation_space["observation"]):
        raise ValueError(f"{_name(environment)}: observation must be a vector for agents that reach goals, got images.")


def check_environment(environment: Any) -> None:
    """Raises ValueError unless observations are a Dict with the vector or image "observation" and, if there are goals,
    their vectors."""
    space = environment.observation_space
    spaces = getattr(space, "spaces", None) or {}
    if "observation" not in spaces:
        raise ValueError(
            f"{_name(environment)}: its observation space must be a Dict with observation, got {space}. Wrap it."
        )
    for key in GOAL_KEYS if has_goals(space) else GOAL_KEYS[:1]:
        if key == "observation" and is_image(spaces[key]):
            continue
        if spaces[key].shape is None or len(spaces[key].shape) != 1:
            raise ValueError(
                f"{_name(environment)}: {key} must be a vector, got {spaces[key]}. Flatten it with a wrapper."
            )


def _name(environment: Any) -> str:
    return getattr(getattr(environment, "spec", None), "id", None) or type(environment).__name__


def check_actions(actions: numpy.ndarray, space: Any) -> None:
    """Raises ValueError if any of the actions (N, ...) is NaN or outside a Discrete or Box space."""
    actions = numpy.asarray(actions)
    if hasattr(space, "n"):
        if actions.ndim != 1 or not numpy.issubdtype(actions.dtype, numpy.integer):
            raise ValueError(f"actions of {space} must be (N,) integers, got {actions.shape} {actions.dtype}.")
        inside = (actions >= space.start) & (actions < space.start + space.n)
    else:
        if actions.shape[1:] != space.shape:
            raise ValueError(
                f"actions of {space} must be (N, {', '.join(map(str, space.shape))}), got {actions.shape}."
            )
        # A float32 bound differs from the same bound in float64.
        slack = 1e-5 * (space.high - space.low)
        inside = (
            ((actions >= space.low - slack) & (actions <= space.high + slack)).reshape(len(actions), -1).all(axis=1)
        )
    if not inside.all():
        first = int(numpy.argmin(inside))
        raise ValueError(
            f"{int((~inside).sum())} of {len(actions)} actions are outside {space}, the first is number {first}: "
            f"{actions[first]}. Rescale or clip them."
        )
