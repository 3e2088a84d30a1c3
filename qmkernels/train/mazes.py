"""Mazes of gymnasium-robotics and OGBench: their ends, and where one can stand in them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy

Cell = tuple[int, int]


class Maze(NamedTuple):
    """A grid of square cells."""

    is_free: numpy.ndarray
    """Whether one can stand in a cell, (rows, columns)."""
    centre: Callable[[Cell], numpy.ndarray]
    """Maps the row and column of a cell to the position (x, y) of its centre."""


def maze_of(environment: Any) -> Maze | None:
    """The environment's maze; None where it has none."""
    owner = getattr(environment.unwrapped, "maze", environment.unwrapped)
    centre = getattr(owner, "cell_rowcol_to_xy", None) or getattr(owner, "ij_to_xy", None)
    cells = getattr(owner, "maze_map", ())
    if centre is None or len(cells) == 0:
        return None
    # Walls are 1; other values mark where episodes begin and end.
    is_free = numpy.array([[cell != 1 for cell in row] for row in cells])
    return Maze(is_free, lambda cell: numpy.asarray(centre(numpy.asarray(cell)), dtype=float))


def opposite_ends(maze: Maze) -> tuple[Cell, Cell]:
    """The two free cells with the longest shortest way between them, by steps to the four neighbours."""
    free = [(int(row), int(column)) for row, column in numpy.argwhere(maze.is_free)]
    farthest: tuple[int, Cell, Cell] = (-1, free[0], free[0])
    for start in free:
        steps, queue = {start: 0}, deque([start])
        while queue:
            row, column = queue.popleft()
            for cell in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
                if cell in free and cell not in steps:
                    steps[cell] = steps[(row, column)] + 1
                    queue.append(cell)
        end = max(steps, key=steps.__getitem__)
        farthest = max(farthest, (steps[end], start, end))
    return farthest[1], farthest[2]


def end_to_end_options(maze: Maze, number: int) -> dict[str, numpy.ndarray]:
    """``options`` for a reset at one end with the goal at the other, turned around with every episode."""
    ends = opposite_ends(maze)[:: 1 if number % 2 == 0 else -1]
    return {"reset_cell": numpy.array(ends[0]), "goal_cell": numpy.array(ends[1])}


def position_grid(maze: Maze, per_cell: int = 10) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Positions (rows, columns, 2) all over the maze, and whether each is in a free cell."""
    origin = maze.centre((0, 0))
    downwards, rightwards = maze.centre((1, 0)) - origin, maze.centre((0, 1)) - origin
    rows, columns = (((numpy.arange(size * per_cell) + 0.5) / per_cell - 0.5) for size in maze.is_free.shape)
    positions = origin + rows[:, None, None] * downwards + columns[None, :, None] * rightwards
    return positions, maze.is_free.repeat(per_cell, axis=0).repeat(per_cell, axis=1)
