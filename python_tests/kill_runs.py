"""Kills training runs at random moments, resumes them each time, and holds the end to an undisturbed run's, bit by bit.

    python python_tests/kill_runs.py [--kills 20] [--seed 0] [--method qrl]

Half of the kills (SIGKILL) meet a run that learns online, half one that learns offline, of a toy environment. It takes
some minutes, most of which are imports.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from training_runs import AGENTS, ENVIRONMENT_OF_PROCESSES, assert_same, checkpoint_of

STEPS = 1500
MODES = {"online": ["--no-offline", "--prefill-episodes", "50"], "offline": ["--offline", "--collect-steps", "3000"]}
RUN = """
import pathlib, sys
import training_runs
from qmkernels.train import report, trainer
print("begun", flush=True)
sys.exit(training_runs.train(pathlib.Path(sys.argv[1]), *sys.argv[3:], method=sys.argv[2]))
"""


def begin(out: Path, method: str, mode: str) -> subprocess.Popen:
    """A run in a process of its own, which has imported what it needs."""
    arguments = [method, *MODES[mode], "--steps", str(STEPS), "--evaluation-interval", "100"]
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(out), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=ENVIRONMENT_OF_PROCESSES,
    )  # fmt: skip
    if process.stdout.readline() != "begun\n":
        raise RuntimeError(f"the run did not begin: {process.communicate()[1]}")
    return process


def finish(process: subprocess.Popen) -> None:
    _, said = process.communicate(timeout=600)
    if process.returncode:
        raise RuntimeError(f"the run ended with status {process.returncode}: {said}")


def kill_and_compare(folder: Path, method: str, mode: str, kills: int, chance: random.Random) -> list[int]:
    """The steps of the checkpoints from which the run went on; AssertionError where its end is another one."""
    process, begun = begin(folder / "whole", method, mode), time.monotonic()
    finish(process)
    most = (time.monotonic() - begun) / kills  # so that the run cannot end before the last kill
    steps = []
    for _ in range(kills):
        process = begin(folder / "killed", method, mode)
        time.sleep(chance.uniform(0, most))
        assert process.poll() is None, "the run ended before it was killed"
        process.kill()
        process.communicate(timeout=60)
        written = (folder / "killed" / "checkpoint.pt").exists()
        steps.append(checkpoint_of(folder / "killed")["step"] if written else 0)
    finish(begin(folder / "killed", method, mode))
    assert_same(checkpoint_of(folder / "whole"), checkpoint_of(folder / "killed"))
    tables = [(folder / name / "metrics.csv").read_bytes() for name in ("whole", "killed")]
    assert tables[0] == tables[1], "other measures"
    return steps


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--method", choices=AGENTS, default="qrl")
    given = parser.parse_args()
    chance = random.Random(given.seed)
    for number, mode in enumerate(MODES):
        kills = (given.kills + number) // len(MODES)
        with tempfile.TemporaryDirectory() as folder:
            steps = kill_and_compare(Path(folder), given.method, mode, kills, chance)
        print(f"{given.method}, {mode}: killed {kills} times, went on from steps {steps} of {STEPS}, ends bit-equal.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
