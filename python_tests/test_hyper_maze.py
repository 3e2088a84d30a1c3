"""HyperMaze: a gymnasium environment with the moves, obstacles and shortest paths that the paper describes."""

from __future__ import annotations

from collections import deque

import numpy
import pytest

gymnasium = pytest.importorskip("gymnasium", reason="environments need qmkernels[agents]")
pytest.importorskip("scipy", reason="shortest ways need qmkernels[agents]")

from gymnasium.utils.env_checker import check_env  # noqa: E402

from qmkernels.train.environments import collect_dataset, make_environment  # noqa: E402
from qmkernels.train.hyper_maze import ID, HyperMaze  # noqa: E402

MAZES = [dict(dim=1, size=7, obstacles="none"), dict(dim=2), dict(dim=3, size=5), dict(dim=2, obstacles="random")]


def ways_from(maze: HyperMaze, start: tuple) -> dict[tuple, int]:
    """Returns the steps to every reachable cell, breadth first, by the environment's own steps."""
    steps, queue = {start: 0}, deque([start])
    while queue:
        cell = queue.popleft()
        for action in range(maze.action_space.n):
            maze.cell = numpy.array(cell)
            maze.step(action)
            reached = tuple(maze.cell.tolist())
            if reached not in steps:
                steps[reached] = steps[cell] + 1
                queue.append(reached)
    return steps


@pytest.mark.filterwarnings("ignore:.*not being compatible with.*")
@pytest.mark.parametrize("arguments", MAZES, ids=str)
def test_gymnasiums_checker_finds_nothing_wrong(arguments):
    check_env(gymnasium.make(ID, **arguments).unwrapped, skip_render_check=True)


@pytest.mark.parametrize("arguments", MAZES, ids=str)
def test_distances_are_the_fewest_steps_of_the_environment(arguments):
    maze = HyperMaze(**arguments)
    maze.reset(seed=0)
    distances, cells = maze.distances(), [tuple(cell) for cell in maze.free.tolist()]
    assert numpy.isfinite(distances).all() and (distances == distances.T).all()
    for number in (0, len(cells) // 2, len(cells) - 1):
        steps = ways_from(maze, cells[number])
        assert set(steps) == set(cells)
        assert distances[number].tolist() == [steps[cell] for cell in cells]


def test_without_obstacles_the_distance_is_the_largest_difference_of_coordinates():
    maze = HyperMaze(dim=3, size=4, obstacles="none")
    expected = numpy.abs(maze.free[:, None] - maze.free).max(axis=-1)
    assert len(maze.free) == 64 and (maze.distances() == expected).all()


def test_the_published_walls_leave_a_way_above_one_and_below_the_other():
    maze = HyperMaze(dim=2, size=10)
    blocked = {(x, y) for x in (2, 3) for y in range(8)} | {(x, y) for x in (6, 7) for y in range(2, 10)}
    assert {tuple(cell) for cell in maze.free.tolist()} == {(x, y) for x in range(10) for y in range(10)} - blocked
    numbers = {tuple(cell): number for number, cell in enumerate(maze.free.tolist())}
    assert maze.distances()[numbers[0, 0], numbers[9, 9]] > 9


def test_a_move_into_an_obstacle_or_out_of_the_grid_is_none_and_the_goal_ends_the_episode():
    maze = HyperMaze(dim=2, size=10)
    actions = {tuple(move): number for number, move in enumerate(maze.moves.tolist())}
    maze.reset(seed=0, options={"start": (1, 0), "goal": (0, 1)})
    for move in ((1, 0), (0, -1), (1, -1)):
        observation, reward, terminated, _, info = maze.step(actions[move])
        assert observation["observation"].tolist() == pytest.approx([0.1, 0.0])
        assert reward == 0 and not terminated and not info["success"]
    observation, reward, terminated, _, info = maze.step(actions[-1, 1])
    assert observation["achieved_goal"].tolist() == pytest.approx([0.0, 0.1])
    assert reward == 1 and terminated and info["success"]
    assert maze.compute_reward(observation["achieved_goal"], observation["desired_goal"]) == 1
    assert maze.compute_reward([[0.0, 0.0], [0.1, 0.0]], [[0.0, 0.1], [0.1, 0.0]]).tolist() == [0, 1]


def test_starts_and_goals_are_free_differ_and_depend_on_the_seed():
    maze, seen = HyperMaze(dim=2, obstacles="random", maze_seed=3), set()
    free = {tuple(cell) for cell in maze.free.tolist()}
    for seed in range(50):
        maze.reset(seed=seed)
        start, goal = tuple(maze.cell.tolist()), tuple(maze.goal.tolist())
        assert start != goal and {start, goal} <= free
        seen.add((start, goal))
    assert len(seen) > 40


def test_random_data_is_what_the_maze_does_after_its_actions():
    environment = make_environment(ID)
    data, maze = collect_dataset(environment, 200, 0, reversion=0.3, scale=0.7).arrays, environment.unwrapped
    cells = numpy.rint(data["observation"] * maze.size).astype(int)
    assert (maze.positions(maze.after(cells, data["action"])) == data["next_observation"]).all()
    assert len(data["reward"]) >= 200 and set(data["action"].tolist()) == set(range(9))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(dim=0), "dim must be at least 1 and size at least 2, got 0 and 10"),
        (dict(dim=1), "walls need dim of at least 2 and size of at least 5, got 1 and 10"),
        (dict(obstacles="some"), "obstacles must be walls, random or none, got some"),
    ],
)
def test_an_impossible_maze_is_named(arguments, message):
    with pytest.raises(ValueError, match=f"HyperMaze: {message}"):
        HyperMaze(**arguments)


@pytest.mark.parametrize("cell", [(2, 0), (10, 0), (-1, 0), (1,)])
def test_a_start_that_is_not_free_is_named(cell):
    with pytest.raises(ValueError, match="HyperMaze.reset: start must be a free cell of 2 coordinates"):
        HyperMaze().reset(options={"start": cell})
