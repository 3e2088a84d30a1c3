"""``qmkernels train AGENT --env ID``: trains an agent on a gymnasium environment with goals."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence

# Of the extra qmkernels[agents], what every training imports.
NEEDED = ("gymnasium", "matplotlib", "tensorboard", "tqdm", "tyro")
AGENTS = ("qrl",)
INTERRUPTED = 130


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
    if not argv or argv[0] not in AGENTS:
        asked = bool(argv) and argv[0] in ("-h", "--help")
        print(f"usage: qmkernels train {{{','.join(AGENTS)}}} --env ID [OPTIONS]", file=None if asked else sys.stderr)
        return 0 if asked else 2
    import tyro

    from . import processes, report
    from .presets import PRESETS, defaults
    from .settings import Settings
    from .trainer import Trainer

    # The defaults that --help shows, and that options change, are those of the preset.
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name, choices in (("env", None), ("dataset", None), ("preset", ("auto", *PRESETS))):
        first.add_argument(f"--{name}", default="", choices=choices)
    try:
        chosen, _ = first.parse_known_args(argv[1:])
        begun = defaults(chosen.env, chosen.dataset, chosen.preset or "auto")
        settings = tyro.cli(Settings, args=list(argv[1:]), prog=f"qmkernels train {argv[0]}", default=begun)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 2
    except ValueError as error:
        print(f"qmkernels train: {error}", file=sys.stderr)
        return 2
    try:
        with processes.joined(processes.device_of(settings.device)) as together:
            trainer = Trainer(settings, together)
            finished = trainer.run()
            if together.is_first:
                report.write(trainer)
                print(report.summary(trainer, finished), flush=True)
    except (ValueError, ImportError, FileExistsError, NotADirectoryError) as error:
        print(f"qmkernels train: {error}", file=sys.stderr)
        return 2
    return 0 if finished else INTERRUPTED
