"""Poisson comparisons beside plain PyTorch's sum over counts, for pytest-benchmark and measure_ops.py.

pytest benchmarks/bench_poisson.py --benchmark-group-by=group
"""

from __future__ import annotations

import functools

import torch
from comparison import Case, compiled, parametrised, run_benchmark
from torch import Tensor

import qmkernels as qm
from qmkernels.definitions import poisson as definition


def rates(count: int) -> list[Tensor]:
    """Between 0.01 and 5, where PQE-GG's typically are."""
    generator = torch.Generator().manual_seed(0)
    return list(4.99 * torch.rand(2, count, generator=generator) + 0.01)


CASES = [
    Case(
        "poisson", f"20,000 pairs of rates in 0.01..5, {form}", functools.partial(rates, 20_000),
        {
            "ours": lambda function=function: function,
            "eager": lambda form=form: functools.partial(definition.poisson, comparison=form),
            "compiled": compiled(functools.partial(definition.poisson, comparison=form)),
        },
    )
    for form, function in (("le", qm.poisson_le), ("log_le", qm.log_poisson_le))
]  # fmt: skip


@parametrised(CASES)
def test_poisson(benchmark, case, direction, contender):
    run_benchmark(benchmark, case, direction, contender)
