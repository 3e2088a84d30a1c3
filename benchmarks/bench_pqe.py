"""PQE-LH beside plain PyTorch, for pytest-benchmark and measure_ops.py.

pytest benchmarks/bench_pqe.py --benchmark-group-by=group
"""

from __future__ import annotations

import functools

import torch
from comparison import Case, compiled, parametrised, randn, run_benchmark
from torch import Tensor

import qmkernels as qm
from qmkernels.reference import pqe as definition

BACKWARD = "forward+backward"


def ours(function, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    return function(x, y, 4, weights=weights)


def plain(x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    return definition.pqe(x, y, weights, 4)


def plain_pairwise(x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    return plain(x[:, None], y, weights)


def inputs(rows: int) -> list[Tensor]:
    return [randn(rows, 512), randn(rows, 512, seed=1), torch.linspace(0.1, 1, 128)]


CASES = [
    Case(
        "pqe", "elementwise (1024, 512), K=4, weights", functools.partial(inputs, 1024),
        {
            "ours": lambda: functools.partial(ours, qm.pqe),
            "eager": lambda: plain,
            "compiled": compiled(plain),
        },
        aims={("eager", BACKWARD): 3},
        moved=(2 * 1024 * 512, 4 * 1024 * 512),
    ),
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
