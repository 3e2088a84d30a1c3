"""The command `qmkernels train`: its help, its presets, and one sentence for what is wrong."""

from __future__ import annotations

import dataclasses
import sys
import typing
from pathlib import Path

import pytest
from training_runs import REACHING, train

from qmkernels.train import NEEDED, run
from qmkernels.train import trainer as training
from qmkernels.train.experiments import METHODS, experiment_of


@pytest.mark.parametrize(
    ("env", "arguments", "said"),
    [
        ("NoGoals-v0", [], "NoGoals-v0 has no goals"),
        ("Nosuch-v0", [], "--env Nosuch-v0"),
        ("Endless-v0", [], "max_episode_steps"),
        ("Walk-v0", ["--batch-size", "1"], "batch_size must be at least 2"),
        ("Walk-v0", ["--evaluate-with", "actor", "actor"], "each once"),
        ("Walk-v0", ["--mppi.samples", "0"], "samples must be positive"),
        ("WalkDiscrete-v0", ["--evaluate-with", "mppi"], "WalkDiscrete-v0 has discrete actions"),
        ("Walk-v0", ["--agent.epsilon", "0"], "epsilon must be positive"),
        ("Walk-v0", ["--steps", "many"], "--steps"),
        ("Walk-v0", ["--nosuch", "1"], "nosuch"),
    ],
)
def test_what_is_wrong_is_one_message_and_status_2(tmp_path, monkeypatch, capsys, env, arguments, said):
    monkeypatch.setenv("COLUMNS", "200")
    assert train(tmp_path, *arguments, env=env) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "metrics.json").exists()


def test_an_agent_that_there_is_not_is_status_2(capsys):
    assert run(["nosuch"]) == 2
    assert "no method 'nosuch'" in capsys.readouterr().err
    assert run(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"  {method} " in said for method in METHODS)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--env is missing: give the name"),
        (["--env"], "argument --env: expected one argument"),
        (["--env", "Walk-v0", "--preset", "nosuch"], "--preset nosuch: there is no such preset; there are auto, pub"),
        (["--env", "nosuchmodule:Walk-v0"], "--env nosuchmodule:Walk-v0: No module named 'nosuchmodule'"),
    ],
)
def test_a_command_without_what_it_needs_is_one_sentence(tmp_path, monkeypatch, capsys, method, arguments, said):
    monkeypatch.chdir(tmp_path)
    assert run([method, *arguments]) == 2
    found = capsys.readouterr().err
    assert said in found and found.count("\n") == 1 and found.startswith("qmkernels train: ")


@pytest.mark.parametrize("method", METHODS)
def test_help_shows_the_methods_own_options_and_presets(monkeypatch, capsys, method):
    monkeypatch.setenv("COLUMNS", "200")
    assert run([method, "--help"]) == 0
    said = capsys.readouterr().out
    presets = typing.get_type_hints(type(experiment_of(method).defaults("")))["preset"]
    assert typing.get_args(presets) == ("auto", *experiment_of(method).presets)
    assert "--preset {" + ",".join(typing.get_args(presets)) + "}" in said and METHODS[method] in said


@pytest.mark.parametrize("name", NEEDED)
def test_a_missing_extra_is_one_sentence(name, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, name, None)
    assert run(["qrl"]) == 1
    assert capsys.readouterr().err == f'qmkernels train needs {name}: pip install "qmkernels[agents]"\n'


@pytest.mark.parametrize(
    ("method", "preset"),
    [(method, preset) for method in METHODS for preset in ("auto", *experiment_of(method).presets)],
)
def test_every_preset_is_a_whole_command_by_its_name(monkeypatch, tmp_path, method, preset):
    seen = []
    monkeypatch.setattr(
        training.Trainer, "__init__", lambda self, experiment, settings, together: seen.append(settings)
    )
    monkeypatch.setattr(training.Trainer, "run", lambda self: (_ for _ in ()).throw(ValueError("enough")))
    monkeypatch.chdir(tmp_path)
    assert run([method, "--env", "PointMaze_UMaze-v3", "--preset", preset, "--steps", "7"]) == 2
    (found,) = seen
    expected = experiment_of(method).defaults("PointMaze_UMaze-v3", preset=preset)
    assert found == dataclasses.replace(expected, steps=7) and found.out == Path(f"qmkernels_{method}")
    assert found.preset == preset and found.plain()["agent.actor_learning_rate"] > 0


def test_presets_are_chosen_by_name():
    for env, dataset, expected in (
        ("FetchReach-v4", "", "online"), ("PointMaze_UMaze-v3", "", "maze"), ("PointMaze_UMaze-v3", "some", "offline"),
    ):  # fmt: skip
        qrl = experiment_of("qrl")
        found = qrl.defaults(env, dataset)
        assert found.agent == qrl.presets[expected](env).agent and found.dataset == dataset


@pytest.mark.parametrize("method", [each for each in METHODS if not experiment_of(each).agent_class.allows_discrete])
def test_a_method_of_continuous_actions_says_so_of_discrete_ones(tmp_path, capsys, method):
    assert train(tmp_path, method=method, env=f"{'Walk' if method in REACHING else 'NoGoals'}Discrete-v0") == 2
    name = experiment_of(method).agent_class.__name__
    assert f"{name}: actions must be vectors in a range, got discrete ones" in capsys.readouterr().err
