"""Training runs that end early: what they leave behind, and that they resume as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from processes import run_group
from training_runs import ENVIRONMENT_OF_PROCESSES, OFFLINE, Killed, assert_same, checkpoint_of, killed_at, train

from qmkernels.agents import QRL
from qmkernels.train import INTERRUPTED
from qmkernels.train import trainer as training


@pytest.mark.parametrize(
    ("env", "more"),
    [
        ("Walk-v0", []),
        ("WalkDiscrete-v0", []),
        ("Walk-v0", OFFLINE),
        ("Walk-v0", [*OFFLINE, "--learning-rate-decay", "cosine"]),
    ],
    ids=["online", "discrete", "offline", "decay"],
)
@pytest.mark.parametrize("number", [3, 21])
def test_a_killed_run_resumes_to_the_same_bits(tmp_path, env, more, number):
    assert train(tmp_path / "whole", "--steps", "30", *more, env=env) == 0
    with killed_at(number):
        train(tmp_path / "killed", "--steps", "30", *more, env=env)
    assert (tmp_path / "killed" / "checkpoint.pt").exists() == (number > 8)
    torch.manual_seed(12345)
    assert train(tmp_path / "killed", "--steps", "30", *more, env=env) == 0
    assert_same(checkpoint_of(tmp_path / "whole"), checkpoint_of(tmp_path / "killed"))


def start(out: Path, steps: int) -> subprocess.Popen:
    """Starts the command in its own process, which registers the environment as this one did."""
    code = "import pathlib, sys, training_runs as toy; "
    code += "sys.exit(toy.train(pathlib.Path(sys.argv[1]), '--steps', sys.argv[2], '--checkpoint-interval', '20'))"
    return subprocess.Popen(
        [sys.executable, "-c", code, str(out), str(steps)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT_OF_PROCESSES,
    )  # fmt: skip


def wait_for_checkpoint(process: subprocess.Popen, path: Path, limit_s: float = 240) -> None:
    """Waits until the process has written it; fails with the process's output if it ends before or takes too long."""
    until = time.monotonic() + limit_s
    while not path.exists():
        if process.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
            continue
        process.terminate()
        printed = process.communicate(timeout=60)
        pytest.fail(f"no checkpoint within {limit_s} s; exit status {process.returncode}: {printed}")


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

    (status, sums, networks), other = run_group(worker, tmp_path)
    assert status == other[0] == 0
    assert len(sums) == len(other[1]) == 12 and not set(sums) & set(other[1])
    assert_same(dict(networks), dict(other[2]))
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert [entry["step"] for entry in metrics["curve"]] == [0, 10, 12] and "success" in metrics["final"]
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 1
    state = checkpoint_of(tmp_path / "run")
    assert len(state["of_processes"]) == 2
    if not more:
        buffers = [process["buffer"] for process in state["of_processes"]]
        assert state["episodes"] == 8 and state["environment_steps"] == sum(buffer["num_added"] for buffer in buffers)
        first, second = (buffer["arrays"]["observation"][:24] for buffer in buffers)
        assert not torch.equal(first, second)
    assert train(tmp_path / "run", "--steps", "15", *more) == 2
    assert "processes was 2, is 1" in capsys.readouterr().err


@pytest.mark.parametrize("more", [[], OFFLINE], ids=["online", "offline"])
def test_two_killed_processes_resume_to_the_same_bits(tmp_path, more):
    def worker(rank: int) -> list:
        status = [train(tmp_path / "whole", "--steps", "20", *more)]
        with killed_at(14):
            train(tmp_path / "killed", "--steps", "20", *more)
        torch.manual_seed(12345)
        return [*status, train(tmp_path / "killed", "--steps", "20", *more)]

    assert run_group(worker, tmp_path) == [[0, 0], [0, 0]]
    assert_same(checkpoint_of(tmp_path / "whole"), checkpoint_of(tmp_path / "killed"))


TORCHRUN = """
import os, pathlib, sys
import training_runs as toy
folder = pathlib.Path(sys.argv[1])
(folder / f"{os.environ['RANK']}.pid").write_text(str(os.getpid()))
sys.exit(toy.train(folder / "run", "--steps", sys.argv[2], "--checkpoint-interval", "20"))
"""


def torchrun(folder: Path, steps: int) -> subprocess.Popen:
    (folder / "script.py").write_text(TORCHRUN)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.Popen(
        [*launcher, str(folder / "script.py"), str(folder), str(steps)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=ENVIRONMENT_OF_PROCESSES,
    )  # fmt: skip


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_under_torchrun_a_signal_to_one_process_stops_all_and_they_resume_together(tmp_path):
    process = torchrun(tmp_path, 10**6)
    wait_for_checkpoint(process, tmp_path / "run" / "checkpoint.pt")
    os.kill(int((tmp_path / "1.pid").read_text()), signal.SIGTERM)
    printed = process.communicate(timeout=120)[0]
    assert process.returncode != 0 and f"exitcode  : {INTERRUPTED}" in printed and "Stopped after" in printed, printed
    step = checkpoint_of(tmp_path / "run")["step"]
    assert step >= 20 and json.loads((tmp_path / "run" / "metrics.json").read_text())["step"] == step
    process = torchrun(tmp_path, step + 3)
    printed = process.communicate(timeout=120)[0]
    assert process.returncode == 0 and printed.count(f"Resuming from step {step}") == printed.count("Trained") == 1, (
        printed
    )
    assert checkpoint_of(tmp_path / "run")["step"] == step + 3


def test_a_finished_run_can_be_made_longer_and_restarted(tmp_path, capsys):
    for steps, more, message in (("10", [], None), ("15", [], "Resuming from step 10"), ("5", ["--restart"], None)):
        assert train(tmp_path, "--steps", steps, *more) == 0
        printed = capsys.readouterr().out
        assert ("Resuming" in printed) if message else ("Resuming" not in printed)
        assert checkpoint_of(tmp_path)["step"] == int(steps)


def test_a_restarted_run_that_ends_before_its_first_save_leaves_nothing_to_go_on_from(tmp_path, monkeypatch):
    assert train(tmp_path, "--steps", "8") == 0

    def ended(*_):
        raise Killed

    monkeypatch.setattr(training.Trainer, "_train", ended)
    with pytest.raises(Killed):
        train(tmp_path, "--steps", "8", "--restart")
    assert not (tmp_path / "checkpoint.pt").exists()


def test_what_was_learned_before_the_environment_raised_is_saved_and_resumed(tmp_path, capsys):
    often = ["--steps", "20", "--checkpoint-interval", "1000"]
    with pytest.raises(RuntimeError, match="lost its way"):
        train(tmp_path, *often, env="Broken-error-v0")
    state = checkpoint_of(tmp_path)
    assert state["step"] == 10 and state["episodes"] == 4
    assert state["of_processes"][0]["buffer"]["num_added"] == 4 * 12
    # Its 100 steps start over: two evaluations and an episode for seven updates do not reach them.
    assert train(tmp_path, *often, env="Broken-error-v0") == 0
    assert "Resuming from step 10" in capsys.readouterr().out


def test_the_checkpoint_of_another_run_is_refused_and_kept(tmp_path, capsys):
    assert train(tmp_path, "--steps", "8") == 0
    before = (tmp_path / "checkpoint.pt").read_bytes()
    capsys.readouterr()
    assert train(tmp_path, "--steps", "8", "--seed", "1", "--agent.epsilon", "0.5") == 2
    printed = capsys.readouterr().err
    assert "agent.epsilon was 0.25, is 0.5; seed was 0, is 1" in printed and "--restart" in printed
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_the_checkpoint_of_another_method_is_refused_in_one_sentence(tmp_path, capsys):
    assert train(tmp_path, "--steps", "8", method="gcbc") == 0
    before = (tmp_path / "checkpoint.pt").read_bytes()
    capsys.readouterr()
    assert train(tmp_path, "--steps", "8", method="tmd") == 2
    printed = capsys.readouterr().err
    assert (
        "belongs to a run of gcbc, not of tmd. Give another --out, or --restart" in printed and printed.count("\n") == 1
    )
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_a_file_that_is_no_checkpoint_is_refused_and_kept(tmp_path, capsys):
    (tmp_path / "checkpoint.pt").write_text("kept")
    assert train(tmp_path, "--steps", "8") == 2
    assert "is not a checkpoint" in capsys.readouterr().err
    assert (tmp_path / "checkpoint.pt").read_text() == "kept"
