"""``qmkernels bench``: IQE as it runs here beside its plain PyTorch form, timed in one process.

The fuller comparison, with other contenders, memory and error, is in ``benchmarks/`` of a checkout.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from .backends import dispatch
from .definitions import iqe as definition
from .nn import IQE

# name, rows of x, columns of the matrix or None for matching rows, latent size, dim_per_component
SIZES = (
    ("256 x 512, K=8", 256, None, 512, 8),
    ("256 x 128, K=16", 256, None, 128, 16),
    ("1024 x 2048, K=32", 1024, None, 2048, 32),
    ("pairwise 128 x 128, D=512, K=8", 128, 128, 512, 8),
)


def run(arguments: Sequence[str] = ()) -> int:
    parser = argparse.ArgumentParser(prog="qmkernels bench", description="Times IQE beside its plain PyTorch form.")
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds; the median is shown (default 15)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads, for both sides")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    parser.add_argument("--backend", default=dispatch.requested(None), help=f"auto, {', '.join(dispatch.BACKENDS)}")
    options = parser.parse_args(arguments)
    if options.rounds < 1 or options.threads < 1:
        parser.error("--rounds and --threads must be at least 1")
    try:
        with dispatch.use_backend(options.backend):
            dispatch.resolve("iqe", torch.device(options.device).type, dispatch.requested(None))
    except (ValueError, RuntimeError) as error:
        parser.error(str(error))

    before = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        with dispatch.use_backend(options.backend):
            _print_table(options.rounds, options.device, options.backend)
    finally:
        torch.set_num_threads(before)
    return 0


def _print_table(rounds: int, device: str, backend: str) -> None:
    synchronize = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    print(f"IQE on {device}, {torch.get_num_threads()} threads, median of {rounds} rounds, float32.")
    print(f"Ours is backend {backend!r}; beside it the definition in plain PyTorch, eager.\n")
    print(f"{'size':32} {'pass':18} {'ours ms':>10} {'plain PyTorch ms':>17} {'ratio':>8}")
    for name, rows, columns, size, dim_per_component in SIZES:
        for direction in ("forward", "forward+backward"):
            sides = _sides(rows, columns, size, dim_per_component, direction == "forward", device)
            ours_ms, plain_ms = map(statistics.median, interleaved_times_ms(sides, rounds, synchronize))
            ratio = f"{plain_ms / ours_ms:.1f}x"
            print(f"{name:32} {direction:18} {ours_ms:10.3f} {plain_ms:17.3f} {ratio:>8}", flush=True)


def _sides(
    rows: int, columns: int | None, size: int, dim_per_component: int, forward_only: bool, device: str
) -> list[Callable[[], object]]:
    """Ours and the definition in plain PyTorch, which forms a matrix by broadcasting: the same inputs and gradients."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(count, size, generator=generator).to(device) for count in (rows, columns or rows))
    head = IQE(size, dim_per_component).to(device)
    inputs = [x.requires_grad_(), y.requires_grad_(), *head.parameters()]
    ours = head if columns is None else head.pairwise

    def plain(x: Tensor, y: Tensor) -> Tensor:
        x = x if columns is None else x.unsqueeze(-2)
        return head.reduction(definition.components(x, y, dim_per_component))

    if forward_only:
        return [partial(torch.no_grad()(distance), x, y) for distance in (ours, plain)]
    upstream = torch.ones((rows,) if columns is None else (rows, columns), device=device)
    return [
        lambda distance=distance: torch.autograd.grad(distance(x, y), inputs, upstream) for distance in (ours, plain)
    ]


def interleaved_times_ms(
    contenders: Sequence[Callable[[], object]],
    rounds: int,
    synchronize: Callable[[], object] = lambda: None,
    least_ms: float = 5.0,
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
    return times


def _elapsed_ms(call: Callable[[], object], count: int, synchronize: Callable[[], object]) -> float:
    synchronize()
    begin = time.perf_counter()
    for _ in range(count):
        call()
    synchronize()
    return 1e3 * (time.perf_counter() - begin)
