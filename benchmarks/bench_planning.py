"""Planning costs beside plain PyTorch: one goal per environment against candidates over a horizon.

pytest benchmarks/bench_planning.py --benchmark-group-by=group

measure_ops.py takes them too.
"""

from __future__ import annotations

from bench_iqe import PlainIQE, sort_form, unrolled_sort_form
from bench_mrn import plain_mrn
from comparison import Case, compiled, parametrised, randn, run_benchmark

import qmkernels as qm

ENVIRONMENTS, CANDIDATES, HORIZON = 8, 300, 5


def cases(size: int) -> list[Case]:
    shape = f"({ENVIRONMENTS}, {CANDIDATES}, {HORIZON}, {size}) to a goal each"

    def inputs():
        return [randn(ENVIRONMENTS, CANDIDATES, HORIZON, size), randn(ENVIRONMENTS, 1, 1, size, seed=1)]

    return [
        Case(
            "planning", f"IQE K=8 {shape}", inputs,
            {
                "ours": lambda: qm.nn.IQE(size, 8),
                "eager": lambda: PlainIQE(sort_form, 8),
                "compiled": compiled(PlainIQE(unrolled_sort_form, 8)),
            },
        ),
        Case(
            "planning", f"MRN tmd {shape}", inputs,
            {"ours": lambda: qm.nn.LatentMRN(size), "eager": lambda: plain_mrn, "compiled": compiled(plain_mrn)},
        ),
    ]  # fmt: skip


CASES = [case for size in (128, 512, 2048) for case in cases(size)]


@parametrised(CASES)
def test_planning(benchmark, case, direction, contender):
    run_benchmark(benchmark, case, direction, contender)
