"""How time and memory of calls are measured, side by side in one process."""

from __future__ import annotations

import ctypes
import gc
import platform
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch


def interleaved_times_ms(
    contenders: Sequence[Callable[[], object]],
    rounds: int,
    synchronize: Callable[[], object] = lambda: None,
    least_ms: float = 5.0,
    after_round: Callable[[], object] = lambda: None,
) -> list[list[float]]:
    """Milliseconds of one call of each contender, ``rounds`` of them.

    They take turns, so that a busy moment of the machine meets them all; a turn repeats a short call until
    ``least_ms`` have passed, so that what the others left in the caches and the clock's steps do not count.
    """
    repeats = []
    for contender in contenders:
        contender()
        repeats.append(max(1, round(least_ms / _elapsed_ms(contender, 1, synchronize))))
    times: list[list[float]] = [[] for _ in contenders]
    for _ in range(rounds):
        for contender, count, own_times in zip(contenders, repeats, times, strict=True):
            own_times.append(_elapsed_ms(contender, count, synchronize) / count)
        after_round()
    return times


def _elapsed_ms(call: Callable[[], object], count: int, synchronize: Callable[[], object]) -> float:
    synchronize()
    begin = time.perf_counter()
    for _ in range(count):
        call()
    synchronize()
    return 1e3 * (time.perf_counter() - begin)


def in_cuda_graph(call: Callable[[], object]) -> Callable[[], object]:
    """Captures a call in a CUDA graph, once; returns what replays it and gives the results that it writes again."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = call()

    def replay() -> object:
        graph.replay()
        return results

    return replay


def peak_mib(call: Callable[[], object], returned: int, device: torch.device) -> float | None:
    """Peak memory of a call above what was there before it and the bytes that it returns; None where not known."""
    gc.collect()
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        peak = torch.cuda.max_memory_allocated(device) - before
    elif platform.system() == "Linux":
        # Freed heap goes back to the system first, or a call could reuse it unseen; then the high-water mark restarts.
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            return None
        status = Path("/proc/self/status")
        before = _bytes_of("VmRSS", status)
        call()
        peak = _bytes_of("VmHWM", status) - before
    else:
        return None
    return max(0, peak - returned) / 2**20


def free_bytes(device: torch.device) -> int | None:
    """Memory that a call could still have; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    path = Path("/proc/meminfo")
    return _bytes_of("MemAvailable", path) if path.exists() else None


def _bytes_of(field: str, path: Path) -> int:
    """A number of kB in a file of /proc."""
    return 1024 * int(re.search(rf"^{field}:\s+(\d+) kB", path.read_text(), re.MULTILINE).group(1))
