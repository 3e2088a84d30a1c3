"""Checks of configurations, batches and checkpoints, made before any network runs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal, get_args, get_origin, get_type_hints

from torch import Tensor


def check_config(config: Any, *, at_least_zero: tuple[str, ...] = (), of_any_sign: tuple[str, ...] = ()) -> None:
    """Raises ValueError unless numbers are positive, or in the range that the arguments name, ``*_sizes`` and
    ``*_frequencies`` hold positive numbers, and fields of a Literal type hold one of its values. Turns ``*_sizes`` and
    ``*_frequencies`` into tuples."""
    name_of_class, types = type(config).__name__, get_type_hints(type(config))
    for name, value in vars(config).items():
        choices = get_args(types[name]) if get_origin(types[name]) is Literal else ()
        if choices and value not in choices:
            raise ValueError(f"{name_of_class}: {name} must be one of {', '.join(choices)}, got {value!r}.")
        if name.endswith(("_sizes", "_frequencies")):
            object.__setattr__(config, name, tuple(value))
            if any(number <= 0 for number in value):
                raise ValueError(f"{name_of_class}: {name} must be positive, got {tuple(value)}.")
        elif isinstance(value, int | float) and not isinstance(value, bool) and name not in of_any_sign:
            if not (value >= 0 if name in at_least_zero else value > 0):
                least = "at least 0" if name in at_least_zero else "positive"
                raise ValueError(f"{name_of_class}: {name} must be {least}, got {value}.")


def check_batch(agent: str, batch: dict[str, Tensor], row_shapes: dict[str, tuple[int, ...]]) -> None:
    """Raises ValueError unless the batch has the named tensors, with rows of these shapes and equally many rows."""
    missing = [name for name in row_shapes if name not in batch]
    if missing:
        raise ValueError(f"{agent}.update: the batch lacks {', '.join(missing)}; it has {', '.join(batch)}.")
    size = len(batch[next(iter(row_shapes))])
    for name, shape in row_shapes.items():
        if tuple(batch[name].shape) != (size, *shape):
            raise ValueError(f"{agent}.update: {name} must be {(size, *shape)}, got {tuple(batch[name].shape)}.")


def plain(config: Any) -> dict[str, Any]:
    """Returns a dataclass's fields with tuples as lists, as JSON and other formats read them back."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(config).items()}


def check_made_of(agent: str, made: dict[str, Any], checkpoint: dict[str, Any]) -> None:
    """Raises ValueError unless the agent was made with the sizes and settings of the checkpoint's."""
    names = [name for name in sorted({*made, *checkpoint}) if made.get(name) != checkpoint.get(name)]
    if names:
        listed = "; ".join(f"{name} must be {checkpoint.get(name)!r}, got {made.get(name)!r}" for name in names)
        raise ValueError(f"{agent}.load_state_dict: make the agent as the checkpoint's was: {listed}.")
