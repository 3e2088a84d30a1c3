"""``qmkernels train METHOD --env ID``: trains an agent on a gymnasium environment."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..options import read_settings, suggestion
from .experiments import METHODS, experiment_of

if TYPE_CHECKING:
    from .settings import Settings

# Of the extra qmkernels[agents], what every training imports.
NEEDED = ("gymnasium", "matplotlib", "tensorboard", "tqdm", "tyro")
INTERRUPTED = 130

DESCRIPTION = """Trains {method}, {about}.

The same command resumes from the last checkpoint. Under torchrun the processes train together: gradients are averaged;
each process has its own batches, buffer and episodes, and the options count those of one process."""
EXAMPLE = "qmkernels train {method} --env {env} --seed 0 --out runs/{method}"


def usage() -> str:
    lines = "\n".join(f"  {name:10}{about}" for name, about in METHODS.items())
    return (
        f"usage: qmkernels train METHOD --env ID [OPTIONS]\n\n{lines}\n\n{_shared_options()}\n\n"
        "qmkernels train METHOD --help explains them, and lists the presets and what else the method has.\n"
        f"example: {EXAMPLE.format(method=next(iter(METHODS)), env='PointMaze_UMaze-v3')}"
    )


def _shared_options() -> str:
    """The options of all methods by their groups."""
    from .settings import GROUPS, Settings

    lines = ["options of all methods:"]
    for name in (field.name for field in dataclasses.fields(Settings)):
        if name in GROUPS:
            lines.append(f"  {GROUPS[name]:13}")
        lines[-1] += f"--{name.replace('_', '-')} "
    return "\n".join(map(str.rstrip, lines))


def run(argv: Sequence[str]) -> int:
    """Trains with the command's arguments; returns its exit status.

    0: done. 1: a package is missing. 2: an argument is wrong, or does not suit the environment, the data or the
    checkpoint. 130: Ctrl-C or a termination signal; a checkpoint is written, from which the same command resumes.

    ``torchrun -m qmkernels.cli train ...`` trains with several processes.
    """
    if argv and argv[0] in ("-h", "--help"):
        print(usage())
        return 0
    if not argv or argv[0] not in METHODS:
        wrong = f"no method {argv[0]!r}.{suggestion(argv[0], METHODS)}" if argv else "METHOD is missing."
        print(f"qmkernels train: {wrong} Methods: {', '.join(METHODS)}.", file=sys.stderr)
        return 2
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(f'qmkernels train needs {", ".join(missing)}: pip install "qmkernels[agents]"', file=sys.stderr)
        return 1
    method, arguments = argv[0], list(argv[1:])
    from . import processes, report
    from .trainer import Trainer

    experiment = experiment_of(method)
    try:
        settings = settings_of(method, arguments)
        with processes.joined(processes.device_of(settings.device)) as together:
            trainer = Trainer(experiment, settings, together)
            finished = trainer.run()
            if together.is_first:
                report.write(trainer)
                print(report.summary(trainer, finished), flush=True)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 2
    except (ValueError, ImportError, argparse.ArgumentError) as error:
        print(f"qmkernels train: {error}", file=sys.stderr)
        return 2
    return 0 if finished else INTERRUPTED


def settings_of(method: str, arguments: list[str]) -> Settings:
    """From the command's arguments; ValueError where they are wrong, SystemExit once the help was printed."""
    from .settings import GROUPS, Settings

    # The defaults that --help shows, and that options change, are those of the preset.
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("env", "dataset", "preset"):
        first.add_argument(f"--{name}", default="")
    chosen, _ = first.parse_known_args(arguments)
    experiment = experiment_of(method)
    initial = experiment.defaults(chosen.env, chosen.dataset, chosen.preset or "auto")
    shared = {field.name for field in dataclasses.fields(Settings)}
    added = [field.name for field in dataclasses.fields(initial) if field.name not in shared]
    settings = read_settings(
        initial, arguments, command=f"train {method}", groups={**GROUPS, added[0]: method},
        description=DESCRIPTION.format(method=method, about=METHODS[method]),
        example=EXAMPLE.format(method=method, env=experiment.example),
    )  # fmt: skip
    if not settings.env:
        raise ValueError(f"--env is missing: give the name of a gymnasium environment, such as {experiment.example}.")
    return settings
