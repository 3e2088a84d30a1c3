"""`qm.data.GoalWrapper`: goals for an environment without them, and training on it."""

from __future__ import annotations

import re
import sys

import numpy
import pytest
from training_runs import NoGoals, train

import qmkernels as qm

gymnasium = pytest.importorskip("gymnasium")


def test_steps_within_the_distance_succeed_and_the_seed_determines_the_goal():
    environment = qm.data.GoalWrapper(NoGoals(), 0.4)
    first, _ = environment.reset(seed=3)
    assert environment.observation_space.contains(first) and qm.data.has_goals(environment.observation_space)
    numpy.testing.assert_array_equal(environment.reset(seed=3)[0]["desired_goal"], first["desired_goal"])
    assert not numpy.array_equal(environment.reset()[0]["desired_goal"], first["desired_goal"])
    successes = set()
    for number in range(30):
        seen, _ = environment.reset(seed=number)
        seen, reward, *_, info = environment.step(numpy.zeros(2))
        distance = numpy.linalg.norm(seen["achieved_goal"] - seen["desired_goal"])
        assert info["is_success"] == (distance <= 0.4) and reward == (0.0 if info["is_success"] else -1.0)
        successes.add(info["is_success"])
    assert successes == {True, False}


def test_goals_may_be_a_function_of_observations_with_their_own_bounds_and_test_of_success():
    environment = qm.data.GoalWrapper(
        NoGoals(), lambda achieved, desired: achieved[0] > desired[0], goal_of=lambda seen: seen[:1], low=2.0, high=3.0
    )
    seen, _ = environment.reset(seed=0)
    assert seen["achieved_goal"] == seen["observation"][:1] and 2 <= seen["desired_goal"].item() <= 3
    assert not environment.step(numpy.zeros(2))[-1]["is_success"]
    environment.reset(seed=0, options={"desired_goal": [-2.0]})
    assert environment.step(numpy.zeros(2))[-1]["is_success"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: qm.data.GoalWrapper(NoGoals(), 0.1, goal_of=lambda seen: seen[:1]),
            "must be finite, got None and None",
        ),
        (lambda: qm.data.GoalWrapper(NoGoals(), -0.1), "at least 0 or a function, got -0.1"),
        (lambda: qm.data.GoalWrapper(gymnasium.make("CartPole-v1"), 0.1), "which must be finite"),
        (lambda: qm.data.GoalWrapper(gymnasium.make("Taxi-v4"), 0.1), "observations must be vectors, got Discrete"),
    ],
)
def test_errors_name_what_cannot_be_wrapped(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_example_in_the_error_trains(tmp_path, monkeypatch, capsys):
    assert train(tmp_path / "out", env="NoGoals-v0") == 2
    error = capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    lines = re.findall(r"^  (.+)$", error, re.MULTILINE)
    assert len(lines) == 2 and "max_episode_steps=12" in lines[1] and "--env my_env:Goals-v0:" in error
    (tmp_path / "my_env.py").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert train(tmp_path / "out", "--steps", "3", env="my_env:Goals-v0") == 0
    finally:
        gymnasium.registry.pop("Goals-v0", None)
        sys.modules.pop("my_env", None)
    assert (tmp_path / "out" / "metrics.json").exists()
    assert "%|" not in capsys.readouterr().err  # no bar: this is not a terminal
