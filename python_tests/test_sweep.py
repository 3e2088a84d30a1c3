"""The command `qmkernels sweep`: a table of runs, what is left of it, its end, and the aggregate."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy
import pytest
from training_runs import AGENTS, ENVIRONMENT_OF_PROCESSES, SMALL

from qmkernels import cli
from qmkernels.train import aggregate, sweep

scipy_stats = pytest.importorskip("scipy.stats", reason="the reference of the interquartile mean")
WALK, BROKEN = "training_runs:Walk-v0", "training_runs:Broken-error-v0"


def command(out, *arguments, options=("--steps", "20")):
    return ["sweep", "--out", str(out), "--methods", "gcbc", *arguments, "--", *SMALL, *AGENTS["gcbc"], *options]


def finished(run, **measures):
    """Writes the metrics of a finished run; ``measures``: a value for each of two evaluations."""
    curve = [{"step": step, **{name: values[i] for name, values in measures.items()}} for i, step in enumerate((0, 20))]
    settings = run.settings.plain() | {"out": "elsewhere", "threads": 3}
    metrics = {"step": 20, "settings": json.loads(json.dumps(settings)), "curve": curve, "final": curve[-1]}
    run.out.mkdir(parents=True)
    (run.out / "metrics.json").write_text(json.dumps(metrics))


def table_of(out, *methods, envs=(WALK,), seeds=(0, 1, 2)):
    settings = sweep.SweepSettings(methods=methods, envs=envs, seeds=seeds, out=out)
    return sweep.table(settings, [*SMALL, *AGENTS["gcbc"], "--steps", "20"])


def rows_of(path):
    with open(path) as file:
        return list(csv.DictReader(file))


def test_runs_are_trained_what_is_finished_is_left_out_and_failures_are_told(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(os, "environ", dict(ENVIRONMENT_OF_PROCESSES))
    arguments = command(tmp_path, "--envs", WALK, BROKEN, "--seeds", "3", "--jobs", "2")
    assert cli.main(arguments) == 1
    said = capfd.readouterr()
    log = next((tmp_path / "gcbc").glob("*Broken*/seed_3/log.txt"))
    assert (
        f"FAILED with status 1: gcbc {BROKEN} seed 3: RuntimeError: the simulator has lost its way ({log})" in said.err
    )
    (done,) = (tmp_path / "gcbc").glob("*Walk*/seed_3/metrics.json")
    metrics = json.loads(done.read_text())
    rows = rows_of(tmp_path / "sweep.csv")
    assert [(row["method"], row["env"], int(row["step"])) for row in rows] == [("gcbc", WALK, n) for n in (0, 10, 20)]
    for row, entry in zip(rows, metrics["curve"], strict=True):
        assert float(row["iqm"]) == float(row["low"]) == float(row["high"]) == entry["success"] and row["runs"] == "1"
    assert (tmp_path / "sweep.png").stat().st_size > 10_000

    started = []
    monkeypatch.setattr(sweep, "run_all", lambda runs, jobs: started.extend(runs) or [])
    assert cli.main(arguments) == 0
    assert [run.env for run in started] == [BROKEN]
    # More steps, or other settings, are left to the training command: it resumes, or refuses.
    for options in (["--steps", "30"], ["--steps", "20", "--batch-size", "16"]):
        started.clear()
        assert cli.main(command(tmp_path, "--envs", WALK, "--seeds", "3", options=options)) == 0
        assert len(started) == 1


def test_the_slurm_script_has_a_task_for_each_run_that_is_not_finished(tmp_path, capsys):
    first, *others = table_of(tmp_path / "a folder", "gcbc")
    finished(first, success=(0.0, 1.0))
    assert cli.main(command(tmp_path / "a folder", "--envs", WALK, "--slurm", "--jobs", "8")) == 0
    script = capsys.readouterr().out
    assert "#SBATCH --array=0-1%8\n" in script
    for number, run in enumerate(others):
        told = subprocess.run(
            ["bash", "-c", script.replace("exec qmkernels", "printf '%s\\n'")], capture_output=True, text=True,
            env={**os.environ, "SLURM_ARRAY_TASK_ID": str(number)}, check=True,
        )  # fmt: skip
        assert told.stdout.splitlines() == ["train", *run.arguments]
    for run in others:
        finished(run, success=(0.0, 1.0))
    assert cli.main(command(tmp_path / "a folder", "--envs", WALK, "--slurm")) == 0
    assert "All runs are finished" in capsys.readouterr().out


STUBBORN = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path(sys.argv[-1]).write_text("asked"), sys.exit(130)))
pathlib.Path(sys.argv[-1]).write_text("started")
time.sleep(100)
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_termination_end_the_runs(tmp_path, monkeypatch, sent):
    files = [tmp_path / "0", tmp_path / "1"]
    processes = []

    class Sleeping:
        def __init__(self, path):
            self.out = path

        def start(self):
            processes.append(subprocess.Popen([sys.executable, "-c", STUBBORN, str(self.out)], start_new_session=True))
            return processes[-1]

    def interrupt():
        latest = time.monotonic() + 60
        while not all(path.exists() for path in files) and time.monotonic() < latest:
            time.sleep(0.02)
        os.kill(os.getpid(), sent)

    # A shell has commands in its background ignore Ctrl-C, and so this process may.
    before = signal.signal(signal.SIGINT, signal.default_int_handler if sent == signal.SIGINT else signal.SIG_IGN)
    threading.Thread(target=interrupt).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            sweep.run_all([Sleeping(path) for path in (*files, tmp_path / "2")], jobs=2)
    finally:
        signal.signal(signal.SIGINT, before)
    assert [process.returncode for process in processes] == [130, 130]
    assert [path.read_text() for path in files] == ["asked", "asked"] and not (tmp_path / "2").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--methods", "gcbd", "--envs", WALK], "no method 'gcbd'. Did you mean gcbc? Methods: "),
        (["--methods", "gcbc"], "--envs is missing: name at least one."),
        (["--methods", "gcbc", "--envs", WALK, "--seeds", "1", "1"], "--seeds must name each once, got 1 1."),
        (["--methods", "gcbc", "--envs", WALK, "--jobs", "0"], "--jobs must be at least 1, got 0."),
        (
            ["--methods", "gcbc", "--envs", WALK, "--", "--seed", "5"],
            "are the sweep's own: leave them out of --seed 5.",
        ),
        (["--methods", "gcbc --stpes 3", "--envs", WALK], "Did you mean --steps? See qmkernels train gcbc --help."),
        (["--methods", "gcbc", "--envs", WALK, "--job", "2"], "Did you mean --jobs? See qmkernels sweep --help."),
    ],
)
def test_what_is_wrong_is_one_message_before_anything_runs(tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["sweep", *arguments]) == 2
    found = capsys.readouterr().err
    assert said in found and found.startswith("qmkernels sweep: ") and found.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("count", [1, 3, 4, 7, 33])
def test_the_interquartile_mean_is_the_mean_without_both_quarters(count):
    values = numpy.random.default_rng(count).normal(size=(5, count))
    expected = scipy_stats.trim_mean(values, 0.25, axis=-1)
    numpy.testing.assert_allclose(aggregate.interquartile_mean(values), expected)


def test_intervals_are_drawn_within_each_stratum():
    generator = numpy.random.default_rng(0)
    assert aggregate.interval([numpy.full(5, 0.2), numpy.full(5, 0.8)]) == (0.5, 0.5)  # drawn anew over all: wider
    # Of a mean of many normal values the interval has the width that theory says.
    values = generator.normal(size=400)
    low, high = aggregate.interval([values])
    spread = scipy_stats.trim_mean(generator.normal(size=(2000, 400)), 0.25, axis=1).std()
    assert low < aggregate.interquartile_mean(values) < high
    assert 0.8 < (high - low) / (2 * 1.96 * spread) < 1.2


def test_the_aggregate_has_every_environment_and_all_together(tmp_path):
    runs = table_of(tmp_path, "gcbc", envs=(WALK, BROKEN))
    for number, run in enumerate(runs):
        finished(run, success=(0.0, 0.1 * number))
    rows = aggregate.rows_of((run.method, run.metrics()) for run in runs)
    found = {(row.env, row.step): (row.runs, round(row.iqm, 9)) for row in rows}
    assert found[WALK, 20] == (3, 0.1) and found[BROKEN, 20] == (3, 0.4) and found["all", 20] == (6, 0.25)
    assert all(row.low <= row.iqm <= row.high and row.measure == "success" for row in rows) and len(rows) == 6
    returns = [("iqrl", run.metrics()) for run in runs]
    for _, metrics in returns:
        for entry in (*metrics["curve"], metrics["final"]):
            entry["return"] = entry.pop("success")
    others = aggregate.rows_of(returns)
    assert {(row.env, row.measure) for row in others} == {(WALK, "return"), (BROKEN, "return")}
    aggregate.write([*rows, *others], tmp_path / "sweep.csv", tmp_path / "sweep.png")
    assert len(rows_of(tmp_path / "sweep.csv")) == len(rows) + len(others)
    titles = [panel.get_title() for panel in aggregate.draw([*rows, *others]).axes]
    assert titles == [WALK, BROKEN, "all environments", WALK, BROKEN]
