"""The processes of one run, as ``torchrun`` starts them; without it there is one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from ..options import checked_device

# The others wait while the first one collects a dataset or evaluates.
_LONGEST_WAIT = timedelta(hours=12)


@dataclass(frozen=True)
class Processes:
    """This process among those that train together.

    Attributes:
        rank, count: number of this one, and how many there are.
        group: what averages the gradients; None where there is one process.
        control: the same processes by gloo, for numbers and objects on the CPU.
    """

    rank: int = 0
    count: int = 1
    group: dist.ProcessGroup | None = None
    control: dist.ProcessGroup | None = None

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def total(self, number: int) -> int:
        """The sum of every process's number, once all have called this."""
        if self.control is None:
            return number
        total = torch.tensor(int(number))
        dist.all_reduce(total, group=self.control)
        return int(total)

    def wait(self) -> None:
        """Returns once all have called this."""
        self.total(0)

    def gathered(self, value: Any) -> list[Any]:
        """Every process's value, in the first one; what the others get is of no use."""
        if self.control is None:
            return [value]
        values = [None] * self.count if self.is_first else None
        dist.gather_object(value, values, group=self.control)
        return values or []


def device_of(name: str) -> torch.device:
    """The device of that name, where it can be used; "auto" and "cuda" are this process's own GPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return checked_device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if name == "cuda" else name)


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """The processes that ``torchrun`` started, or this one alone; they leave together, unless one of them fails."""
    if dist.is_available() and dist.is_initialized():
        yield _processes()
    elif int(os.environ.get("WORLD_SIZE", 1)) == 1 or "RANK" not in os.environ:
        yield Processes()
    else:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_LONGEST_WAIT)
        try:
            processes = _processes()
            yield processes
            processes.wait()
        finally:
            dist.destroy_process_group()


def _processes() -> Processes:
    control = dist.new_group(backend="gloo", timeout=_LONGEST_WAIT)
    return Processes(dist.get_rank(), dist.get_world_size(), dist.group.WORLD, control)
