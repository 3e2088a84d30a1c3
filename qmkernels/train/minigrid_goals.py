"""MiniGrid's Empty and DoorKey as environments with goals: an open goal, and one behind a door that needs a key.

Source: Chevalier-Boisvert et al. 2023, arXiv 2306.13831, whose package is minigrid; and Reichlin et al. 2024, arXiv
2402.10820, whose public code has such actions, observations and goals in grids of its own.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy

# As published.
LONGEST_EPISODE = 100
MOVES = ("right", "down", "left", "up")  # in the order of MiniGrid's directions


class MiniGridGoals(gymnasium.Wrapper):
    """A state is a goal, actions move in all four directions, and every reset draws another goal.

    Observations are a Dict of vectors, float32. Of Empty they are the agent's cell, (2,); of DoorKey that, the key's
    cell, (-1, -1) where the agent carries it, the door's cell, and whether the door is open and is locked, (8,). What
    is achieved is the observation; what is wanted has the agent in the goal's cell, with the key and an open door. The
    goal is in any free cell, of DoorKey in one behind the door; MiniGrid has it in the last corner.

    Actions are ``MOVES`` and, in DoorKey, to pick up the key and to toggle the door, where they are beside the agent:
    it is MiniGrid's agent that turns and acts, and directions are no part of a state. Rewards are MiniGrid's. An
    episode ends with ``success`` in the goal's cell, or after 100 steps.

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
        spaces, has_door = gymnasium.spaces, isinstance(environment.unwrapped, DoorKeyEnv)
        environment.unwrapped.max_steps = min(environment.unwrapped.max_steps, LONGEST_EPISODE)
        state = spaces.Box(-1, max(environment.unwrapped.width, environment.unwrapped.height), (8 if has_door else 2,))
        names = ("observation", "achieved_goal", "desired_goal")
        self.observation_space = spaces.Dict(dict.fromkeys(names, state))
        self.action_space = spaces.Discrete(len(MOVES) + (2 if has_door else 0))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        _, info = self.env.reset(seed=seed, options=options)
        game = self.unwrapped
        things = {each.type: each for each in game.grid.grid if each is not None}
        self._key, self._door, goal = things.get("key"), things.get("door"), things["goal"]
        game.grid.set(*goal.cur_pos, None)
        self._goal = game.place_obj(goal, top=(self._door.cur_pos[0] + 1, 0) if self._door else None)
        return self._observation(), {**info, "success": False}

    def step(self, action: Any) -> tuple[dict, float, bool, bool, dict]:
        game, direction, meant = self.unwrapped, int(action), self.unwrapped.actions.forward
        if direction >= len(MOVES):
            is_key = direction == len(MOVES)
            meant = game.actions.pickup if is_key else game.actions.toggle
            direction = self._direction_of(self._key if is_key else self._door)
        if direction is None:
            meant = game.actions.done  # which does nothing
        else:
            game.agent_dir = direction
        _, reward, terminated, truncated, info = self.env.step(meant)
        return self._observation(), float(reward), terminated, truncated, {**info, "success": terminated}

    def _direction_of(self, thing: Any) -> int | None:
        """Where it is beside the agent; None where it is not."""
        from minigrid.core.constants import DIR_TO_VEC

        way = numpy.subtract(thing.cur_pos, self.unwrapped.agent_pos)
        return next((number for number, vector in enumerate(DIR_TO_VEC) if (vector == way).all()), None)

    def _observation(self) -> dict[str, numpy.ndarray]:
        here, goal = [self.unwrapped.agent_pos], [self._goal]
        if self._door is not None:
            door = self._door
            here += [self._key.cur_pos, door.cur_pos, (door.is_open, door.is_locked)]
            goal += [(-1, -1), door.cur_pos, (True, False)]
        state, desired = (numpy.concatenate(parts).astype(numpy.float32) for parts in (here, goal))
        return {"observation": state, "achieved_goal": state, "desired_goal": desired}


def is_of_minigrid(environment: gymnasium.Env) -> bool:
    """Whether it is a MiniGrid environment, for `MiniGridGoals` to wrap."""
    return any(each.__module__ == "minigrid.minigrid_env" for each in type(environment.unwrapped).__mro__)
