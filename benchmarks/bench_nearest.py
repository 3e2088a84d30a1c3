"""Nearest neighbours beside chunked distances and topk in plain PyTorch, for pytest-benchmark and measure_ops.py.

    pytest benchmarks/bench_nearest.py --benchmark-group-by=group

The plain forms go through a part of the bank only: their time is proportional to it, and all of it would take minutes.
`PARTS` says what measure_ops.py multiplies their times by.
"""

from __future__ import annotations

import functools

import torch
from bench_iqe import PlainIQE, sort_form, unrolled_sort_form
from comparison import Case, compiled, parametrised, randn, run_benchmark
from torch import Tensor

import qmkernels as qm

PARTS = {"eager": 100, "compiled": 50}


def plain_nearest(head, chunk: int, bank: int):
    """The k smallest by distances of chunks of the bank and topk, as one writes it in PyTorch."""

    def run(x: Tensor, y: Tensor, k: int = 10) -> Tensor:
        best = None
        for part in y[:bank].split(chunk):
            distances = head(x[:, None], part)
            everything = distances if best is None else torch.cat([best, distances], dim=1)
            best = everything.topk(k, dim=1, largest=False).values
        return best

    return run


def ours(bank: int):
    head = qm.nn.IQE(512, 8)

    def run(x: Tensor, y: Tensor) -> Tensor:
        return qm.nearest(x, y[:bank], 10, metric=head).values

    return run


def _compiled_head():
    return plain_nearest(compiled(PlainIQE(unrolled_sort_form, 8))(), 500, 100_000 // PARTS["compiled"])


CASES = [
    Case(
        "nearest", "1,024 queries, bank of 100,000, D=512, IQE K=8, k=10",
        lambda: [randn(1024, 512), randn(100_000, 512, seed=1)],
        {
            "ours": functools.partial(ours, 100_000),
            "eager": lambda: plain_nearest(PlainIQE(sort_form, 8), 100, 100_000 // PARTS["eager"]),
            "compiled": _compiled_head,
        },
        directions=("forward",),
        aims={("eager", "forward"): 100},
    ),
    Case(
        "nearest", "1,024 queries, bank of 10,000, D=512, IQE K=8, k=10",
        lambda: [randn(1024, 512), randn(10_000, 512, seed=1)],
        {"ours": functools.partial(ours, 10_000)},
        directions=("forward",),
    ),
]  # fmt: skip


@parametrised(CASES)
def test_nearest(benchmark, case, direction, contender):
    run_benchmark(benchmark, case, direction, contender)
