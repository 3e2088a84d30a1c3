"""Training's use of environments: seeds, repeated actions, the ends of a maze."""

from __future__ import annotations

import numpy
import pytest
from training_runs import Walk

from qmkernels.train import mazes
from qmkernels.train.environments import ActionRepeat, episode_seed

gymnasium = pytest.importorskip("gymnasium", reason="environments need qmkernels[agents]")


def test_episodes_depend_on_their_number_alone_and_no_two_share_a_seed():
    seeds = [episode_seed(seed, purpose, number) for seed in (0, 1) for purpose in (1, 2) for number in range(50)]
    assert len(set(seeds)) == len(seeds)


def test_a_repeated_action_adds_rewards_and_remembers_success():
    environment = ActionRepeat(Walk(), 5)
    environment.reset(seed=0)
    environment.unwrapped.here, environment.unwrapped.goal = numpy.array([-1.0, 0.0]), numpy.array([0.05, 0.0])
    _, reward, _, truncated, info = environment.step(numpy.array([1.0, 0.0]))
    assert reward == 2 and info["success"] and not info["is_success"] and not truncated


class Inner:
    maze_map = [[1, 1, 1, 1, 1], [1, 0, 0, 0, 1], [1, 1, 1, 0, 1], [1, "r", 0, "g", 1], [1, 1, 1, 1, 1]]


class RoboticsMaze(Inner):
    def cell_rowcol_to_xy(self, cell):
        return numpy.array([(cell[1] + 0.5) * 2 - 5, 5 - (cell[0] + 0.5) * 2])


class Robotics(gymnasium.Env):
    maze = RoboticsMaze()


class OGBench(Inner, gymnasium.Env):
    def ij_to_xy(self, cell):
        return cell[1] * 4 - 4, cell[0] * 4 - 4


@pytest.mark.parametrize("environment", [Robotics, OGBench])
def test_the_ends_of_a_maze_are_the_cells_furthest_apart(environment):
    maze = mazes.maze_of(environment())
    assert set(mazes.opposite_ends(maze)) == {(1, 1), (3, 1)}
    there, back = (mazes.end_to_end_options(maze, number) for number in (0, 1))
    assert there["reset_cell"].tolist() == back["goal_cell"].tolist() != there["goal_cell"].tolist()
    assert mazes.maze_of(gymnasium.Env()) is None


@pytest.mark.parametrize(
    "environment, corner", [(Robotics, [-5 + 1 / 3, 5 - 1 / 3]), (OGBench, [-4 - 4 / 3, -4 - 4 / 3])]
)
def test_positions_in_a_maze_are_free_where_its_cells_are(environment, corner):
    maze = mazes.maze_of(environment())
    positions, is_free = mazes.position_grid(maze, per_cell=3)
    assert positions.shape == (15, 15, 2) and is_free.sum() == 7 * 9
    numpy.testing.assert_allclose(positions[4, 4], maze.centre((1, 1)))
    assert is_free[4, 10] and not is_free[7, 4] and positions[0, 0].tolist() == pytest.approx(corner)
