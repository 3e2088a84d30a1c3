"""PointArena: OGBench's open arena with a point in it, as an environment with goals.

Source: Park et al. 2024, "OGBench" (arXiv 2410.20092), whose package makes mazes of this kind but registers no arena.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy

ID = "qmkernels/PointArena-v0"

# Where the middle of a corner's cell is, how far from the middle of a cell episodes begin, and goals are.
FIRST, LAST, NOISE = 0.0, 20.0, 1.0


class PointArena(gymnasium.Env):
    """A point on a square of 24 x 24, walls around it; an action moves it by up to 0.2 along x and y.

    Observations and goals are positions (x, y), (2,) float64; inside the walls both are from -2 to 22, and the point
    has a radius of 0.7. Episodes begin in the first corner, within 1 of (0, 0) along x and y, as OGBench's only task
    for this maze does; goals are anywhere, from -1 to 21. Reward is 1, and ``success`` true, within 1 of the goal,
    OGBench's tolerance; episodes do not end there. OGBench draws from numpy's global generator, this environment
    from the seed of its reset.

    Raises:
        ModuleNotFoundError: ogbench is not installed.
    """

    def __init__(self) -> None:
        try:
            from ogbench.locomaze.maze import make_maze_env
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f'PointArena needs ogbench: pip install "qmkernels[robotics]" ({error}).'
            ) from error
        self._arena = make_maze_env("point", "maze", maze_type="arena", terminate_at_goal=False)
        self.action_space = self._arena.action_space
        place = self._arena.observation_space
        names = ("observation", "achieved_goal", "desired_goal")
        self.observation_space = gymnasium.spaces.Dict({name: place for name in names})

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict[str, numpy.ndarray], dict]:
        """``options={"start": (x, y), "goal": (x, y)}`` gives one or both."""
        import mujoco

        super().reset(seed=seed)
        start = FIRST + self.np_random.uniform(-NOISE, NOISE, 2)
        goal = self.np_random.uniform(FIRST - NOISE, LAST + NOISE, 2)
        options = options or {}
        mujoco.mj_resetData(self._arena.model, self._arena.data)
        self._arena.set_xy(numpy.asarray(options.get("start", start)))
        self._arena.set_goal(goal_xy=numpy.asarray(options.get("goal", goal)))
        return self._observation(), {"success": False}

    def step(self, action: Any) -> tuple[dict[str, numpy.ndarray], float, bool, bool, dict]:
        _, reward, _, _, info = self._arena.step(numpy.asarray(action))
        return self._observation(), float(reward), False, False, {"success": bool(info["success"])}

    def compute_reward(self, achieved_goal: Any, desired_goal: Any, info: Any = None) -> numpy.ndarray:
        """1 where (..., 2) are within 1 of each other, otherwise 0."""
        apart = numpy.asarray(achieved_goal) - numpy.asarray(desired_goal)
        return (numpy.linalg.norm(apart, axis=-1) <= 1).astype(float)

    def close(self) -> None:
        self._arena.close()

    def _observation(self) -> dict[str, numpy.ndarray]:
        here, goal = self._arena.get_xy(), numpy.array(self._arena.cur_goal_xy)
        return {"observation": here, "achieved_goal": here.copy(), "desired_goal": goal}


if ID not in gymnasium.registry:
    gymnasium.register(ID, PointArena, max_episode_steps=100)
