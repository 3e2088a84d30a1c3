"""`qmkernels train qrl`: a run leaves its files behind, and a killed one goes on as if it had not been."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
import typing
from pathlib import Path

import pytest
import torch
from processes import run_two

from qmkernels.train import INTERRUPTED, NEEDED, run

for needed in NEEDED:
    pytest.importorskip(needed, reason="training needs qmkernels[agents]")

import gymnasium  # noqa: E402
import numpy  # noqa: E402

from qmkernels.agents import QRL  # noqa: E402
from qmkernels.train import checkpoint, mazes  # noqa: E402
from qmkernels.train import trainer as training  # noqa: E402
from qmkernels.train.environments import ActionRepeat, episode_seed, make_environment  # noqa: E402
from qmkernels.train.experiments import METHODS, experiment_of  # noqa: E402
from qmkernels.train.goal_reaching import GoalExperiment  # noqa: E402


class Walk(gymnasium.Env):
    """A point on a square that moves by its action; the goal is a place."""

    def __init__(self, discrete: bool = False) -> None:
        def place():
            return gymnasium.spaces.Box(-1.0, 1.0, (2,))

        self.discrete = discrete
        self.action_space = gymnasium.spaces.Discrete(4, start=1) if discrete else place()
        self.observation_space = gymnasium.spaces.Dict(
            {"observation": place(), "achieved_goal": place(), "desired_goal": place()}
        )

    def _observation(self) -> dict[str, numpy.ndarray]:
        here, goal = (each.astype(numpy.float32) for each in (self.here, self.goal))
        return {"observation": here, "achieved_goal": here, "desired_goal": goal}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.here, self.goal = self.np_random.uniform(-1, 1, (2, 2))
        return self._observation(), {}

    def step(self, action):
        assert self.action_space.contains(action if self.discrete else numpy.asarray(action, numpy.float32)), action
        move = numpy.array([[1, 0], [-1, 0], [0, 1], [0, -1]])[int(action) - 1] if self.discrete else action
        self.here = (self.here + 0.3 * numpy.asarray(move)).clip(-1, 1)
        success = bool(numpy.linalg.norm(self.here - self.goal) < 0.4)
        return self._observation(), float(success), False, False, {"is_success": success}


class NoGoals(Walk):
    def __init__(self) -> None:
        super().__init__()
        self.observation_space = self.observation_space["observation"]


class Broken(Walk):
    """From its 100th step on a part of what it returns is of no use."""

    def __init__(self, part: str) -> None:
        super().__init__()
        self.part, self.num_steps = part, 0

    def step(self, action):
        observation, reward, *rest = super().step(action)
        self.num_steps += 1
        if self.num_steps >= 100 and self.part == "error":
            raise RuntimeError("the simulator has lost its way")
        if self.num_steps >= 100 and self.part == "reward":
            reward = numpy.inf
        elif self.num_steps >= 100:
            observation[self.part] = numpy.full(3 if self.part == "achieved_goal" else 2, numpy.nan, numpy.float32)
        return observation, reward, *rest


ENVIRONMENTS = {"Walk-v0": {}, "WalkDiscrete-v0": {"discrete": True}}
for part in ("observation", "achieved_goal", "reward", "error"):
    if f"Broken-{part}-v0" not in gymnasium.registry:
        gymnasium.register(f"Broken-{part}-v0", Broken, max_episode_steps=12, kwargs={"part": part})
for name, arguments in ENVIRONMENTS.items():
    if name not in gymnasium.registry:
        gymnasium.register(name, Walk, max_episode_steps=12, kwargs=arguments)
if "NoGoals-v0" not in gymnasium.registry:
    gymnasium.register("NoGoals-v0", NoGoals, max_episode_steps=12)
    gymnasium.register("Endless-v0", Walk)

SMALL = [
    *("--batch-size", "32", "--prefill-episodes", "3", "--updates-per-cycle", "7", "--episodes-per-cycle", "1"),
    *("--evaluation-interval", "10", "--evaluation-episodes", "2", "--checkpoint-interval", "8", "--log-interval", "5"),
    *("--collect-steps", "100", "--buffer-capacity", "60", "--device", "cpu"),
]
AGENTS = {
    "qrl": [
        *("--agent.encoder-sizes", "16", "--agent.latent-size", "8", "--agent.projector-sizes", "16"),
        *("--agent.embedding-size", "32", "--agent.dim-per-component", "8", "--agent.dynamics-sizes", "16"),
        *("--agent.actor-sizes", "16", "--agent.entropy-samples", "4"),
    ],
    "tmd": [
        *("--agent.critic-sizes", "16", "--agent.actor-sizes", "16", "--agent.latent-size", "16"),
        *("--agent.num-components", "2"),
    ],
    "metric_rl": [
        *("--agent.phi-width", "16", "--agent.phi-blocks", "1", "--agent.latent-size", "16"),
        *("--agent.actor-sizes", "16", "--agent.dynamics-sizes", "16"),
    ],
    "crl": ["--agent.critic-sizes", "16", "--agent.actor-sizes", "16", "--agent.latent-size", "16"],
    "ddpg_her": ["--agent.critic-sizes", "16", "--agent.actor-sizes", "16", "--agent.latent-size", "16"],
    "gcbc": ["--agent.actor-sizes", "16"],
    "metra": ["--agent.phi-sizes", "16", "--agent.critic-sizes", "16", "--agent.actor-sizes", "16"],
}
REACHING = [method for method in METHODS if issubclass(experiment_of(method), GoalExperiment)]
OFFLINE = ["--preset", "maze", "--action-repeat", "2"]


def train(out: Path, *arguments: str, env: str = "Walk-v0", method: str = "qrl") -> int:
    return run([method, "--env", env, "--out", str(out), *SMALL, *AGENTS[method], *arguments])


def checkpoint_of(out: Path) -> dict:
    return torch.load(out / "checkpoint.pt", weights_only=True)


def assert_same(one, other, path: str = "") -> None:
    assert type(one) is type(other), path
    if isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            if key not in ("seconds", "settings"):
                assert_same(one[key], other[key], f"{path}/{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), path
        for number, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{path}/{number}")
    else:
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other, path


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
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert found["step"] == 20 and [entry["step"] for entry in found["curve"]] == [0, 10, 20]
    assert all(0 <= entry["success"] <= 1 for entry in found["curve"]) and 0 <= found["random"]["success"] <= 1
    assert (found["environment_steps"] > 0) == (more is not OFFLINE)
    assert (tmp_path / "success.png").read_bytes().startswith(b"\x89PNG")
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


class Killed(BaseException):
    """What nothing catches."""


@pytest.mark.parametrize(
    ("env", "more"),
    [("Walk-v0", []), ("WalkDiscrete-v0", []), ("Walk-v0", OFFLINE)],
    ids=["online", "discrete", "offline"],
)
@pytest.mark.parametrize("killed_at", [3, 21])
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path, monkeypatch, env, more, killed_at):
    assert train(tmp_path / "whole", "--steps", "30", *more, env=env) == 0
    update, count = QRL.update, 0

    def deadly(agent, batch):
        nonlocal count
        count += 1
        if count == killed_at:
            raise Killed
        return update(agent, batch)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(QRL, "update", deadly)
        train(tmp_path / "killed", "--steps", "30", *more, env=env)
    assert (tmp_path / "killed" / "checkpoint.pt").exists() == (killed_at > 8)
    torch.manual_seed(12345)
    assert train(tmp_path / "killed", "--steps", "30", *more, env=env) == 0
    assert_same(checkpoint_of(tmp_path / "whole"), checkpoint_of(tmp_path / "killed"))


# This file is imported there, and imports its neighbours.
ENVIRONMENT_OF_PROCESSES = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}


def start(out: Path, steps: int) -> subprocess.Popen:
    """The command in a process of its own, which registers the environment as this one did."""
    code = "import importlib.util, sys; spec = importlib.util.spec_from_file_location('toy', sys.argv[1]); "
    code += "toy = importlib.util.module_from_spec(spec); spec.loader.exec_module(toy); "
    code += "sys.exit(toy.train(toy.Path(sys.argv[2]), '--steps', sys.argv[3], '--checkpoint-interval', '20'))"
    return subprocess.Popen(
        [sys.executable, "-c", code, __file__, str(out), str(steps)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT_OF_PROCESSES,
    )  # fmt: skip


def wait_for_checkpoint(process: subprocess.Popen, path: Path, limit_s: float = 240) -> None:
    """Until the process has written it; fails with what the process said when it ends before, or takes too long."""
    until = time.monotonic() + limit_s
    while not path.exists():
        if process.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
            continue
        process.terminate()
        said = process.communicate(timeout=60)
        pytest.fail(f"no checkpoint within {limit_s} s; exit status {process.returncode}: {said}")


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_process_ended_by_a_signal_leaves_a_checkpoint_to_go_on_from(tmp_path, number):
    process = start(tmp_path, 10**6)
    wait_for_checkpoint(process, tmp_path / "checkpoint.pt")
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else INTERRUPTED)
    step = checkpoint_of(tmp_path)["step"]
    assert step >= 20 and (step % 20 == 0 or number != signal.SIGKILL)
    assert (tmp_path / "metrics.json").exists() == (number != signal.SIGKILL)
    assert train(tmp_path, "--steps", str(step + 3), "--checkpoint-interval", "20") == 0
    assert checkpoint_of(tmp_path)["step"] == step + 3


@pytest.mark.parametrize("more", [[], OFFLINE], ids=["online", "offline"])
def test_two_processes_train_the_same_networks_on_batches_of_their_own(tmp_path, capsys, more):
    update = QRL.update

    def worker(rank: int) -> list:
        agents, sums = set(), []

        def watched(agent, batch):
            agents.add(agent)
            sums.append(batch["observation"].sum().item())
            return update(agent, batch)

        QRL.update = watched
        status = train(tmp_path / "run", "--steps", "12", *more)
        (agent,) = agents
        return [status, sums, agent.networks.state_dict()]

    (status, sums, networks), other = run_two(worker, tmp_path)
    assert status == other[0] == 0
    assert len(sums) == len(other[1]) == 12 and not set(sums) & set(other[1])
    assert_same(dict(networks), dict(other[2]))
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert [entry["step"] for entry in found["curve"]] == [0, 10, 12] and "success" in found["final"]
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 1
    state = checkpoint_of(tmp_path / "run")
    assert len(state["of_processes"]) == 2
    if not more:
        buffers = [own["buffer"] for own in state["of_processes"]]
        assert state["episodes"] == 8 and state["environment_steps"] == sum(each["num_added"] for each in buffers)
        one, two = (each["arrays"]["observation"][:24] for each in buffers)
        assert not torch.equal(one, two)
    assert train(tmp_path / "run", "--steps", "15", *more) == 2
    assert "processes was 2, is 1" in capsys.readouterr().err


@pytest.mark.parametrize("more", [[], OFFLINE], ids=["online", "offline"])
def test_two_killed_processes_go_on_to_the_same_bits(tmp_path, more):
    update = QRL.update

    def worker(rank: int) -> list:
        count = 0

        def deadly(agent, batch):
            nonlocal count
            count += 1
            if count == 14:
                raise Killed
            return update(agent, batch)

        status = [train(tmp_path / "whole", "--steps", "20", *more)]
        QRL.update = deadly
        with pytest.raises(Killed):
            train(tmp_path / "killed", "--steps", "20", *more)
        QRL.update = update
        torch.manual_seed(12345)
        return [*status, train(tmp_path / "killed", "--steps", "20", *more)]

    assert run_two(worker, tmp_path) == [[0, 0], [0, 0]]
    assert_same(checkpoint_of(tmp_path / "whole"), checkpoint_of(tmp_path / "killed"))


TORCHRUN = """
import importlib.util, os, pathlib, sys
(pathlib.Path(sys.argv[2]) / f"{os.environ['RANK']}.pid").write_text(str(os.getpid()))
spec = importlib.util.spec_from_file_location("toy", sys.argv[1])
toy = importlib.util.module_from_spec(spec)
spec.loader.exec_module(toy)
sys.exit(toy.train(pathlib.Path(sys.argv[2]) / "run", "--steps", sys.argv[3], "--checkpoint-interval", "20"))
"""


def torchrun(folder: Path, steps: int) -> subprocess.Popen:
    (folder / "script.py").write_text(TORCHRUN)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.Popen(
        [*launcher, str(folder / "script.py"), __file__, str(folder), str(steps)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=ENVIRONMENT_OF_PROCESSES,
    )  # fmt: skip


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_under_torchrun_a_signal_to_one_process_stops_all_and_they_go_on_together(tmp_path):
    process = torchrun(tmp_path, 10**6)
    wait_for_checkpoint(process, tmp_path / "run" / "checkpoint.pt")
    os.kill(int((tmp_path / "1.pid").read_text()), signal.SIGTERM)
    said = process.communicate(timeout=120)[0]
    assert process.returncode != 0 and f"exitcode  : {INTERRUPTED}" in said and "Stopped after" in said, said
    step = checkpoint_of(tmp_path / "run")["step"]
    assert step >= 20 and json.loads((tmp_path / "run" / "metrics.json").read_text())["step"] == step
    process = torchrun(tmp_path, step + 3)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 0 and said.count(f"Going on from step {step}") == said.count("Trained") == 1, said
    assert checkpoint_of(tmp_path / "run")["step"] == step + 3


def test_a_finished_run_can_be_made_longer_and_restarted(tmp_path, capsys):
    for steps, more, said in (("10", [], None), ("15", [], "Going on from step 10"), ("5", ["--restart"], None)):
        assert train(tmp_path, "--steps", steps, *more) == 0
        printed = capsys.readouterr().out
        assert ("Going on" in printed) if said else ("Going on" not in printed)
        assert checkpoint_of(tmp_path)["step"] == int(steps)


def test_a_restarted_run_that_ends_before_its_first_save_leaves_nothing_to_go_on_from(tmp_path, monkeypatch):
    assert train(tmp_path, "--steps", "8") == 0

    def ended(*_):
        raise Killed

    monkeypatch.setattr(training.Trainer, "_train", ended)
    with pytest.raises(Killed):
        train(tmp_path, "--steps", "8", "--restart")
    assert not (tmp_path / "checkpoint.pt").exists()


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("observation", r"observation after step \d+ of an episode is not finite: \[nan nan\]"),
        ("achieved_goal", r"achieved_goal after step \d+ of an episode must be \(2,\), as its space says, got \(3,\)"),
        ("reward", r"the reward after step \d+ of an episode is inf"),
    ],
)
def test_a_broken_environment_ends_the_run_at_once_and_the_last_checkpoint_stays(tmp_path, capsys, part, said):
    # Three episodes to begin with and twice two evaluated ones are 84 steps: it breaks some updates later.
    assert train(tmp_path, "--steps", "50", "--checkpoint-interval", "1", env=f"Broken-{part}-v0") == 2
    assert re.search(f"Broken-{part}-v0: {said}", capsys.readouterr().err)
    networks = checkpoint_of(tmp_path)["agent"]["networks"]
    assert all(value.isfinite().all() for value in networks.values())


def test_what_was_learned_before_the_environment_raised_is_saved_and_goes_on(tmp_path, capsys):
    often = ["--steps", "20", "--checkpoint-interval", "1000"]
    with pytest.raises(RuntimeError, match="lost its way"):
        train(tmp_path, *often, env="Broken-error-v0")
    state = checkpoint_of(tmp_path)
    assert state["step"] == 10 and state["episodes"] == 4
    assert state["of_processes"][0]["buffer"]["num_added"] == 4 * 12
    # Its 100 steps begin anew: two evaluations and an episode for seven updates do not reach them.
    assert train(tmp_path, *often, env="Broken-error-v0") == 0
    assert "Going on from step 10" in capsys.readouterr().out


def test_the_checkpoint_of_another_run_is_refused_and_kept(tmp_path, capsys):
    assert train(tmp_path, "--steps", "8") == 0
    before = (tmp_path / "checkpoint.pt").read_bytes()
    capsys.readouterr()
    assert train(tmp_path, "--steps", "8", "--seed", "1", "--agent.epsilon", "0.5") == 2
    said = capsys.readouterr().err
    assert "agent.epsilon was 0.25, is 0.5; seed was 0, is 1" in said and "--restart" in said
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_the_checkpoint_of_another_method_is_refused_in_one_sentence(tmp_path, capsys):
    assert train(tmp_path, "--steps", "8", method="gcbc") == 0
    before = (tmp_path / "checkpoint.pt").read_bytes()
    capsys.readouterr()
    assert train(tmp_path, "--steps", "8", method="tmd") == 2
    said = capsys.readouterr().err
    assert "is of a run of gcbc, not of tmd. Give another --out, or --restart" in said and said.count("\n") == 1
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


@pytest.mark.parametrize("goals", ["set", "observation"])
@pytest.mark.parametrize("online", [False, True], ids=["offline", "online"])
@pytest.mark.parametrize("method", [method for method in REACHING if method != "qrl"])
def test_every_method_runs_and_goes_on_after_a_kill_to_the_same_bits(tmp_path, monkeypatch, method, online, goals):
    arguments = ["--steps", "20", "--goals", goals, *(["--no-offline"] if online else [])]
    assert train(tmp_path / "whole", *arguments, method=method) == 0
    found = json.loads((tmp_path / "whole" / "metrics.json").read_text())
    assert found["method"] == method and [entry["step"] for entry in found["curve"]] == [0, 10, 20]
    assert (found["environment_steps"] > 0) == online and found["settings"]["action_repeat"] == 5
    assert (tmp_path / "whole" / "success.png").read_bytes().startswith(b"\x89PNG")
    agent_class = experiment_of(method).agent_class
    update, count = agent_class.update, 0

    def deadly(agent, batch):
        nonlocal count
        count += 1
        if count == 14:
            raise Killed
        return update(agent, batch)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(agent_class, "update", deadly)
        train(tmp_path / "killed", *arguments, method=method)
    torch.manual_seed(12345)
    assert train(tmp_path / "killed", *arguments, method=method) == 0
    assert_same(checkpoint_of(tmp_path / "whole"), checkpoint_of(tmp_path / "killed"))


def test_a_file_that_is_no_checkpoint_is_refused_and_kept(tmp_path, capsys):
    (tmp_path / "checkpoint.pt").write_text("kept")
    assert train(tmp_path, "--steps", "8") == 2
    assert "is not a checkpoint" in capsys.readouterr().err
    assert (tmp_path / "checkpoint.pt").read_text() == "kept"


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


def test_ways_to_act_are_evaluated_on_the_same_episodes_and_change_nothing_else(tmp_path):
    assert train(tmp_path / "actor", "--steps", "10") == 0
    ways = ["--evaluate-with", "mppi", "actor", "greedy", "--mppi.samples", "8", "--mppi.horizon", "2"]
    assert train(tmp_path / "all", "--steps", "10", *ways) == 0
    one, other = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("actor", "all"))
    assert other["final"].keys() == one["final"].keys() | {"success_actor", "success_greedy"}
    for before, after in zip(one["curve"], other["curve"], strict=True):
        assert before["success"] == after["success_actor"]
    states = [checkpoint_of(tmp_path / name) for name in ("actor", "all")]
    for name in ("agent", "of_processes"):
        assert_same(*(state[name] for state in states))
    assert train(tmp_path / "all", "--steps", "12", "--evaluate-with", "greedy") == 0
    assert checkpoint_of(tmp_path / "all")["curve"][-1].keys() == one["final"].keys()


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


@pytest.mark.parametrize("head", ["euclidean", "iqe", "mrn"])
@pytest.mark.parametrize("goals", ["set", "observation"])
def test_heads_of_metric_rl_run_on_discrete_actions_offline_and_measure_monotonic_triplets(tmp_path, head, goals):
    arguments = ["--steps", "10", "--head", head, "--goals", goals]
    assert train(tmp_path, *arguments, method="metric_rl", env="qmkernels/HyperMaze-v0") == 0
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert all(0 < entry["monotonic_triplets"] < 1 for entry in found["curve"])
    assert "monotonic_triplets" not in found["random"] and found["environment_steps"] == 0


@pytest.mark.parametrize("method", [method for method in REACHING if method not in ("qrl", "metric_rl")])
def test_a_method_of_continuous_actions_says_so_of_discrete_ones(tmp_path, capsys, method):
    assert train(tmp_path, method=method, env="WalkDiscrete-v0") == 2
    name = experiment_of(method).agent_class.__name__
    assert f"{name}: actions must be vectors in a range, got discrete ones" in capsys.readouterr().err


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


def test_episodes_depend_on_their_number_alone_and_no_two_share_a_seed():
    seeds = [episode_seed(seed, purpose, number) for seed in (0, 1) for purpose in (1, 2) for number in range(50)]
    assert len(set(seeds)) == len(seeds)


def test_a_repeated_action_adds_rewards_and_remembers_success():
    environment = ActionRepeat(make_environment("Walk-v0"), 5)
    environment.reset(seed=0)
    environment.unwrapped.here, environment.unwrapped.goal = numpy.array([-1.0, 0.0]), numpy.array([0.05, 0.0])
    _, reward, _, truncated, info = environment.step(numpy.array([1.0, 0.0]))
    assert reward == 2 and info["success"] and not info["is_success"] and not truncated


class Maze:
    maze_map = [[1, 1, 1, 1, 1], [1, 0, 0, 0, 1], [1, 1, 1, 0, 1], [1, "r", 0, "g", 1], [1, 1, 1, 1, 1]]
    maze_size_scaling = 2.0

    def cell_rowcol_to_xy(self, cell):
        return numpy.array([(cell[1] + 0.5) * 2 - 5, 5 - (cell[0] + 0.5) * 2])


def test_the_ends_of_a_maze_are_the_cells_furthest_apart():
    assert set(mazes.opposite_ends(Maze())) == {(1, 1), (3, 1)}
    there, back = (mazes.end_to_end_options(Maze(), number) for number in (0, 1))
    assert there["reset_cell"].tolist() == back["goal_cell"].tolist() != there["goal_cell"].tolist()


def test_positions_in_a_maze_are_free_where_its_cells_are():
    positions, is_free = mazes.position_grid(Maze(), per_cell=3)
    assert positions.shape == (15, 15, 2) and is_free.sum() == 7 * 9
    numpy.testing.assert_allclose(positions[4, 4], Maze().cell_rowcol_to_xy((1, 1)))
    assert positions[0, 0].tolist() == pytest.approx([-5 + 1 / 3, 5 - 1 / 3])
