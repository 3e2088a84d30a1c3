"""``qmkernels train METHOD --env ID``: trains an agent on a gymnasium environment."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .experiments import METHODS, experiment_of

if TYPE_CHECKING:
    from .settings import Settings

# Of the extra qmkernels[agents], what every training imports.
NEEDED = ("gymnasium", "matplotlib", "tensorboard", "tqdm", "tyro")
INTERRUPTED = 130

DESCRIPTION = """{method} is {about}.

The same command again goes on from the last checkpoint. Under torchrun the processes train together: gradients are
averaged, and counts of transitions in a batch or a buffer and of episodes collected are each process's own. They share
the folder of --out."""


def usage() -> str:
    lines = "\n".join(f"  {name:10}{about}" for name, about in METHODS.items())
    return (
        f"usage: qmkernels train METHOD --env ID [OPTIONS]\n\n{lines}\n\n"
        "qmkernels train METHOD --help lists a method's options and presets."
    )


def run(argv: Sequence[str]) -> int:
    """Trains with the command's arguments; returns its exit status.

    0: done. 1: a package is missing. 2: an argument is wrong, or does not suit the environment, the data or the
    checkpoint. 130: Ctrl-C or a termination signal; a checkpoint is written, and the same command goes on from it.

    ``torchrun -m qmkernels.cli train ...`` trains with several processes.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(f'qmkernels train needs {", ".join(missing)}: pip install "qmkernels[agents]"', file=sys.stderr)
        return 1
    if argv and argv[0] in ("-h", "--help"):
        print(usage())
        return 0
    if not argv or argv[0] not in METHODS:
        print(f"qmkernels train: no method {argv[0]!r}.\n" if argv else "", usage(), sep="", file=sys.stderr)
        return 2
    method, arguments = argv[0], list(argv[1:])
    from . import processes, report
    from .trainer import Trainer

    experiment = experiment_of(method)
    try:
        settings = _settings(method, arguments)
        with processes.joined(processes.device_of(settings.device)) as together:
            trainer = Trainer(experiment, settings, together)
            finished = trainer.run()
            if together.is_first:
                report.write(trainer)
                print(report.summary(trainer, finished), flush=True)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 2
    except (ValueError, ImportError, FileExistsError, NotADirectoryError, argparse.ArgumentError) as error:
        print(f"qmkernels train: {error}", file=sys.stderr)
        return 2
    return 0 if finished else INTERRUPTED


def _settings(method: str, arguments: list[str]) -> Settings:
    """Of the command's arguments; SystemExit where it only asks for help, or tyro has said what is wrong."""
    import tyro

    # The defaults that --help shows, and that options change, are those of the preset.
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("env", "dataset", "preset"):
        first.add_argument(f"--{name}", default="")
    chosen, _ = first.parse_known_args(arguments)
    begun = experiment_of(method).defaults(chosen.env, chosen.dataset, chosen.preset or "auto")
    settings = tyro.cli(
        type(begun), args=arguments, prog=f"qmkernels train {method}", default=begun,
        description=DESCRIPTION.format(method=method, about=METHODS[method]),
    )  # fmt: skip
    if not settings.env:
        raise ValueError("--env is missing: give the name of a gymnasium environment.")
    return settings
