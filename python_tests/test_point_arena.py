"""PointArena: OGBench's arena with a point, whose episodes depend only on their seed."""

from __future__ import annotations

import sys

import numpy
import pytest

gymnasium = pytest.importorskip("gymnasium", reason="environments need qmkernels[agents]")

from qmkernels.train.environments import make_environment  # noqa: E402
from qmkernels.train.point_arena import ID  # noqa: E402


def test_without_ogbench_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ogbench.locomaze.maze", None)
    with pytest.raises(ValueError, match=rf'--env {ID}: PointArena needs ogbench: pip install "qmkernels\[robotics\]"'):
        make_environment(ID)


@pytest.fixture(scope="module")
def arena():
    pytest.importorskip("ogbench", reason="PointArena needs qmkernels[robotics]")
    return make_environment(ID)


def steps_of(arena, seed: int, actions: numpy.ndarray, **options) -> numpy.ndarray:
    observation, _ = arena.reset(seed=seed, options=options)
    observations = [observation]
    for action in actions:
        observations.append(arena.step(action)[0])
    return numpy.stack([numpy.concatenate(list(observation_parts.values())) for observation_parts in observations])


def test_episodes_depend_on_their_seed_and_not_on_numpys_global_generator(arena):
    actions = numpy.random.default_rng(0).uniform(-1, 1, (30, 2))
    numpy.random.seed(1)
    first, second = steps_of(arena, 7, actions), steps_of(arena, 8, actions)
    numpy.random.seed(2)
    assert numpy.array_equal(steps_of(arena, 7, actions), first) and not numpy.array_equal(first, second)


def test_starts_are_in_the_first_corner_and_goals_anywhere(arena):
    resets = numpy.stack([steps_of(arena, seed, numpy.zeros((0, 2)))[0] for seed in range(200)])
    start, achieved, goal = resets[:, :2], resets[:, 2:4], resets[:, 4:]
    assert numpy.array_equal(start, achieved)
    assert (numpy.abs(start) <= 1).all() and start.std(axis=0).min() > 0.5
    assert (goal >= -1).all() and (goal <= 21).all() and (numpy.ptp(goal, axis=0) > 20).all()


def test_actions_move_the_point_until_walls_hold_it(arena):
    path = steps_of(arena, 0, numpy.tile([1.0, -0.5], (10, 1)), start=(10.0, 10.0))
    numpy.testing.assert_allclose(path[-1, :2], [12.0, 9.0], atol=0.05)
    path = steps_of(arena, 0, numpy.tile([1.0, 0.0], (100, 1)), start=(10.0, 10.0))
    assert 21 < path[-1, 0] < 22 and abs(path[-1, 1] - 10) < 0.1


def test_success_is_within_one_of_the_goal_and_episodes_go_on_to_their_hundredth_step(arena):
    arena.reset(seed=0, options={"start": (5.0, 5.0), "goal": (6.5, 5.0)})
    for count in range(1, 101):
        observation, reward, terminated, truncated, info = arena.step(numpy.array([1.0, 0.0]))
        apart = numpy.linalg.norm(observation["achieved_goal"] - observation["desired_goal"])
        assert info["success"] == (reward == 1) == (apart <= 1) and not terminated and truncated == (count == 100)
        rewarded = arena.unwrapped.compute_reward(observation["achieved_goal"][None], observation["desired_goal"][None])
        assert rewarded.tolist() == [reward]
