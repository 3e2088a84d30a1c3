"""OGBench's environments: goals as gymnasium's goal environments give them, its tasks, and its eval.csv.

Source: Park et al. 2024, arXiv 2410.20092, its package ogbench and the training code beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy


class OGBenchGoals(gymnasium.Wrapper):
    """Observations are a Dict: a goal is an observation, so what is achieved is the observation itself.

    A reset with ``options={"task_id": i}`` begins task i of `task_names`, counted from 1. One without begins in any
    free cell of a maze, with a goal in another, as OGBench collects its data; elsewhere it begins any of the tasks.

    OGBench draws tasks, noise and teleports from numpy's global generator; a reset with a seed seeds that, so that an
    episode depends on its seed and actions alone.
    """

    def __init__(self, environment: gymnasium.Env) -> None:
        super().__init__(environment)
        space = environment.observation_space
        if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
            raise ValueError(f"{environment.spec.id}: observations must be vectors, got {space}.")
        self.observation_space = gymnasium.spaces.Dict(
            dict.fromkeys(("observation", "achieved_goal", "desired_goal"), space)
        )
        self.task_names = [task["task_name"] for task in environment.unwrapped.task_infos]
        maze = getattr(environment.unwrapped, "maze_map", None)
        self._free = None if maze is None else [tuple(map(int, cell)) for cell in numpy.argwhere(maze == 0)]
        self._goal: numpy.ndarray | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        if seed is not None:
            numpy.random.seed(seed % 2**32)
            self.env.action_space.seed(seed)  # a reset takes some random actions
        if not options and self._free is not None:
            begin, goal = numpy.random.choice(len(self._free), 2, replace=False)
            options = {"task_info": {"init_ij": self._free[begin], "goal_ij": self._free[goal]}}
        observation, info = self.env.reset(seed=seed, options=options)
        self._goal = info["goal"]
        return self._with_goal(observation), info

    def step(self, action: Any) -> tuple[dict, float, bool, bool, dict]:
        observation, *others = self.env.step(action)
        return self._with_goal(observation), *others

    def _with_goal(self, observation: numpy.ndarray) -> dict[str, numpy.ndarray]:
        return {"observation": observation, "achieved_goal": observation, "desired_goal": self._goal}


def is_of_ogbench(environment: gymnasium.Env) -> bool:
    """Whether it has OGBench's tasks, for `OGBenchGoals` to wrap."""
    return hasattr(environment.unwrapped, "task_infos")


def task_names(environment: gymnasium.Env) -> list[str]:
    """Of the tasks of an environment that `OGBenchGoals` wraps; none of others."""
    while isinstance(environment, gymnasium.Wrapper):
        if isinstance(environment, OGBenchGoals):
            return environment.task_names
        environment = environment.env
    return []


def eval_csv(curve: Sequence[dict[str, float]], tasks: Sequence[str]) -> str:
    """The text of OGBench's eval.csv: a row for each evaluation, with the successes of the tasks and over all."""
    measures = {f"evaluation/{task}_success": f"success_{task}" for task in tasks}
    measures |= {"evaluation/overall_success": "success", "step": "step"}
    lines = [",".join(measures)]
    lines += [",".join(str(entry[name]) for name in measures.values()) for entry in curve]
    return "\n".join(lines) + "\n"
