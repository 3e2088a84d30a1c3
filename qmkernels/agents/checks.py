"""Checks that agents make of their configurations, batches and checkpoints, before any network runs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal, get_args, get_origin, get_type_hints

from torch import Tensor


def check_config(config: Any, *, at_least_zero: tuple[str, ...] = (), of_any_sign: tuple[str, ...] = ()) -> None:
    """A dataclass's numbers are positive, at least 0 or of any sign; fields named ``*_sizes`` and ``*_frequencies``
    become tuples of positive numbers; those of a Literal type are one of its values."""
    name_of_class, types = type(config).__name__, get_type_hints(type(config))
    for name, value in vars(config).items():
        choices = get_args(types[name]) if get_origin(types[name]) is Literal else ()
        if choices and value not in choices:
            raise ValueError(f"{name_of_class}: {name} must be one of {', '.join(choices)}, got {value!r}.")
        if name.endswith(("_sizes", "_frequencies")):
            object.__setattr__(config, name, tuple(value))
            if any(each <= 0 for each in value):
                raise ValueError(f"{name_of_class}: {name} must be positive, got {tuple(value)}.")
        elif isinstance(value, int | float) and not isinstance(value, bool) and name not in of_any_sign:
            if not (value >= 0 if name in at_least_zero else value > 0):
                least = "at least 0" if name in at_least_zero else "positive"
                raise ValueError(f"{name_of_class}: {name} must be {least}, got {value}.")


def check_batch(agent: str, batch: dict[str, Tensor], wanted: dict[str, tuple[int, ...]]) -> None:
    """The batch has the wanted tensors, rows of the wanted shapes, as many of each as of the first."""
    missing = [name for name in wanted if name not in batch]
    if missing:
        raise ValueError(f"{agent}.update: the batch lacks {', '.join(missing)}; it has {', '.join(batch)}.")
    size = len(batch[next(iter(wanted))])
    for name, shape in wanted.items():
        if tuple(batch[name].shape) != (size, *shape):
            raise ValueError(f"{agent}.update: {name} must be {(size, *shape)}, got {tuple(batch[name].shape)}.")


def plain(config: Any) -> dict[str, Any]:
    """A dataclass's fields, with lists for tuples: as they come back from JSON and other formats."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(config).items()}


def check_made_of(agent: str, here: dict[str, Any], there: dict[str, Any]) -> None:
    """A checkpoint's agent was made of what this one is made of."""
    different = [name for name in sorted({*here, *there}) if here.get(name) != there.get(name)]
    if different:
        listed = "; ".join(f"{name} is {there.get(name)!r} there, {here.get(name)!r} here" for name in different)
        raise ValueError(f"{agent}.load_state_dict: the checkpoint is of another agent: {listed}.")
