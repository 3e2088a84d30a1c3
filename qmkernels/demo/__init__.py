"""``qmkernels demo``: learns the distances of MountainCar from random actions and draws them beside the true ones."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence

from ..options import read_settings

DESCRIPTION = """Trains a quasimetric value function, QRL's critic, on MountainCar, and draws it beside the true one."""

# Of the extra qmkernels[agents], what this demo imports.
NEEDED = ("gymnasium", "scipy", "matplotlib", "tqdm", "tyro")
INTERRUPTED = 130


def run(argv: Sequence[str]) -> int:
    """Runs the demo with the command's arguments; returns its exit status.

    0: done. 1: a package is missing or the files cannot be written. 2: an argument is wrong. 130: Ctrl-C; where the
    training had begun, what was learned until then is written all the same.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(f'qmkernels demo needs {", ".join(missing)}: pip install "qmkernels[agents]"', file=sys.stderr)
        return 1
    try:
        return _run(argv)
    except KeyboardInterrupt:
        print("qmkernels demo: interrupted; nothing was written.", file=sys.stderr)
        return INTERRUPTED


def _run(argv: Sequence[str]) -> int:
    from . import report
    from .mountaincar import Dynamics, Grid
    from .settings import GROUPS, Settings
    from .train import backend_for, train

    try:
        settings = read_settings(
            Settings(), argv, command="demo", groups=GROUPS, description=DESCRIPTION,
            example="qmkernels demo --steps 500 --seed 1 --out /tmp/demo",
        )  # fmt: skip
        backend_used = backend_for(settings.backend)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 2
    except (ValueError, RuntimeError) as error:
        print(f"qmkernels demo: {error}", file=sys.stderr)
        return 2
    try:
        settings.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"qmkernels demo: --out must be a folder, got {settings.out} ({error.strerror}).", file=sys.stderr)
        return 2

    grid = Grid(Dynamics.of_gymnasium())
    print(f"MountainCar on a {grid.size} x {grid.size} grid, IQE on backend {backend_used}.")
    print("Ctrl-C ends the training and keeps what was learned.", flush=True)
    outcome = train(grid, settings)
    found = report.metrics(grid, settings, outcome, backend_used)
    report.write(settings.out, found, report.figure(grid, outcome, report.title(found)))
    print(report.summary(found))
    print(f"Wrote {settings.out / report.FIGURE_NAME} and {settings.out / report.METRICS_NAME}.")
    return INTERRUPTED if outcome.interrupted else 0
