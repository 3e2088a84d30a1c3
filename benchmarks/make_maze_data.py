"""Makes a dataset of an OGBench point maze as OGBench makes its own, in OGBench's file format.

    python benchmarks/make_maze_data.py --kind navigate --out pointmaze-teleport-navigate.npz

Needs ``pip install ".[robotics]"``. Each episode begins in any free cell, with normal noise on its actions.

- navigate: it heads for one junction, corner or dead end after the other, by the shortest way that ignores teleports.
- explore: it moves in a random direction, another one every ten steps.

The defaults are those of OGBench's point mazes: a million steps, noise of 0.5. (OGBench explores with its ants only;
the episodes' length is theirs.) Its files cannot be made bit by bit, because their seed is not public; these depend on
``--seed`` alone.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy
import ogbench

from qmkernels.progress import progress

# Rows of an episode by kind of dataset.
EPISODE_STEPS = {"navigate": 1001, "explore": 501}
DIRECTION_STEPS = 10
Cell = tuple[int, int]
Direction = Callable[[int], numpy.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="pointmaze-teleport-v0", help="a point maze of OGBench")
    parser.add_argument("--kind", choices=EPISODE_STEPS, default="navigate", help="what episodes do")
    parser.add_argument("--steps", type=int, default=1_000_000, help="of all episodes, at least")
    parser.add_argument("--noise", type=float, default=0.5, help="standard deviation of the noise on actions")
    parser.add_argument("--seed", type=int, default=0, help="seed of starts, goals, directions, noise and teleports")
    parser.add_argument("--out", type=Path, required=True, help="the file, .npz")
    options = parser.parse_args()
    make(options.out, options.kind, options.env, options.steps, options.noise, options.seed)


def make(out: Path, kind: str, env: str, steps: int, noise: float, seed: int) -> None:
    """Writes the arrays observations, actions and terminals."""
    length = EPISODE_STEPS[kind]
    episodes = -(-steps // (length - 1))
    gymnasium.register_envs(ogbench)
    environment = gymnasium.make(env, terminate_at_goal=False, max_episode_steps=length)
    maze = environment.unwrapped
    free = [(int(row), int(column)) for row, column in numpy.argwhere(maze.maze_map == 0)]
    goals = [cell for cell in free if not is_hallway(maze.maze_map, cell)]
    direction = to_goal(maze) if kind == "navigate" else random_direction()

    # OGBench draws starts, goals and teleports from numpy's global generator, and a reset takes some random actions.
    numpy.random.seed(seed)
    environment.reset(seed=seed)
    environment.action_space.seed(seed)
    observations, actions = (numpy.empty((episodes, length, 2), dtype=numpy.float32) for _ in range(2))
    with progress(episodes, "episode", "collecting") as bar:
        for episode in range(episodes):
            cells = {"init_ij": any_of(free), "goal_ij": any_of(goals)}
            observation, _ = environment.reset(options={"task_info": cells})
            for step in range(length):
                action = (direction(step) + numpy.random.normal(0.0, noise, 2)).clip(-1.0, 1.0)
                observations[episode, step], actions[episode, step] = observation, action
                observation, _, _, _, info = environment.step(action)
                if info["success"]:
                    maze.set_goal(goal_xy=maze.add_noise(maze.ij_to_xy(any_of(goals))))
            bar.update()
    terminals = numpy.zeros((episodes, length), dtype=bool)
    terminals[:, -1] = True
    rows = {"observations": observations, "actions": actions, "terminals": terminals}
    out.parent.mkdir(parents=True, exist_ok=True)
    numpy.savez_compressed(out, **{name: each.reshape(-1, *each.shape[2:]) for name, each in rows.items()})
    print(f"Wrote {episodes * length:,} steps to {out}.")


def to_goal(maze: Any) -> Direction:
    """Returns the direction to the next cell on the shortest way to the maze's present goal."""

    @functools.cache
    def next_cell(cell: Cell, goal: Cell) -> numpy.ndarray:
        return maze.get_oracle_subgoal(maze.ij_to_xy(cell), maze.ij_to_xy(goal))[0]

    def direction(step: int) -> numpy.ndarray:
        position = maze.get_xy()
        return unit(next_cell(maze.xy_to_ij(position), maze.xy_to_ij(maze.cur_goal_xy)) - position)

    return direction


def random_direction() -> Direction:
    """Returns a random direction, which changes every `DIRECTION_STEPS` steps of an episode."""
    present = numpy.zeros(2)

    def direction(step: int) -> numpy.ndarray:
        if step % DIRECTION_STEPS == 0:
            present[:] = unit(numpy.random.randn(2))
        return present

    return direction


def unit(vector: numpy.ndarray) -> numpy.ndarray:
    return vector / (numpy.linalg.norm(vector) + 1e-6)


def any_of(cells: list[Cell]) -> Cell:
    return cells[numpy.random.randint(len(cells))]


def is_hallway(maze_map: numpy.ndarray, cell: Cell) -> bool:
    """Whether a cell has walls on two opposite sides and none on the others."""
    row, column = cell
    across = [maze_map[row - 1, column], maze_map[row + 1, column]]
    along = [maze_map[row, column - 1], maze_map[row, column + 1]]
    return sorted([across, along]) == [[0, 0], [1, 1]]


if __name__ == "__main__":
    main()
