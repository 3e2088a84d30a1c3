"""The measurement of MountainCar's single-state goals: its landmarks bound the true steps from below."""

import importlib
from pathlib import Path

import numpy
import pytest
import torch

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


def test_the_closure_of_the_data_is_never_below_the_true_steps(goals, monkeypatch) -> None:
    monkeypatch.setattr(goals, "FEWEST_STATES", 100)
    problem = goals.Problem(Grid(Dynamics.of_gymnasium(), 33), Settings(trajectories=900, **goals.QRL))
    data = goals.ClosureData(problem, problem.settings)
    true = goals.steps_to(data._goals.numpy(), *problem.every_step, problem.grid.num_states)
    known = numpy.isfinite(data._steps.numpy())
    assert (data._steps.numpy()[known] >= true[known]).all()
    assert (data._steps.numpy()[known] > 1).mean() > 0.5
    batch = data.draw(torch.Generator().manual_seed(0))
    assert batch.x.shape == batch.y.shape == batch.goal.shape == (problem.settings.batch_size, data.inputs.shape[1])
    assert batch.cost.isfinite().all()
