"""``qmkernels sweep``: a table of training runs, methods by environments by seeds, and their aggregate."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..options import read_settings, suggestion
from ..progress import progress
from . import NEEDED, settings_of
from .experiments import METHODS

LOG_NAME, METRICS_NAME = "log.txt", "metrics.json"
TABLE_NAME, FIGURE_NAME = "sweep.csv", "sweep.png"
SECONDS_TO_STOP = 60.0

DESCRIPTION = """Trains every method in every environment with every seed, and draws the aggregate.

What stands behind -- goes to every training command. A run is `qmkernels train` with one thread and a folder of its
own in --out. The same sweep leaves out what is finished and resumes the rest."""
EXAMPLE = (
    f"qmkernels sweep --methods {' '.join(list(METHODS)[:2])} --envs PointMaze_UMaze-v3 --seeds 0 1 2 --jobs 2 -- "
    "--steps 1500"
)
GROUPS = {"methods": "table", "out": "runs"}
# A console script without its folder on sys.path, where `-m` would put the working directory.
_COMMAND = "import sys; sys.path[:] = filter(None, sys.path); from qmkernels.cli import main; sys.exit(main())"


@dataclass(frozen=True)
class SweepSettings:
    methods: tuple[str, ...] = ()
    """Methods, each with options of its own where it is quoted: "metric_rl --head iqe"."""
    envs: tuple[str, ...] = ()
    """Names of environments, as for train."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the runs."""

    out: Path = Path("qmkernels_sweep")
    """Folder of the runs, sweep.csv and sweep.png; made where missing."""
    jobs: int = 1
    """Runs at the same time."""
    slurm: bool = False
    """Print a Slurm array script of the runs that are not finished, instead of running them."""

    def __post_init__(self) -> None:
        for name in ("methods", "envs", "seeds"):
            given = getattr(self, name)
            if len(set(given)) < len(given):
                raise ValueError(f"--{name} must name each once, got {' '.join(map(str, given))}.")
        if self.jobs < 1:
            raise ValueError(f"--jobs must be at least 1, got {self.jobs}.")


@dataclass(frozen=True)
class Run:
    """One training run of the table."""

    method: str
    """With its own options."""
    env: str
    seed: int
    out: Path
    arguments: tuple[str, ...]
    """Of the command ``qmkernels train``."""
    settings: Any
    """What they amount to."""

    def __str__(self) -> str:
        return f"{self.method} {self.env} seed {self.seed}"

    def metrics(self) -> dict[str, Any] | None:
        """What the finished run measured; None where it is not finished, or had other settings."""
        try:
            found = json.loads((self.out / METRICS_NAME).read_text())
        except (OSError, ValueError):
            return None
        kept, asked = ({k: v for k, v in each.items() if k.split(".")[0] not in self.settings.free_to_change}
                       for each in (found["settings"], self.settings.plain()))  # fmt: skip
        return found if found["step"] >= self.settings.steps and kept == asked else None

    def start(self) -> subprocess.Popen:
        """In a session of its own: Ctrl-C in the terminal reaches the sweep alone, which ends its runs once."""
        self.out.mkdir(parents=True, exist_ok=True)
        with open(self.out / LOG_NAME, "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-c", _COMMAND, "train", *self.arguments], stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
            )  # fmt: skip

    def last_words(self) -> str:
        lines = (self.out / LOG_NAME).read_text(errors="replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "nothing was printed")


def run(argv: Sequence[str]) -> int:
    """Runs the sweep of the command's arguments; returns its exit status.

    0: all runs are finished. 1: a run failed, or a package is missing. 2: an argument is wrong, of the sweep or of a
    training command; nothing was started. 130, by the console script: Ctrl-C or a termination signal; the runs ended
    with checkpoints, from which the same sweep resumes.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(f'qmkernels sweep needs {", ".join(missing)}: pip install "qmkernels[agents]"', file=sys.stderr)
        return 1
    own, options = list(argv), []
    if "--" in own:
        begin = own.index("--")
        own, options = own[:begin], own[begin + 1 :]
    try:
        settings = read_settings(
            SweepSettings(), own, command="sweep", description=DESCRIPTION, example=EXAMPLE, groups=GROUPS
        )
        runs = table(settings, options)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 2
    except (ValueError, ImportError) as error:
        print(f"qmkernels sweep: {error}", file=sys.stderr)
        return 2
    unfinished = [each for each in runs if each.metrics() is None]
    if settings.slurm:
        print(slurm_script(settings, unfinished), end="")
        return 0
    failed = run_all(unfinished, settings.jobs)
    measured = [(each, found) for each in runs if (found := each.metrics()) is not None]
    if measured:
        from . import aggregate

        rows = aggregate.rows_of((each.method, found) for each, found in measured)
        aggregate.write(rows, settings.out / TABLE_NAME, settings.out / FIGURE_NAME)
        print(f"Wrote {TABLE_NAME} and {FIGURE_NAME} of {len(measured)} of {len(runs)} runs to {settings.out}.")
    for each, status in failed:
        print(f"FAILED with status {status}: {each}: {each.last_words()} ({each.out / LOG_NAME})", file=sys.stderr)
    return 1 if failed else 0


def table(settings: SweepSettings, options: list[str]) -> list[Run]:
    """The runs, seeds last; ValueError for what any of the training commands would refuse."""
    for name in ("methods", "envs", "seeds"):
        if not getattr(settings, name):
            raise ValueError(f"--{name} is missing: name at least one.")
    runs = []
    for method, env, seed in itertools.product(settings.methods, settings.envs, settings.seeds):
        name, *own = shlex.split(method) or [""]
        if name not in METHODS:
            raise ValueError(f"no method {name!r}.{suggestion(name, METHODS)} Methods: {', '.join(METHODS)}.")
        folder = Path(*(re.sub(r"[^\w.-]+", "_", part) for part in (method, env, f"seed_{seed}")))
        which = env, seed, settings.out / folder
        asked = ["--env", env, "--seed", str(seed), "--out", str(settings.out / folder), *options, *own]
        of_run = settings_of(name, asked)
        if (of_run.env, of_run.seed, of_run.out) != which:
            given = shlex.join([*options, *own])
            raise ValueError(f"--env, --seed and --out of a run are the sweep's own: leave them out of {given}.")
        runs.append(Run(method, *which, (name, *asked), of_run))
    return runs


def slurm_script(settings: SweepSettings, runs: Sequence[Run]) -> str:
    """A batch script with a task for each run, which ends with a checkpoint before its time is over."""
    lines = [
        "#!/bin/bash",
        "#SBATCH --job-name=qmkernels-sweep",
        f"#SBATCH --array=0-{len(runs) - 1}%{settings.jobs}",
        "#SBATCH --cpus-per-task=1",
        "#SBATCH --signal=B:TERM@120",
        "# Give --time and what else your cluster asks for; submit it again to resume, and draw the aggregate by the",
        "# same sweep without --slurm.",
        "export OMP_NUM_THREADS=1",
        'case "$SLURM_ARRAY_TASK_ID" in',
        *(
            f"{number}) exec {shlex.join(['qmkernels', 'train', *each.arguments])} ;;"
            for number, each in enumerate(runs)
        ),
        "esac",
    ]
    return "\n".join(lines) + "\n" if runs else "# All runs are finished.\n"


def run_all(runs: Sequence[Run], jobs: int) -> list[tuple[Run, int]]:
    """Runs them, ``jobs`` at the same time; returns those that failed, with their status."""
    waiting, running, failed = list(runs), {}, []
    with progress(len(runs), "run") as bar, _termination_interrupts():
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    each = waiting.pop(0)
                    running[each.out] = each, each.start()
                time.sleep(0.05)
                for each, process in list(running.values()):
                    status = process.poll()
                    if status is not None:
                        del running[each.out]
                        failed += [(each, status)] if status else []
                        bar.update()
                        print(f"{'Failed' if status else 'Finished'}: {each}", flush=True)
        finally:
            _end([process for _, process in running.values()])
    return failed


def _end(processes: Sequence[subprocess.Popen]) -> None:
    """Asks them to end, which leaves checkpoints, and waits; kills those that do not, or all on a second Ctrl-C."""
    for each in processes:
        each.terminate()
    latest = time.monotonic() + SECONDS_TO_STOP
    try:
        for each in processes:
            each.wait(timeout=max(0.0, latest - time.monotonic()))
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        pass
    for each in processes:
        each.kill()
        each.wait()


@contextlib.contextmanager
def _termination_interrupts() -> Iterator[None]:
    """A termination signal interrupts, even where Ctrl-C is ignored, as in a shell's background."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
