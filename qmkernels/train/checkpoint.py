"""Files that are whole or not there: checkpoints, and whatever else a run leaves behind."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import torch


def write_whole(path: Path, write: Callable[[Any], None]) -> None:
    """Calls ``write`` with a binary file, which replaces ``path`` once its bytes are on the disk."""
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def save(path: Path, state: dict[str, Any]) -> None:
    """Writes tensors, numbers, strings, lists and dictionaries; an earlier file stays until this one is whole."""
    write_whole(path, lambda file: torch.save(state, file))


def load(path: Path) -> dict[str, Any]:
    """Reads what `save` wrote, onto the CPU; nothing in the file is executed."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"{path} is not a checkpoint of this command. Give another --out, or --restart to start over."
        ) from error


def random_state(generator: numpy.random.Generator, device: torch.device) -> dict[str, Any]:
    """Of the generator, and of torch's own generators."""
    state = {"numpy": generator.bit_generator.state, "torch": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, Any], generator: numpy.random.Generator, device: torch.device) -> None:
    generator.bit_generator.state = state["numpy"]
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
