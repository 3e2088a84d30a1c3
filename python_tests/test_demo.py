"""The demo: its MountainCar equals gymnasium's, its V* is the fewest steps, and its command writes both files."""

import json
import sys

import numpy
import pytest
import torch

from qmkernels.demo import INTERRUPTED, NEEDED, run

for needed in NEEDED:
    pytest.importorskip(needed, reason="the demo needs qmkernels[agents]")

import gymnasium  # noqa: E402

from qmkernels.demo import train as training  # noqa: E402
from qmkernels.demo.correlation import pearson, spearman  # noqa: E402
from qmkernels.demo.mountaincar import NUM_ACTIONS, Dynamics, Grid, random_actor_transitions  # noqa: E402

KEYS = {
    *("steps", "seconds", "ms_per_step", "ms_per_step_reference", "head_share", "spearman_flag", "pearson_flag"),
    *("backend", "backend_used", "seed", "interrupted", "threads", "versions", "settings", "curve"),
}
MEASURED_TIMES = ("ms_per_step", "ms_per_step_reference", "head_ms", "head_ms_reference", "head_share")
# Small enough for a test: the claims do not depend on the sizes.
SMALL = ["--hidden-size", "24", "--latent-size", "8", "--embedding-size", "32", "--batch-size", "33"]


def dynamics() -> Dynamics:
    return Dynamics.of_gymnasium()


def run_in(folder, *arguments: str) -> tuple[int, dict]:
    status = run([*SMALL, "--out", str(folder), *arguments])
    assert (folder / "mountaincar.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in folder.iterdir()} == {"mountaincar.png", "metrics.json"}
    return status, json.loads((folder / "metrics.json").read_text())


@pytest.mark.parametrize("where", ["anywhere", "at the left wall", "at the right end", "at full speed"])
def test_a_step_is_gymnasiums(where: str) -> None:
    generator = numpy.random.default_rng(0)
    car = gymnasium.make("MountainCar-v0").unwrapped
    car.reset(seed=0)
    position = generator.uniform(-1.2, 0.6, 301)
    velocity = generator.uniform(-0.07, 0.07, 301)
    if where == "at the left wall":
        position = generator.uniform(-1.2, -1.19, 301)
    elif where == "at the right end":
        position = generator.uniform(0.55, 0.6, 301)
    elif where == "at full speed":
        velocity = numpy.where(velocity < 0, -0.07, 0.07)
    action = generator.integers(NUM_ACTIONS, size=301)
    expected = []
    for state in zip(position, velocity, action, strict=True):
        car.state = state[:2]
        car.step(int(state[2]))
        expected.append(car.state)
    actual = numpy.stack(dynamics().step(position, velocity, action), axis=-1)
    numpy.testing.assert_allclose(actual, numpy.array(expected), rtol=0, atol=1e-6)


def test_a_grid_point_steps_to_the_nearest_grid_point() -> None:
    grid = Grid(dynamics(), size=33)
    position, velocity = (
        values.reshape(-1, 1) for values in numpy.meshgrid(grid.positions, grid.velocities, indexing="ij")
    )
    after = numpy.stack(grid.dynamics.step(position, velocity, numpy.arange(NUM_ACTIONS)), axis=-1)
    spacing = numpy.array([grid.positions[1] - grid.positions[0], grid.velocities[1] - grid.velocities[0]])
    snapped = numpy.stack([grid.positions[grid.next_states // 33], grid.velocities[grid.next_states % 33]], axis=-1)
    assert (numpy.abs(snapped - after) <= spacing / 2 + 1e-12).all()


@pytest.mark.parametrize("size", [20, 41])
def test_true_steps_are_those_of_value_iteration(size: int) -> None:
    grid = Grid(dynamics(), size)
    steps = numpy.where(grid.at_flag, 0.0, numpy.inf)
    while True:
        better = numpy.minimum(steps, 1 + steps[grid.next_states].min(axis=1))
        if numpy.array_equal(better, steps):
            break
        steps = better
    assert numpy.isfinite(steps).sum() > grid.at_flag.sum()
    numpy.testing.assert_array_equal(grid.steps_to_flag, steps)


def test_the_greedy_actor_takes_the_true_steps_on_the_full_grid() -> None:
    grid = Grid(dynamics())
    assert grid.at_flag.sum() == 1440
    state = numpy.random.default_rng(0).integers(grid.num_states, size=507)
    promised = grid.steps_to_flag[state]
    assert numpy.isfinite(promised).all()
    taken = numpy.zeros(507)
    for _ in range(int(promised.max())):
        moving = ~grid.at_flag[state]
        choices = grid.next_states[state]
        best = numpy.take_along_axis(choices, grid.steps_to_flag[choices].argmin(axis=1)[:, None], axis=1)[:, 0]
        state = numpy.where(moving, best, state)
        taken += moving
    assert grid.at_flag[state].all()
    numpy.testing.assert_array_equal(taken, promised)


def test_transitions_follow_the_grid_and_stop_at_the_flag() -> None:
    grid = Grid(dynamics(), size=41)
    sources, targets = random_actor_transitions(grid, 123, 33, numpy.random.default_rng(0))
    assert (grid.next_states[sources] == targets[:, None]).any(axis=1).all()
    assert not grid.at_flag[sources].any()
    assert grid.at_flag[targets].any()


def test_correlations_are_scipys() -> None:
    from scipy import stats

    generator = numpy.random.default_rng(0)
    first, second = generator.integers(9, size=123).astype(float), generator.normal(size=123)
    assert spearman(first, second) == pytest.approx(stats.spearmanr(first, second).statistic)
    assert pearson(first, second) == pytest.approx(stats.pearsonr(first, second).statistic)
    assert numpy.isnan(spearman(first, numpy.zeros(123)))


def test_the_loss_is_its_formula_and_the_multiplier_rises_where_steps_are_too_long() -> None:
    settings = training.Settings()
    raw = torch.tensor(0.3, requires_grad=True)
    local = torch.tensor([3.0, 0.5, 1.0], requires_grad=True)
    pushed = torch.tensor([10.0, 200.0], requires_grad=True)
    losses = training.critic_loss(training.Distances(local, pushed), torch.tensor([1.0, 1.0, 0.0]), raw, settings)
    push = torch.log1p(torch.exp(settings.softplus_beta * (settings.softplus_offset - pushed.detach().double())))
    push = (push / settings.softplus_beta).mean()
    multiplier = torch.log1p(torch.exp(torch.tensor(0.3)))
    torch.testing.assert_close(losses.push.double(), push, rtol=1e-6, atol=0)
    assert losses.squared_violation.item() == pytest.approx((2**2 + 0 + 1**2) / 3)
    expected = push.item() + multiplier.item() * (5 / 3 - settings.epsilon**2)
    assert losses.loss.item() == pytest.approx(expected, rel=1e-6)
    losses.loss.backward()
    assert (pushed.grad < 0).all() and local.grad[1] == 0
    # Gradient ascent, because the optimiser's group for the multiplier has maximize=True.
    assert raw.grad > 0


def test_one_step_raises_the_multiplier_where_the_constraint_is_broken() -> None:
    settings = training.Settings(steps=100, hidden_size=24, latent_size=8, embedding_size=32, batch_size=33)
    data = training.Data(Grid(dynamics(), size=41), settings, torch.device("cpu"))
    learner = training.Learner(data, settings)
    with torch.no_grad():
        learner.critic.projector[-1].weight.mul_(1e3)
    before = learner.raw_multiplier.item()
    losses = learner.step(data.draw(torch.Generator().manual_seed(0)))
    assert losses.squared_violation > settings.epsilon**2
    assert learner.raw_multiplier.item() == pytest.approx(before + settings.multiplier_learning_rate, rel=1e-4)


def test_a_short_run_writes_both_files_with_all_keys(tmp_path, capsys) -> None:
    status, metrics = run_in(tmp_path, "--steps", "30")
    assert status == 0
    assert KEYS <= metrics.keys()
    assert metrics["steps"] == 30 and metrics["seed"] == 0 and not metrics["interrupted"]
    assert metrics["backend"] == "auto" and metrics["backend_used"] != "auto"
    assert all(metrics[name] > 0 for name in MEASURED_TIMES)
    assert -1 <= metrics["spearman_flag"] <= 1
    assert "Spearman" in capsys.readouterr().out


@pytest.mark.parametrize("steps", [0, 1])
def test_hardly_any_steps_still_write_both_files(tmp_path, steps: int) -> None:
    status, metrics = run_in(tmp_path, "--steps", str(steps))
    assert status == 0
    assert KEYS <= metrics.keys() and metrics["steps"] == steps
    assert (metrics["ms_per_step"] is None) == (steps == 0)


def test_the_backend_asked_for_is_the_one_that_runs(tmp_path) -> None:
    _, metrics = run_in(tmp_path, "--steps", "2", "--backend", "reference")
    assert metrics["backend"] == metrics["backend_used"] == "reference"


def test_the_same_seed_gives_the_same_metrics_and_another_seed_others(tmp_path) -> None:
    learned = [
        run_in(tmp_path / name, "--steps", "12", "--seed", seed)[1]["spearman_flag"]
        for name, seed in [("first", "3"), ("again", "3"), ("other", "4")]
    ]
    assert learned[0] == learned[1] != learned[2]


def test_the_backends_learn_the_same(tmp_path) -> None:
    auto, reference = (
        run_in(tmp_path / name, "--steps", "6", "--backend", name)[1]["spearman_flag"] for name in ("auto", "reference")
    )
    # Six steps of Adam from the same start: it amplifies rounding differences, and ranks jump.
    assert auto == pytest.approx(reference, abs=1e-2)


def test_an_interrupt_keeps_what_was_learned_and_writes_both_files(tmp_path, monkeypatch, capsys) -> None:
    draw, drawn = training.Data.draw, []

    def interrupted_draw(data, generator):
        drawn.append(1)
        # Not at a multiple of the steps, because timing draws its own batches.
        if len(drawn) == 20:
            raise KeyboardInterrupt
        return draw(data, generator)

    monkeypatch.setattr(training.Data, "draw", interrupted_draw)
    status, metrics = run_in(tmp_path, "--steps", "400")
    assert status == INTERRUPTED
    assert metrics["interrupted"] and 0 < metrics["steps"] < 20
    assert metrics["spearman_flag"] is not None
    assert f"Interrupted after {metrics['steps']} steps" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "-1"], "steps must be at least 0, got -1"),
        (["--seed", "-1"], "seed must be at least 0, got -1"),
        (["--steps", "many"], "--steps"),
        (["--backend", "nosuch"], "backend must be 'auto' or one of cuda, triton, cpu, reference, got 'nosuch'"),
        (["--embedding-size", "33"], "embedding_size must be a multiple of dim_per_component, got 33 and 16"),
        (["--abstract-goal-share", "1.5"], "abstract_goal_share must be from 0 to 1, got 1.5"),
        (["--nosuch", "1"], "nosuch"),
    ],
)
def test_a_wrong_argument_is_one_message_and_status_2(arguments, message, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU runs the backend cuda")
def test_a_backend_that_cannot_run_here_says_why(tmp_path, capsys) -> None:
    assert run(["--steps", "1", "--out", str(tmp_path), "--backend", "cuda"]) == 2
    assert "backend 'cuda' cannot run here" in capsys.readouterr().err


def test_an_out_that_is_a_file_is_refused_before_training(tmp_path, capsys) -> None:
    (tmp_path / "file").write_text("kept")
    assert run(["--out", str(tmp_path / "file")]) == 2
    assert "--out must be a folder" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("name", NEEDED)
def test_a_missing_extra_is_one_sentence(name: str, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    assert run(["--steps", "1"]) == 1
    assert capsys.readouterr().err == f'qmkernels demo needs {name}: pip install "qmkernels[agents]"\n'
