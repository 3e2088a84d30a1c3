"""Other processes on this machine: a fresh Python, for what it must survive, and a group of them, which must agree."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs ``code`` in a new Python, outside the checkout, with ``environment`` on top of this one's."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True, text=True, timeout=300, cwd="/", env={**os.environ, **environment},
    )  # fmt: skip


def run_group(worker: Callable[[int], Any], folder: Path, count: int = 2, timeout_s: float = 120) -> list[Any]:
    """Returns the results of ``worker(rank)`` in the processes of a group, None for one that was ended by os._exit(0);
    raises an exception of any of them here. What waits ``timeout_s`` for another process fails."""
    run = partial(_run, worker, folder, count, timedelta(seconds=timeout_s))
    torch.multiprocessing.start_processes(run, nprocs=count, start_method="fork")
    files = [folder / f"{rank}.pt" for rank in range(count)]
    return [torch.load(file) if file.exists() else None for file in files]


def _run(worker: Callable[[int], Any], folder: Path, count: int, timeout: timedelta, rank: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=count, timeout=timeout
    )
    torch.save(worker(rank), folder / f"{rank}.pt")
    dist.destroy_process_group()
