"""The console script ``qmkernels``: one command a word, each imported only when it is called."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence


def _info(arguments: Sequence[str]) -> int:
    from .info import run

    return run(arguments)


def _demo(arguments: Sequence[str]) -> int:
    from .demo import run

    return run(arguments)


def _train(arguments: Sequence[str]) -> int:
    from .train import run

    return run(arguments)


def _bench(arguments: Sequence[str]) -> int:
    from .bench import run

    return run(arguments)


COMMANDS: dict[str, tuple[str, Callable[[Sequence[str]], int]]] = {
    "info": ("versions, build, devices, and which backend runs which op", _info),
    "demo": ("train a quasimetric value function on MountainCar and draw it beside the true one", _demo),
    "train": ("train an agent on an environment", _train),
    "bench": ("time IQE beside its plain PyTorch form at the published sizes", _bench),
}


def usage() -> str:
    lines = "\n".join(f"  {name:8}{about}" for name, (about, _) in COMMANDS.items())
    return f"usage: qmkernels COMMAND [OPTIONS]\n\n{lines}\n\nqmkernels COMMAND --help lists its options."


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command named first; returns the exit status: 2 for a command that there is not."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        print(f"qmkernels: no command {name!r}; there are {', '.join(COMMANDS)}.", file=sys.stderr)
        return 2
    return COMMANDS[name][1](rest)


if __name__ == "__main__":
    sys.exit(main())
