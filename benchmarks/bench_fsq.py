"""Finite scalar quantisation beside plain PyTorch, for pytest-benchmark and measure_ops.py.

pytest benchmarks/bench_fsq.py --benchmark-group-by=group
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from comparison import Case, compiled, parametrised, randn, run_benchmark
from torch import Tensor

import qmkernels as qm

BACKWARD = "forward+backward"
LEVELS = [8, 8]
ROWS, SIZE = 1280, 1024  # iQRL's batch of 256 times its horizon of 5; 512 groups of two values


def plain_fsq() -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Codes and indices, as the FSQ module that iQRL uses computes them, but the constants once for all calls."""
    count = torch.tensor(LEVELS)
    half = (count - 1) * (1 + 1e-3) / 2
    offset = torch.where(count % 2 == 0, 0.5, 0.0)
    shift = (offset / half).atanh()
    width = (count // 2).float()
    place = torch.tensor([float(math.prod(LEVELS[:j])) for j in range(len(LEVELS))])

    def quantise(z: Tensor) -> tuple[Tensor, Tensor]:
        z = z.unflatten(-1, (-1, len(LEVELS)))
        bounded = (z + shift).tanh() * half - offset
        codes = (bounded + (bounded.round() - bounded).detach()) / width
        indices = ((codes * width + width) * place).sum(dim=-1).to(torch.int64)
        return codes.flatten(-2), indices

    return quantise


def codes_of(quantise: Callable[..., tuple[Tensor, Tensor]]) -> Callable[[Tensor], Tensor]:
    """The codes alone, of a function that computes the indices as well."""
    return lambda z: quantise(z)[0]


CASES = [
    Case(
        "fsq", f"({ROWS}, {SIZE}), levels {LEVELS}", lambda: [randn(ROWS, SIZE)],
        {
            "ours": lambda: codes_of(lambda z: qm.fsq(z, LEVELS)),
            "eager": lambda: codes_of(plain_fsq()),
            "compiled": lambda: codes_of(compiled(plain_fsq())()),
        },
        aims={("eager", BACKWARD): 5},
        # An index is as large as two values, and there is one for two of them. Backward: z and two gradients.
        moved=(3 * ROWS * SIZE, 6 * ROWS * SIZE),
    ),
]  # fmt: skip


@parametrised(CASES)
def test_fsq(benchmark, case, direction, contender):
    run_benchmark(benchmark, case, direction, contender)
