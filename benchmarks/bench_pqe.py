"""PQE-LH beside plain PyTorch, for pytest-benchmark and measure_ops.py.

pytest benchmarks/bench_pqe.py --benchmark-group-by=group
"""

from __future__ import annotations

import functools

import torch
from comparison import Case, compiled, parametrised, randn, run_benchmark
from torch import Tensor

import qmkernels as qm
from qmkernels.definitions import pqe as definition

BACKWARD = "forward+backward"


def ours(function, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    return function(x, y, 4, weights=weights)


def plain(x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    return definition.pqe(x, y, weights, 4)


def plain_pairwise(x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    return plain(x[:, None], y, weights)


def inputs(rows: int) -> list[Tensor]:
    return [randn(rows, 512), randn(rows, 512, seed=1), torch.linspace(0.1, 1, 128)]


def elementwise(rows: int, aims: dict[tuple[str, str], float]) -> Case:
    return Case(
        "pqe", f"elementwise ({rows}, 512), K=4, weights", functools.partial(inputs, rows),
        {
            "ours": lambda: functools.partial(ours, qm.pqe),
            "eager": lambda: plain,
            "compiled": compiled(plain),
        },
        aims=aims,
        moved=(2 * rows * 512, 4 * rows * 512),
    )  # fmt: skip


CASES = [
    elementwise(1024, {("eager", BACKWARD): 3}),
    elementwise(2, {}),  # what a call costs that has next to nothing to compute
    Case(
        "pqe", "pairwise 512 x 512, D=512, K=4, weights", functools.partial(inputs, 512),
        {
            "ours": lambda: functools.partial(ours, qm.pqe_pairwise),
            "eager": lambda: plain_pairwise,
            "compiled": compiled(plain_pairwise),
        },
    ),
]  # fmt: skip


@parametrised(CASES)
def test_pqe(benchmark, case, direction, contender):
    run_benchmark(benchmark, case, direction, contender)
