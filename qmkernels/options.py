"""Options of the commands: help in groups with an example at its end, and errors of one line that say what to do."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import io
import re
import typing
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, NoReturn, TypeVar

import torch

Settings = TypeVar("Settings")


def suggestion(name: str, known: Iterable[str]) -> str:
    """``" Did you mean NAME?"`` with the known name closest to a mistyped one; empty where none is close."""
    closest = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {closest[0]}?" if closest else ""


def checked_device(name: str) -> torch.device:
    """The device of that name; ValueError where torch knows no such device, or cannot use it here."""
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(f"--device {name} cannot be used here: {reason}. Use --device cpu.") from error


class Parser(argparse.ArgumentParser):
    """argparse's parser for one command, with an example in its help; errors are one line and exit with status 2."""

    def __init__(self, command: str, description: str, example: str) -> None:
        super().__init__(
            prog=f"qmkernels {command}", description=description, epilog=f"example: {example}", allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            known = re.findall(r"--[\w-]+", self.format_usage())
            kind = "option" if unknown[0].startswith("-") else "argument"
            self.error(f"unknown {kind} {unknown[0]}.{suggestion(unknown[0], known)}")
        return options

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {sentence(message)} See {self.prog} --help.\n")


def sentence(message: str) -> str:
    """The message with a full stop, unless it ends like a sentence."""
    return message if message.endswith((".", "?")) else f"{message}."


def read_settings(
    defaults: Settings, arguments: Sequence[str], *, command: str, description: str, example: str,
    groups: Mapping[str, str],
) -> Settings:  # fmt: skip
    """The settings with what the arguments change, by tyro; options are named and explained as the fields are.

    Args:
        defaults: a dataclass. A field that is a dataclass itself is a group of its own, with its name before those of
            its options.
        groups: names of the first fields of the other groups, to their titles in the help.

    Raises ValueError, whose message is one line, for options that are wrong; SystemExit once the help was printed.
    """
    import tyro

    grouped, whole = _in_groups(defaults, groups)
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            found = tyro.cli(
                grouped, args=list(arguments), default=whole, prog=f"qmkernels {command}", description=description
            )
    except SystemExit as stop:
        if stop.code:
            raise ValueError(f"{_first_paragraph(errors.getvalue())} See qmkernels {command} --help.") from None
        print(f"example: {example}")
        raise
    values = {}
    for title, part in vars(found).items():
        values |= vars(part) if title in groups.values() else {title: part}
    return type(defaults)(**values)


def _in_groups(defaults: Any, groups: Mapping[str, str]) -> tuple[type, Any]:
    """A dataclass with a part for each group, and the defaults as one: tyro's help has a box for each part."""
    import docstring_parser
    import tyro

    kind = type(defaults)
    types = typing.get_type_hints(kind)
    explained = {
        parameter.arg_name: " ".join((parameter.description or "").split())
        for base in reversed(kind.__mro__[:-1])
        for parameter in docstring_parser.parse_from_object(base).params
    }
    members: dict[str, list[tuple[str, type, Any]]] = {title: [] for title in groups.values()}
    nested: list[tuple[str, type, Any]] = []
    title = None
    for field in dataclasses.fields(kind):
        title = groups.get(field.name, title)
        group = nested if dataclasses.is_dataclass(types[field.name]) else members[title]
        metadata = {"help": explained.get(field.name)}
        group.append((field.name, types[field.name], dataclasses.field(metadata=metadata)))
    parts = {title: dataclasses.make_dataclass(title, fields) for title, fields in members.items() if fields}
    for part in parts.values():
        part.__doc__ = ""
    grouped = dataclasses.make_dataclass(
        kind.__name__, [*((title, tyro.conf.OmitArgPrefixes[part]) for title, part in parts.items()), *nested]
    )
    values = {
        title: part(**{field.name: getattr(defaults, field.name) for field in dataclasses.fields(part)})
        for title, part in parts.items()
    }
    return grouped, grouped(**values, **{name: getattr(defaults, name) for name, *_ in nested})


def _first_paragraph(box: str) -> str:
    """What tyro's box says below its title and up to the next rule, on one line, and the option that it thinks was
    meant."""
    rows = [row.strip(" │") for row in box.splitlines()[1:]]
    said = next(list(group) for is_rule, group in groupby(rows, lambda row: not row.strip("─-╰╯ ")) if not is_rule)
    meant = re.search(r"Perhaps you meant.*?(--[\w.-]+)", box, re.DOTALL)
    return sentence(" ".join(" ".join(said).split())) + (f" Did you mean {meant[1]}?" if meant else "")
