"""MiniGrid's Empty and DoorKey as environments with goals: an open goal, and one behind a door that needs a key.

Source: Chevalier-Boisvert et al. 2023, arXiv 2306.13831, its package minigrid; and Reichlin et al. 2024, arXiv
2402.10820, whose public code has grids of this kind, in which an action moves along any of the four directions.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy


class MiniGridGoals(gymnasium.Wrapper):
    """Observations are a Dict; a goal is a cell, and a reset draws another one of those that MiniGrid's may be in.

    Observations are vectors of cells' coordinates, float32:
        Empty, (4,): the agent's cell, and its direction, (1, 0), (0, 1), (-1, 0) or (0, -1).
        DoorKey, (10,): the agent's cell; the key's, (-1, -1) where the agent carries it; the door's; 1 where the door
            is open; 1 where it is locked; the direction.

    What is achieved is an observation without the direction. What is wanted has the agent in the goal's cell, in
    DoorKey with the key and with the door open. The goal is in any free cell, in DoorKey in one behind the door, as
    published; MiniGrid has it in the last corner. Actions and rewards are MiniGrid's. An episode ends with ``success``
    in the goal's cell.

    Raises:
        ValueError: another environment of MiniGrid's.
    """

    def __init__(self, environment: gymnasium.Env) -> None:
        from minigrid.envs import DoorKeyEnv, EmptyEnv

        super().__init__(environment)
        if not isinstance(environment.unwrapped, DoorKeyEnv | EmptyEnv):
            raise ValueError(
                f"{environment.spec.id}: of MiniGrid's environments, MiniGrid-Empty and MiniGrid-DoorKey have goals "
                "that observations can tell; it is neither."
            )
        size = 8 if isinstance(environment.unwrapped, DoorKeyEnv) else 2
        largest = max(environment.unwrapped.width, environment.unwrapped.height)
        goal = gymnasium.spaces.Box(-1, largest, (size,), numpy.float32)
        self.observation_space = gymnasium.spaces.Dict(
            {
                "observation": gymnasium.spaces.Box(-1, largest, (size + 2,), numpy.float32),
                "achieved_goal": goal,
                "desired_goal": goal,
            }
        )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        _, info = self.env.reset(seed=seed, options=options)
        things = {each.type: each for each in self.unwrapped.grid.grid if each is not None}
        self._key, self._door, goal = things.get("key"), things.get("door"), things["goal"]
        self.unwrapped.grid.set(*goal.cur_pos, None)
        self._goal = self.unwrapped.place_obj(goal, top=(self._door.cur_pos[0] + 1, 0) if self._door else None)
        return self._observation(), {**info, "success": False}

    def step(self, action: Any) -> tuple[dict, float, bool, bool, dict]:
        _, reward, terminated, truncated, info = self.env.step(action)
        return self._observation(), float(reward), terminated, truncated, {**info, "success": terminated}

    def _observation(self) -> dict[str, numpy.ndarray]:
        here, goal = [self.unwrapped.agent_pos], [self._goal]
        if self._door is not None:
            door = self._door
            here += [self._key.cur_pos, door.cur_pos, (door.is_open, door.is_locked)]
            goal += [(-1, -1), door.cur_pos, (True, False)]
        achieved, wanted, both = (
            numpy.concatenate(parts).astype(numpy.float32) for parts in (here, goal, [*here, self.unwrapped.dir_vec])
        )
        return {"observation": both, "achieved_goal": achieved, "desired_goal": wanted}


def is_of_minigrid(environment: gymnasium.Env) -> bool:
    """Whether it is a MiniGrid environment, for `MiniGridGoals` to wrap."""
    return any(each.__module__ == "minigrid.minigrid_env" for each in type(environment.unwrapped).__mro__)
