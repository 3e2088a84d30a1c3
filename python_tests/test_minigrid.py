"""MiniGrid's grids as environments with goals, and a small training run in each."""

from __future__ import annotations

import copy
from collections import deque

import numpy
import pytest

pytest.importorskip("minigrid", reason="grids need qmkernels[minigrid]")

from training_runs import assert_same, checkpoint_of, killed_at, train  # noqa: E402

from qmkernels.train import environments  # noqa: E402
from qmkernels.train.environments import collect_dataset, make_environment  # noqa: E402

EMPTY, DOOR = "MiniGrid-Empty-8x8-v0", "MiniGrid-DoorKey-5x5-v0"


def shortest_way(environment) -> list[tuple[dict, bool]]:
    """Returns the observations on a shortest way from a reset to the goal, with success, by breadth-first search."""
    begun = environment.reset(seed=1)[0]
    seen, queue = {begun["observation"].tobytes()}, deque([(environment, [(begun, False)])])
    while queue:
        here, passed = queue.popleft()
        for action in range(environment.action_space.n):
            there = copy.deepcopy(here)
            observation, reward, terminated, _, info = there.step(action)
            assert info["success"] == terminated == (reward > 0)
            if terminated:
                return [*passed, (observation, True)]
            if observation["observation"].tobytes() not in seen:
                seen.add(observation["observation"].tobytes())
                queue.append((there, [*passed, (observation, False)]))
    raise AssertionError("the goal cannot be reached")


def test_the_desired_goal_is_achieved_only_at_the_end_of_the_way_through_the_door():
    way = shortest_way(make_environment(DOOR))
    reached = [numpy.array_equal(seen["achieved_goal"], seen["desired_goal"]) for seen, _ in way]
    assert reached == [success for _, success in way] and sum(reached) == 1
    states = numpy.stack([seen["observation"] for seen, _ in way])
    assert (states == [seen["achieved_goal"] for seen, _ in way]).all()
    has_key, is_open, is_locked = (states[:, 2:4] == -1).all(axis=1), states[:, 6], states[:, 7]
    assert (is_open == 1 - is_locked).all() and not has_key[0] and not is_open[0]
    assert 0 < has_key.argmax() < is_open.argmax() < len(way) - 1
    # A step moves by one cell, or picks up the key, or opens the door.
    moved = numpy.abs(numpy.diff(states[:, :2], axis=0)).sum(axis=1)
    assert (moved + numpy.diff(has_key.astype(int)) + numpy.diff(is_open) == 1).all()


@pytest.mark.parametrize("name", [EMPTY, DOOR])
def test_goals_are_free_cells_of_their_room_and_depend_on_the_seed(name):
    environment, seen = make_environment(name), {}
    for seed in range(200):
        observation, _ = environment.reset(seed=seed)
        assert environment.observation_space.contains(observation)
        again, _ = environment.reset(seed=seed)
        assert all((observation[key] == again[key]).all() for key in observation)
        cell = tuple(map(int, observation["desired_goal"][:2]))
        assert environment.unwrapped.grid.get(*cell).type == "goal"
        seen[cell] = [each.type for each in environment.unwrapped.grid.grid if each].count("goal")
    expected = {(x, y) for x in range(1, 7) for y in range(1, 7)} - {(1, 1)}
    assert seen == dict.fromkeys(expected if name == EMPTY else {(3, 1), (3, 2), (3, 3)}, 1)


def test_random_data_moves_one_cell_per_action_and_ends_in_the_goals_cell():
    data = collect_dataset(make_environment(EMPTY), 500, 0, reversion=0.3, scale=0.7).arrays
    move = data["next_observation"] - data["observation"]
    along = numpy.array([(1, 0), (0, 1), (-1, 0), (0, -1)])[data["action"]]
    is_moved = (move == along).all(axis=1)
    assert (move[~is_moved] == 0).all() and (data["next_observation"] >= 1).all() and (move.sum(axis=0) != 0).any()
    assert {0, 1, 2, 3} == set(data["action"][is_moved].tolist())
    assert (data["reward"] > 0).tolist() == data["terminated"].tolist() and data["terminated"].any()


def test_a_killed_run_in_a_grid_resumes_bit_for_bit(tmp_path):
    arguments = ["--steps", "12", "--evaluation-episodes", "1"]
    assert train(tmp_path / "whole", *arguments, env=DOOR, method="metric_rl") == 0
    with killed_at(10, "metric_rl"):
        train(tmp_path / "killed", *arguments, env=DOOR, method="metric_rl")
    assert train(tmp_path / "killed", *arguments, env=DOOR, method="metric_rl") == 0
    assert_same(checkpoint_of(tmp_path / "whole"), checkpoint_of(tmp_path / "killed"))


def test_unsupported_grids_and_a_missing_package_are_named(monkeypatch):
    with pytest.raises(ValueError, match="MiniGrid-FourRooms-v0: of MiniGrid's environments, .* it is neither"):
        make_environment("MiniGrid-FourRooms-v0")
    monkeypatch.setattr(environments, "_register", lambda module: module != "minigrid")
    with pytest.raises(ValueError, match=r'minigrid is not installed: pip install "qmkernels\[minigrid\]"'):
        make_environment("MiniGrid-NoSuch-v0")
