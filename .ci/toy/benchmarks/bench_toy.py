"""The toy op beside plain PyTorch, for pytest-benchmark and measure_ops.py."""

from __future__ import annotations

from comparison import Case, parametrised, randn, run_benchmark

import qmkernels as qm

CASES = [
    Case(
        "toy", "(256, 512)", lambda: [randn(256, 512), randn(256, 512, seed=1)],
        {"ours": lambda: qm.toy, "eager": lambda: lambda x, y: (x - y).abs().sum(dim=-1)},
    )
]  # fmt: skip


@parametrised(CASES)
def test_toy(benchmark, case, direction, contender):
    run_benchmark(benchmark, case, direction, contender)
