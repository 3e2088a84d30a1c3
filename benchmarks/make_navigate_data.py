"""Makes a dataset of an OGBench point maze as OGBench makes its "navigate" datasets, in OGBench's file format.

    python benchmarks/make_navigate_data.py --out pointmaze-teleport-navigate.npz

Needs ``pip install ".[robotics]"``. Each episode begins in any free cell. It heads for one junction, corner or dead end
after the other, by the shortest way that ignores teleports, with normal noise on its actions. The defaults are those of
OGBench's pointmaze-teleport-navigate-v0: a million steps, noise of 0.5. That file cannot be made bit by bit, because
its seed is not public; this one depends on ``--seed`` alone.
"""

from __future__ import annotations

import argparse
import functools
from pathlib import Path

import gymnasium
import numpy
import ogbench

from qmkernels.progress import progress

EPISODE_STEPS = 1001
Cell = tuple[int, int]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="pointmaze-teleport-v0", help="a point maze of OGBench")
    parser.add_argument("--episodes", type=int, default=1000, help=f"episodes of {EPISODE_STEPS} steps")
    parser.add_argument("--noise", type=float, default=0.5, help="standard deviation of the noise on actions")
    parser.add_argument("--seed", type=int, default=0, help="seed of starts, goals, noise and teleports")
    parser.add_argument("--out", type=Path, required=True, help="the file, .npz")
    options = parser.parse_args()
    make(options.out, options.env, options.episodes, options.noise, options.seed)


def make(out: Path, env: str, episodes: int, noise: float, seed: int) -> None:
    """Writes the arrays observations, actions and terminals."""
    gymnasium.register_envs(ogbench)
    environment = gymnasium.make(env, terminate_at_goal=False, max_episode_steps=EPISODE_STEPS)
    maze = environment.unwrapped
    free = [(int(row), int(column)) for row, column in numpy.argwhere(maze.maze_map == 0)]
    goals = [cell for cell in free if not is_hallway(maze.maze_map, cell)]

    @functools.cache
    def next_cell(cell: Cell, goal: Cell) -> numpy.ndarray:
        return maze.get_oracle_subgoal(maze.ij_to_xy(cell), maze.ij_to_xy(goal))[0]

    def any_of(cells: list[Cell]) -> Cell:
        return cells[numpy.random.randint(len(cells))]

    # OGBench draws starts, goals and teleports from numpy's global generator, and a reset takes some random actions.
    numpy.random.seed(seed)
    environment.reset(seed=seed)
    environment.action_space.seed(seed)
    observations, actions = (numpy.empty((episodes, EPISODE_STEPS, 2), dtype=numpy.float32) for _ in range(2))
    with progress(episodes, "episode", "collecting") as bar:
        for episode in range(episodes):
            cells = {"init_ij": any_of(free), "goal_ij": any_of(goals)}
            observation, _ = environment.reset(options={"task_info": cells})
            for step in range(EPISODE_STEPS):
                position = maze.get_xy()
                way = next_cell(maze.xy_to_ij(position), maze.xy_to_ij(maze.cur_goal_xy)) - position
                direction = way / (numpy.linalg.norm(way) + 1e-6)
                action = (direction + numpy.random.normal(0.0, noise, 2)).clip(-1.0, 1.0)
                observations[episode, step], actions[episode, step] = observation, action
                observation, _, _, _, info = environment.step(action)
                if info["success"]:
                    maze.set_goal(goal_xy=maze.add_noise(maze.ij_to_xy(any_of(goals))))
            bar.update()
    terminals = numpy.zeros((episodes, EPISODE_STEPS), dtype=bool)
    terminals[:, -1] = True
    rows = {"observations": observations, "actions": actions, "terminals": terminals}
    out.parent.mkdir(parents=True, exist_ok=True)
    numpy.savez_compressed(out, **{name: each.reshape(-1, *each.shape[2:]) for name, each in rows.items()})
    print(f"Wrote {episodes * EPISODE_STEPS:,} steps to {out}.")


def is_hallway(maze_map: numpy.ndarray, cell: Cell) -> bool:
    """Whether a cell has walls on two opposite sides and none on the others."""
    row, column = cell
    across = [maze_map[row - 1, column], maze_map[row + 1, column]]
    along = [maze_map[row, column - 1], maze_map[row, column + 1]]
    return sorted([across, along]) == [[0, 0], [1, 1]]


if __name__ == "__main__":
    main()
