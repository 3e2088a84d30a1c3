"""The command `qmkernels train`: its help, its presets, and one sentence for what is wrong."""

from __future__ import annotations

import dataclasses
import re
import sys
import typing
from pathlib import Path

import pytest
from training_runs import REACHING, train

from qmkernels.train import NEEDED, run
from qmkernels.train import trainer as training
from qmkernels.train.experiments import METHODS, experiment_of
from qmkernels.train.settings import GROUPS, Settings


@pytest.mark.parametrize(
    ("env", "arguments", "said"),
    [
        ("NoGoals-v0", [], "NoGoals-v0 has no goals"),
        ("Nosuch-v0", [], "--env Nosuch-v0: there is no such environment."),
        ("WalkDiscreet-v0", [], "there is no such environment. Did you mean WalkDiscrete-v0?"),
        ("Walk-v0", ["--device", "nosuch"], "--device nosuch cannot be used here"),
        ("Endless-v0", [], "max_episode_steps"),
        ("Walk-v0", ["--batch-size", "1"], "batch_size must be at least 2"),
        ("Walk-v0", ["--evaluate-with", "actor", "actor"], "each once"),
        ("Walk-v0", ["--mppi.samples", "0"], "samples must be positive"),
        ("WalkDiscrete-v0", ["--evaluate-with", "mppi"], "WalkDiscrete-v0 has discrete actions"),
        ("Walk-v0", ["--agent.epsilon", "0"], "epsilon must be positive"),
        (
            "Walk-v0",
            ["--steps", "many"],
            "Error parsing --steps: invalid literal for int() with base 10: 'many'. See q",
        ),
        (
            "Walk-v0",
            ["--goals", "some"],
            "'some' for argument '--goals'. Expected one of ('set', 'observation'). See q",
        ),
        (
            "Walk-v0",
            ["--seed"],
            "Missing value for argument '--seed'. Expected 1 values. See qmkernels train qrl --help",
        ),
        ("Walk-v0", ["--nosuch", "1"], "Unrecognized options: --nosuch, 1."),
        (
            "Walk-v0",
            ["--stpes", "1"],
            "Unrecognized options: --stpes, 1. Did you mean --steps? See qmkernels train qrl",
        ),
    ],
)
def test_what_is_wrong_is_one_message_and_status_2(tmp_path, capsys, env, arguments, said):
    assert train(tmp_path / "out", *arguments, env=env) == 2
    found = capsys.readouterr().err
    assert said in found and found.startswith("qmkernels train: ")
    assert found.count("\n") == (3 if env == "NoGoals-v0" else 1)  # its example has two lines
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("FetchReach-v4", "gymnasium_robotics", "robotics"),
        ("cube-single-v0", "ogbench", "robotics"),
        ("dm_control/cartpole-balance-v0", "shimmy", "dm_control"),
    ],
)
def test_an_environment_whose_package_is_missing_says_how_to_install_it(
    tmp_path, monkeypatch, capsys, name, package, extra
):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr("gymnasium.registry", {})
    monkeypatch.setattr("gymnasium.envs.registration.registry", {})
    assert train(tmp_path / "out", env=name) == 2
    said = f'qmkernels train: --env {name}: {package} is not installed: pip install "qmkernels[{extra}]"\n'
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["nosuch"], "no method 'nosuch'."), (["tmb"], "no method 'tmb'. Did you mean tmd?"), ([], "METHOD is missing.")],
)
def test_a_method_that_there_is_not_is_one_sentence_and_status_2(capsys, arguments, said):
    assert run(arguments) == 2
    assert capsys.readouterr().err == f"qmkernels train: {said} Methods: {', '.join(METHODS)}.\n"


def test_help_lists_the_methods_and_the_groups_of_options(capsys):
    assert run(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"  {method} " in said for method in METHODS)
    shared = [field.name.replace("_", "-") for field in dataclasses.fields(Settings)]
    assert re.findall(r"--([a-z-]+)", said.split("options of all methods")[1].split("qmkernels train")[0]) == shared
    assert said.splitlines()[-1].startswith("example: qmkernels train qrl --env ")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--env is missing: give the name"),
        (["--env"], "argument --env: expected one argument"),
        (["--env", "Walk-v0", "--preset", "nosuch"], "--preset nosuch: there is no such preset. Presets of "),
        (["--env", "Walk-v0", "--preset", "publishd"], "no such preset. Did you mean published? Presets of "),
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
    assert all(f" {title} options " in said for title in (*GROUPS.values(), method.replace("_", "-"), "agent"))
    env = experiment_of(method).example
    assert said.splitlines()[-1] == f"example: qmkernels train {method} --env {env} --seed 0 --out runs/{method}"


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
