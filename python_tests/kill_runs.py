"""Kills training runs at random moments, resumes them each time, and compares the end with an undisturbed run's bits.

    python python_tests/kill_runs.py [--kills 20] [--seed 0] [--method qrl]

Half of the kills (SIGKILL) hit a run that learns online, half one that learns offline, in a toy environment. It takes
some minutes, mostly for imports, and needs Linux.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from training_runs import ENVIRONMENT_OF_PROCESSES, REACHING, assert_same, checkpoint_of

STEPS = 1500
MODES = {"online": ["--no-offline", "--prefill-episodes", "50"], "offline": ["--offline", "--collect-steps", "3000"]}
RUN = """
import pathlib, sys
import tyro, training_runs
from qmkernels.train import experiment_of, report, trainer
experiment_of(sys.argv[2])
print("begun", flush=True)
sys.exit(training_runs.train(pathlib.Path(sys.argv[1]), *sys.argv[3:], method=sys.argv[2]))
"""


class Run:
    """A run in its own process, after its imports. Times are processor seconds, so that other work on the machine does
    not move a kill."""

    def __init__(self, out: Path, method: str, mode: str) -> None:
        self.checkpoint = out / "checkpoint.pt"
        arguments = [method, *MODES[mode], "--steps", str(STEPS), "--evaluation-interval", "100"]
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUN, str(out), *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, env=ENVIRONMENT_OF_PROCESSES,
        )  # fmt: skip
        assert self.process.stdout.readline() == "begun\n", "the run did not begin"
        self.begun_s = 0.0
        self.begun_s = self.used_s()

    def used_s(self) -> float:
        """Returns the processor seconds since the run began."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") - self.begun_s

    def until(self, is_reached: Callable[[], bool]) -> None:
        while not is_reached():
            assert self.process.poll() is None, "the run ended too early"
            time.sleep(0.002)

    def finish(self) -> None:
        self.process.communicate(timeout=1200)
        assert self.process.returncode == 0, f"the run ended with status {self.process.returncode}"


def kill_and_compare(folder: Path, method: str, mode: str, kills: int, chance: random.Random) -> list[int]:
    """Returns the steps of the checkpoints from which the run resumed; AssertionError if it ends differently."""
    whole = Run(folder / "whole", method, mode)
    whole.until(whole.checkpoint.exists)
    before_s = whole.used_s()
    whole.until(lambda: checkpoint_of(folder / "whole")["step"] >= STEPS // 2)
    half_s = whole.used_s() - before_s
    whole.finish()
    steps = []
    for _ in range(kills):
        run = Run(folder / "killed", method, mode)
        after_s = chance.uniform(0, before_s + 2 * half_s / kills)
        run.until(lambda run=run, after_s=after_s: run.used_s() >= after_s)
        run.process.kill()
        run.process.communicate(timeout=60)
        steps.append(checkpoint_of(folder / "killed")["step"] if run.checkpoint.exists() else 0)
    Run(folder / "killed", method, mode).finish()
    assert_same(checkpoint_of(folder / "whole"), checkpoint_of(folder / "killed"))
    tables = [(folder / name / "metrics.csv").read_bytes() for name in ("whole", "killed")]
    assert tables[0] == tables[1], "other measures"
    return steps


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--method", choices=REACHING, default="qrl")
    options = parser.parse_args()
    chance = random.Random(options.seed)
    for number, mode in enumerate(MODES):
        kills = (options.kills + number) // len(MODES)
        with tempfile.TemporaryDirectory() as folder:
            steps = kill_and_compare(Path(folder), options.method, mode, kills, chance)
        print(f"{options.method}, {mode}: killed {kills} times, resumed from steps {steps} of {STEPS}, ends bit-equal.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
