"""The measurement of MountainCar's single-state goals: its landmarks bound the true steps from below."""

import importlib
from pathlib import Path

import numpy
import pytest

for needed in ("gymnasium", "matplotlib", "scipy"):
    pytest.importorskip(needed, reason="the measurement needs qmkernels[agents]")

from qmkernels.demo.mountaincar import Dynamics, Grid  # noqa: E402
from qmkernels.demo.settings import Settings  # noqa: E402

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def goals(monkeypatch):
    if not BENCHMARKS.exists():
        pytest.skip("not run from a checkout: benchmarks is not there")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("measure_mountaincar_goals")


def test_landmarks_never_exceed_the_true_steps_and_are_exact_where_every_state_is_one(goals, monkeypatch) -> None:
    monkeypatch.setattr(goals, "FEWEST_STATES", 100)
    problem = goals.Problem(Grid(Dynamics.of_gymnasium(), 33), Settings(trajectories=900, **goals.QRL))
    near = problem.true < goals.UNREACHABLE
    assert near.sum() > 1000
    some = goals.steps_by_landmarks(problem)
    assert (some[near] <= problem.true[near]).all()
    assert (some[near] < problem.true[near]).any()
    monkeypatch.setattr(goals, "NUM_LANDMARKS", len(problem.visited))
    numpy.testing.assert_array_equal(goals.steps_by_landmarks(problem)[near], problem.true[near])
