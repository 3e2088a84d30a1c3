"""HyperMaze: a grid of any number of dimensions with obstacles, whose shortest ways are known.

Source: Reichlin et al. 2024 (arXiv 2402.10820) and its public code, in which every episode leads from one corner to the
opposite one.
"""

from __future__ import annotations

from typing import Any, Literal

import gymnasium
import numpy

ID = "qmkernels/HyperMaze-v0"


class HyperMaze(gymnasium.Env):
    """A cell of ``size`` ** ``dim``; an action moves it by -1, 0 or 1 along every dimension at once, 3 ** dim in all.

    A move into an obstacle or out of the grid is none. Observations and goals are positions, a cell's coordinates
    divided by ``size``, (dim,) float32. Reward is 1 and the episode ends at the goal's cell. Starts and goals are any
    free cells, two different ones; ``options={"start": cell, "goal": cell}`` of a reset gives one or both.

    Args:
        dim: number of dimensions.
        size: cells along each.
        obstacles: walls: two, of the cells from 0.2 to 0.4 and 0.6 to 0.8 of the first dimension, open above 0.8 and
            below 0.2 of all the others, as published. random: a fifth of the cells, drawn once by ``maze_seed``;
            what they cut off from the largest part is not free either. none.
        maze_seed: of random obstacles.

    Attributes:
        free: (N, dim) coordinates of the free cells.

    Raises:
        ValueError: an impossible size, walls with one dimension or fewer than 5 cells, or a cell that is not free.
    """

    def __init__(
        self,
        dim: int = 2,
        size: int = 10,
        obstacles: Literal["walls", "random", "none"] = "walls",
        maze_seed: int = 0,
    ) -> None:
        if dim < 1 or size < 2:
            raise ValueError(f"HyperMaze: dim must be at least 1 and size at least 2, got {dim} and {size}.")
        if obstacles not in ("walls", "random", "none"):
            raise ValueError(f"HyperMaze: obstacles must be walls, random or none, got {obstacles}.")
        if obstacles == "walls" and (dim < 2 or size < 5):
            raise ValueError(f"HyperMaze: walls need dim of at least 2 and size of at least 5, got {dim} and {size}.")
        self.dim, self.size = dim, size
        self.moves = numpy.stack(numpy.unravel_index(numpy.arange(3**dim), (3,) * dim), axis=-1) - 1
        cells = numpy.stack(numpy.unravel_index(numpy.arange(size**dim), (size,) * dim), axis=-1)
        is_free = numpy.ones(len(cells), bool)
        if obstacles == "walls":
            first, others = cells[:, 0], cells[:, 1:]
            one, two, three, four = (int(share * size) for share in (0.2, 0.4, 0.6, 0.8))
            is_free = ~((first >= one) & (first < two) & (others < four).all(axis=1))
            is_free &= ~((first >= three) & (first < four) & (others >= one).all(axis=1))
        elif obstacles == "random":
            is_free = numpy.random.default_rng(maze_seed).random(len(cells)) >= 0.2
        self._number = numpy.full((size,) * dim, -1)
        self._set_free(cells[is_free])
        if obstacles == "random":
            from scipy.sparse.csgraph import connected_components

            _, parts = connected_components(self._graph(), directed=False)
            self._set_free(self.free[parts == numpy.bincount(parts).argmax()])
        self.action_space = gymnasium.spaces.Discrete(3**dim)
        names = ("observation", "achieved_goal", "desired_goal")
        self.observation_space = gymnasium.spaces.Dict(
            {name: gymnasium.spaces.Box(0.0, 1.0, (dim,), numpy.float32) for name in names}
        )

    def positions(self, cells: Any) -> numpy.ndarray:
        """Cells (..., dim) as observations."""
        return (numpy.asarray(cells) / self.size).astype(numpy.float32)

    def after(self, cells: numpy.ndarray, actions: Any) -> numpy.ndarray:
        """Cells (..., dim) after actions (...), of free cells."""
        moved = cells + self.moves[actions]
        inside = ((moved >= 0) & (moved < self.size)).all(axis=-1)
        number = self._number[tuple(numpy.moveaxis(moved.clip(0, self.size - 1), -1, 0))]
        return numpy.where((inside & (number >= 0))[..., None], moved, cells)

    def distances(self) -> numpy.ndarray:
        """(N, N) lengths of the shortest ways between free cells, in steps; memory and time of N ** 2."""
        from scipy.sparse.csgraph import shortest_path

        return shortest_path(self._graph(), unweighted=True)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict[str, numpy.ndarray], dict]:
        super().reset(seed=seed)
        start, goal = self.free[self.np_random.choice(len(self.free), size=2, replace=False)]
        options = options or {}
        self.cell = self._checked("start", options.get("start", start))
        self.goal = self._checked("goal", options.get("goal", goal))
        return self._observation(), {"success": False}

    def step(self, action: Any) -> tuple[dict[str, numpy.ndarray], float, bool, bool, dict]:
        self.cell = self.after(self.cell, int(action))
        success = bool((self.cell == self.goal).all())
        return self._observation(), float(success), success, False, {"success": success}

    def compute_reward(self, achieved_goal: Any, desired_goal: Any, info: Any = None) -> numpy.ndarray:
        """1 where (..., dim) are one cell, otherwise 0."""
        apart = numpy.abs(numpy.asarray(achieved_goal) - numpy.asarray(desired_goal)).max(axis=-1)
        return (apart < 0.5 / self.size).astype(float)

    def _observation(self) -> dict[str, numpy.ndarray]:
        here, goal = self.positions(self.cell), self.positions(self.goal)
        return {"observation": here, "achieved_goal": here.copy(), "desired_goal": goal}

    def _set_free(self, free: numpy.ndarray) -> None:
        if len(free) < 2:
            raise ValueError("HyperMaze: fewer than two cells are free; give another maze_seed or size.")
        self.free = free
        self._number[:] = -1
        self._number[tuple(free.T)] = numpy.arange(len(free))

    def _graph(self) -> Any:
        """The steps between free cells, sparse (N, N)."""
        from scipy.sparse import csr_matrix

        after = self.after(self.free[:, None], numpy.arange(len(self.moves)))
        starts = numpy.repeat(numpy.arange(len(self.free)), len(self.moves))
        ends = self._number[tuple(numpy.moveaxis(after, -1, 0))].reshape(-1)
        moved = starts != ends
        return csr_matrix((numpy.ones(moved.sum()), (starts[moved], ends[moved])), shape=(len(self.free),) * 2)

    def _checked(self, name: str, cell: Any) -> numpy.ndarray:
        cell = numpy.asarray(cell)
        if cell.shape != (self.dim,) or ((cell < 0) | (cell >= self.size)).any() or self._number[tuple(cell)] < 0:
            raise ValueError(f"HyperMaze.reset: {name} must be a free cell of {self.dim} coordinates, got {cell}.")
        return cell


if ID not in gymnasium.registry:
    gymnasium.register(ID, HyperMaze, max_episode_steps=50)
