"""The console script ``qmkernels``: a module for each command, imported when the command is called."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from .info import version_of
from .options import suggestion

COMMANDS = {
    "info": "show versions, build, devices, and which backend runs which op",
    "demo": "train a quasimetric value function on MountainCar and draw it beside the true one",
    "train": "train an agent in an environment",
    "sweep": "train methods in environments with several seeds, and draw the aggregate",
    "bench": "time the heads beside torchqmet and plain PyTorch, at sizes of your own",
}
MODULES = {"sweep": "train.sweep"}
"""Those that have no module of their own name."""
INTERRUPTED, PIPE_CLOSED = 130, 141


def usage() -> str:
    lines = "\n".join(f"  {name:8}{about}" for name, about in COMMANDS.items())
    return (
        f"usage: qmkernels COMMAND [OPTIONS]\n\n{lines}\n\n"
        "qmkernels COMMAND --help lists a command's options; qmkernels --version prints the version.\n"
        "example: qmkernels demo --steps 500 --out /tmp/demo"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command named first and returns its exit status; that of an unknown command is 2."""
    name, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help", "help"):
        print(usage())
        return 0
    if name == "--version":
        print(f"qmkernels {version_of('qmkernels')}")
        return 0
    if name not in COMMANDS:
        print(
            f"qmkernels: no command {name!r}.{suggestion(name, COMMANDS)} Commands: {', '.join(COMMANDS)}.",
            file=sys.stderr,
        )
        return 2
    try:
        status = importlib.import_module(f".{MODULES.get(name, name)}", __package__).run(rest)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print(f"qmkernels {name}: interrupted.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of the output is gone, as `head` is; what the interpreter still flushes at exit goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED


if __name__ == "__main__":
    sys.exit(main())
