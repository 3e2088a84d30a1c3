"""MountainCar on a grid: gymnasium's dynamics over arrays, the true steps to the flag, and random-actor data.

Position in gymnasium's units of track length (-1.2 to 0.6), velocity in position per step (-0.07 to 0.07), one step
costs 1. The flag set is every state at or past the flag's position; a car that arrives there from the left always has
a positive velocity, so the steps to it are those of gymnasium's own rule (position >= 0.5 and velocity >= 0).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy
from numpy.typing import NDArray

FloatArray = NDArray[numpy.float64]
IntArray = NDArray[numpy.int64]

NUM_ACTIONS = 3


@dataclass(frozen=True)
class Dynamics:
    """The constants of one step, in the units above."""

    min_position: float
    max_position: float
    max_speed: float
    flag_position: float
    force: float
    gravity: float

    @classmethod
    def of_gymnasium(cls) -> Dynamics:
        """The constants of gymnasium's MountainCar-v0."""
        import gymnasium

        car = gymnasium.make("MountainCar-v0").unwrapped
        return cls(
            min_position=car.min_position,
            max_position=car.max_position,
            max_speed=car.max_speed,
            flag_position=car.goal_position,
            force=car.force,
            gravity=car.gravity,
        )

    def step(self, position: FloatArray, velocity: FloatArray, action: IntArray) -> tuple[FloatArray, FloatArray]:
        """Position and velocity one step later; the arguments broadcast.

        Actions: 0 pushes left, 1 not at all, 2 right. Source: `MountainCarEnv.step` of gymnasium, in float64.
        """
        velocity = velocity + (action - 1) * self.force - numpy.cos(3 * position) * self.gravity
        velocity = numpy.clip(velocity, -self.max_speed, self.max_speed)
        position = numpy.clip(position + velocity, self.min_position, self.max_position)
        hits_wall = (position == self.min_position) & (velocity < 0)
        return position, numpy.where(hits_wall, 0.0, velocity)


@dataclass(frozen=True)
class Grid:
    """The dynamics between the points of a ``size`` x ``size`` grid of position and velocity.

    A step goes from a grid point to the point nearest to where the dynamics lead. State ``p * size + v`` has the p-th
    position and the v-th velocity, both counted from the lowest. Source: the 160 x 160 grid of Wang et al. 2023
    (arXiv 2304.01203), section 5.
    """

    dynamics: Dynamics
    size: int = 160

    @cached_property
    def positions(self) -> FloatArray:
        """The grid's positions, (size,)."""
        return numpy.linspace(self.dynamics.min_position, self.dynamics.max_position, self.size)

    @cached_property
    def velocities(self) -> FloatArray:
        """The grid's velocities in position per step, (size,)."""
        return numpy.linspace(-self.dynamics.max_speed, self.dynamics.max_speed, self.size)

    @property
    def num_states(self) -> int:
        return self.size * self.size

    @cached_property
    def coordinates(self) -> FloatArray:
        """Position and velocity of every state, both scaled to -1..1: (num_states, 2)."""
        scale = numpy.linspace(-1.0, 1.0, self.size)
        return numpy.stack(numpy.meshgrid(scale, scale, indexing="ij"), axis=-1).reshape(-1, 2)

    @cached_property
    def next_states(self) -> IntArray:
        """The state one step after every state under every action: (num_states, 3)."""
        position, velocity = numpy.meshgrid(self.positions, self.velocities, indexing="ij")
        position, velocity = self.dynamics.step(
            position.reshape(-1, 1), velocity.reshape(-1, 1), numpy.arange(NUM_ACTIONS)
        )
        return self._nearest(position, self.positions) * self.size + self._nearest(velocity, self.velocities)

    @cached_property
    def at_flag(self) -> NDArray[numpy.bool_]:
        """Which states are in the flag set: (num_states,)."""
        return numpy.repeat(self.positions >= self.dynamics.flag_position, self.size)

    @cached_property
    def steps_to_flag(self) -> FloatArray:
        """V*: the fewest steps from every state into the flag set, (num_states,); infinite where no way leads there."""
        from scipy.sparse import csr_array
        from scipy.sparse.csgraph import dijkstra

        sources = numpy.repeat(numpy.arange(self.num_states), NUM_ACTIONS)
        targets = self.next_states.reshape(-1)
        # Reversed edges: one search from the whole set reaches every state backwards.
        backwards = csr_array((numpy.ones(len(sources)), (targets, sources)), shape=(self.num_states,) * 2)
        return dijkstra(backwards, indices=numpy.flatnonzero(self.at_flag), unweighted=True, min_only=True)

    @staticmethod
    def _nearest(value: FloatArray, points: FloatArray) -> IntArray:
        spacing = points[1] - points[0]
        return numpy.rint((value - points[0]) / spacing).astype(numpy.int64)


def random_actor_transitions(
    grid: Grid, num_trajectories: int, trajectory_length: int, generator: numpy.random.Generator
) -> tuple[IntArray, IntArray]:
    """Transitions (states, next states), each (n,), of an actor that takes uniformly random actions.

    Trajectories start at uniformly random states and last ``trajectory_length`` steps, or until they reach the flag
    set: from the valley alone a random actor hardly ever sees a fast state.
    """
    state = generator.integers(grid.num_states, size=num_trajectories)
    sources, targets = [], []
    for _ in range(trajectory_length):
        state = state[~grid.at_flag[state]]
        following = grid.next_states[state, generator.integers(NUM_ACTIONS, size=len(state))]
        sources.append(state)
        targets.append(following)
        state = following
    return numpy.concatenate(sources), numpy.concatenate(targets)
