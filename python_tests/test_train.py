"""`qmkernels train METHOD`: a run learns, measures, and writes its files."""

from __future__ import annotations

import csv
import importlib.machinery
import json
import re
import sys
import types

import numpy
import pytest
import torch
from training_runs import OFFLINE, WAYS, assert_same, checkpoint_of, killed_at, train

from qmkernels.agents import QRL
from qmkernels.train import checkpoint
from qmkernels.train.experiments import METHODS, experiment_of


@pytest.mark.parametrize(
    ("env", "more"),
    [
        ("Walk-v0", []),
        ("WalkDiscrete-v0", []),
        ("Walk-v0", OFFLINE),
        ("WalkDiscrete-v0", OFFLINE),
        ("Walk-v0", ["--goals", "observation"]),
        ("WalkDiscrete-v0", ["--goals", "observation"]),
    ],
    ids=["online", "discrete", "offline", "discrete offline", "observations", "discrete observations"],
)
def test_a_run_writes_metrics_figure_and_checkpoint(tmp_path, capsys, env, more):
    assert train(tmp_path, "--steps", "20", *more, env=env) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["step"] == 20 and [entry["step"] for entry in metrics["curve"]] == [0, 10, 20]
    assert all(0 <= entry["success"] <= 1 for entry in metrics["curve"]) and 0 <= metrics["random"]["success"] <= 1
    assert (metrics["environment_steps"] > 0) == (more is not OFFLINE)
    assert (tmp_path / "success.png").read_bytes().startswith(b"\x89PNG")
    with (tmp_path / "metrics.csv").open() as file:
        table = list(csv.DictReader(file))
    assert all((row["method"], row["env"], row["seed"]) == ("qrl", env, "0") for row in table)
    numbers = {(int(row["step"]), row["measure"]): float(row["value"]) for row in table}
    of_curve = {(entry["step"], name): entry[name] for entry in metrics["curve"] for name in entry if name != "step"}
    assert numbers == {**of_curve, (0, "success_random"): metrics["random"]["success"]} and len(table) == len(numbers)
    assert list((tmp_path / "tensorboard").iterdir())
    assert not list(tmp_path.glob("*.partial"))
    assert "Trained 20 steps" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("env", "more"),
    [("Walk-v0", []), ("WalkDiscrete-v0", []), ("Walk-v0", OFFLINE)],
    ids=["online", "discrete", "offline"],
)
def test_inputs_are_standardised_by_the_first_data_unless_asked_not_to(tmp_path, env, more):
    def networks(name: str, *options: str) -> dict[str, torch.Tensor]:
        assert train(tmp_path / name, "--steps", "1", *more, *options, env=env) == 0
        return checkpoint.load(tmp_path / name / "checkpoint.pt")["agent"]["networks"]

    scales = ("observation_scale", "goal_scale")
    as_they_are, standardised = networks("plain", "--no-standardise"), networks("standardised")
    assert all((as_they_are[f"{name}.scale"] == 1).all() for name in scales)
    assert all((as_they_are[f"{name}.mean"] == 0).all() for name in scales)
    assert all((standardised[f"{name}.scale"] != 1).all() for name in scales)


@pytest.mark.parametrize(("method", "way"), [(method, way) for method in METHODS for way in WAYS[method]])
def test_every_method_runs_and_goes_on_after_a_kill_to_the_same_bits(tmp_path, method, way):
    arguments = ["--steps", "20", *WAYS[method][way]]
    assert train(tmp_path / "whole", *arguments, method=method) == 0
    metrics = json.loads((tmp_path / "whole" / "metrics.json").read_text())
    settings = metrics["settings"]
    assert metrics["method"] == method and [entry["step"] for entry in metrics["curve"]] == [0, 10, 20]
    assert (metrics["environment_steps"] > 0) == ("online" in way)
    assert settings["action_repeat"] == experiment_of(method).defaults(settings["env"]).action_repeat
    assert (tmp_path / "whole" / "success.png").read_bytes().startswith(b"\x89PNG")
    with killed_at(14, method):
        train(tmp_path / "killed", *arguments, method=method)
    torch.manual_seed(12345)
    assert train(tmp_path / "killed", *arguments, method=method) == 0
    assert_same(checkpoint_of(tmp_path / "whole"), checkpoint_of(tmp_path / "killed"))


def test_ways_to_act_are_evaluated_on_the_same_episodes_and_change_nothing_else(tmp_path):
    assert train(tmp_path / "actor", "--steps", "10") == 0
    ways = ["--evaluate-with", "mppi", "actor", "greedy", "--mppi.samples", "8", "--mppi.horizon", "2"]
    assert train(tmp_path / "all", "--steps", "10", *ways) == 0
    alone, other = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("actor", "all"))
    assert other["final"].keys() == alone["final"].keys() | {"success_actor", "success_greedy"}
    for before, after in zip(alone["curve"], other["curve"], strict=True):
        assert before["success"] == after["success_actor"]
    states = [checkpoint_of(tmp_path / name) for name in ("actor", "all")]
    for name in ("agent", "of_processes"):
        assert_same(*(state[name] for state in states))
    assert train(tmp_path / "all", "--steps", "12", "--evaluate-with", "greedy") == 0
    assert checkpoint_of(tmp_path / "all")["curve"][-1].keys() == alone["final"].keys()


@pytest.mark.parametrize("online", [False, True], ids=["offline", "online"])
def test_a_super_state_of_metric_rl_is_learned_from_the_ends_of_episodes(tmp_path, online):
    arguments = ["--steps", "10", "--agent.super-state", *(["--no-offline"] if online else [])]
    assert train(tmp_path, *arguments, method="metric_rl") == 0
    assert checkpoint_of(tmp_path)["agent"]["networks"]["critic.super_state"].abs().min() > 0


@pytest.mark.parametrize("head", ["euclidean", "iqe", "mrn"])
@pytest.mark.parametrize("goals", ["set", "observation"])
def test_heads_of_metric_rl_run_on_discrete_actions_offline_and_measure_monotonic_triplets(tmp_path, head, goals):
    arguments = ["--steps", "10", "--head", head, "--goals", goals]
    assert train(tmp_path, *arguments, method="metric_rl", env="qmkernels/HyperMaze-v0") == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert all(0 < entry["monotonic_triplets"] < 1 for entry in metrics["curve"])
    assert "monotonic_triplets" not in metrics["random"] and metrics["environment_steps"] == 0


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("observation", r"observation after step \d+ of an episode is not finite: \[nan nan\]"),
        ("achieved_goal", r"achieved_goal after step \d+ of an episode must be \(2,\), as its space says, got \(3,\)"),
        ("reward", r"the reward after step \d+ of an episode is inf"),
    ],
)
def test_a_broken_environment_ends_the_run_at_once_and_the_last_checkpoint_stays(tmp_path, capsys, part, message):
    # Three initial episodes and twice two evaluated ones take 84 steps: it breaks some updates later.
    assert train(tmp_path, "--steps", "50", "--checkpoint-interval", "1", env=f"Broken-{part}-v0") == 2
    assert re.search(f"Broken-{part}-v0: {message}", capsys.readouterr().err)
    networks = checkpoint_of(tmp_path)["agent"]["networks"]
    assert all(value.isfinite().all() for value in networks.values())


class FakeRun:
    def __init__(self, **settings) -> None:
        self.settings, self.entries, self.metrics, self.is_finished = settings, [], {}, False

    def define_metric(self, name: str, step_metric: str) -> None:
        self.metrics[name] = step_metric

    def log(self, entry: dict) -> None:
        assert not self.is_finished
        self.entries.append(entry)

    def finish(self) -> None:
        self.is_finished = True


def test_weights_and_biases_get_what_tensorboard_gets_and_a_resumed_run_continues_its_record(tmp_path, monkeypatch):
    fake, runs = types.ModuleType("wandb"), []
    fake.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
    fake.init = lambda **settings: runs.append(FakeRun(**settings)) or runs[-1]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    assert train(tmp_path, "--steps", "8") == 0 and not runs
    for steps, more in (("12", []), ("20", []), ("5", ["--restart"])):
        assert train(tmp_path, "--steps", steps, "--wandb", "toys", *more) == 0
    first, second, restarted = runs
    assert first.settings["project"] == "toys" and first.settings["config"]["agent.epsilon"] == 0.25
    assert first.settings["id"] == second.settings["id"] != restarted.settings["id"]
    assert first.settings["resume"] == "allow"
    assert [entry["step"] for entry in first.entries] == [10, 10, 12] and [e["step"] for e in second.entries] == [
        15,
        20,
        20,
    ]
    assert "critic_0/loss" in first.entries[0] and "evaluation/success" in first.entries[1]
    assert all(run.metrics == {"*": "step"} and run.is_finished for run in runs)


def test_without_weights_and_biases_asking_for_them_is_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setenv("COLUMNS", "200")
    assert train(tmp_path, "--wandb", "toys") == 2
    assert "--wandb toys: the package is not installed: pip install wandb" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("more", [[], OFFLINE], ids=["online", "offline with repeated actions"])
def test_that_success_is_not_in_the_info_is_said_once_at_the_start(tmp_path, capsys, more):
    message = "Silent-v0: no success in info; an episode counts as a success where it terminates."
    assert train(tmp_path, "--steps", "10", *more, env="Silent-v0") == 0
    assert capsys.readouterr().out.count(message) == 1
    assert train(tmp_path, "--steps", "12", *more, env="Silent-v0") == 0
    assert "no success" not in capsys.readouterr().out
    many = ["--evaluation-episodes", "20", "--restart", *more]
    assert train(tmp_path, "--steps", "1", *many, env="Silent-v0") == 0
    assert json.loads((tmp_path / "metrics.json").read_text())["random"]["success"] > 0
    assert capsys.readouterr().out.count(message) == 1
    assert train(tmp_path / "told", "--steps", "1", *more) == 0
    assert "no success" not in capsys.readouterr().out


def test_learning_rates_fall_along_half_a_cosine_to_0(tmp_path, monkeypatch):
    """All of them, and each from its own; without the option they stay."""
    steps, rates, update = 4, [], QRL.update

    def noted(agent, batch):
        rates.append({name: [each["lr"] for each in of.param_groups] for name, of in agent.optimizers.items()})
        return update(agent, batch)

    monkeypatch.setattr(QRL, "update", noted)
    assert train(tmp_path / "same", "--steps", str(steps), *OFFLINE) == 0
    assert rates == [rates[0]] * steps
    initial = rates[0]
    rates.clear()
    assert train(tmp_path / "decay", "--steps", str(steps), *OFFLINE, "--learning-rate-decay", "cosine") == 0
    for step, found in enumerate(rates):
        factor = (1 + numpy.cos(numpy.pi * step / steps)) / 2
        assert found == {name: pytest.approx([factor * rate for rate in of]) for name, of in initial.items()}
