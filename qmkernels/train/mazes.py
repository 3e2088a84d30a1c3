"""What is particular to the mazes of gymnasium-robotics: their ends, and where one can stand in them."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy

Cell = tuple[int, int]


def maze_of(environment: Any) -> Any | None:
    """The environment's `gymnasium_robotics` maze, or None."""
    maze = getattr(environment.unwrapped, "maze", None)
    return maze if hasattr(maze, "maze_map") and hasattr(maze, "cell_rowcol_to_xy") else None


def opposite_ends(maze: Any) -> tuple[Cell, Cell]:
    """The two free cells with the longest shortest way between them, by steps to the four neighbours."""
    free = _free(maze)
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


def end_to_end_options(maze: Any, number: int) -> dict[str, numpy.ndarray]:
    """``options`` for a reset at one end with the goal at the other, turned around with every episode."""
    ends = opposite_ends(maze)[:: 1 if number % 2 == 0 else -1]
    return {"reset_cell": numpy.array(ends[0]), "goal_cell": numpy.array(ends[1])}


def position_grid(maze: Any, per_cell: int = 10) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Positions (rows, columns, 2) all over the maze, row 0 at the top, and whether each is in a free cell."""
    scale, offsets = maze.maze_size_scaling, (numpy.arange(per_cell) + 0.5) / per_cell - 0.5
    shape = len(maze.maze_map), len(maze.maze_map[0])
    positions = numpy.zeros((shape[0] * per_cell, shape[1] * per_cell, 2))
    is_free = numpy.zeros(positions.shape[:2], dtype=bool)
    for row, column in numpy.ndindex(*shape):
        x, y = maze.cell_rowcol_to_xy(numpy.array([row, column]))
        part = slice(row * per_cell, (row + 1) * per_cell), slice(column * per_cell, (column + 1) * per_cell)
        positions[part] = numpy.stack(numpy.meshgrid(x + scale * offsets, y - scale * offsets), axis=-1)
        is_free[part] = maze.maze_map[row][column] != 1
    return positions, is_free


def _free(maze: Any) -> list[Cell]:
    rows = maze.maze_map
    return [(r, c) for r, row in enumerate(rows) for c, value in enumerate(row) if value != 1]
