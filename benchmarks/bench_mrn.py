"""MRN and the Euclidean matrix beside plain PyTorch, for pytest-benchmark and measure_ops.py.

pytest benchmarks/bench_mrn.py --benchmark-group-by=group
"""

from __future__ import annotations

import functools

import torch
from comparison import Case, compiled, parametrised, randn, run_benchmark
from torch import Tensor

import qmkernels as qm

BACKWARD = "forward+backward"


def plain_mrn(x: Tensor, y: Tensor, num_components: int = 8, eps: float = 1e-6) -> Tensor:
    """TMD's formula as one writes it in PyTorch."""
    difference = (x - y).unflatten(-1, (num_components, -1))
    asymmetric, symmetric = difference.chunk(2, dim=-1)
    root = (symmetric.square().sum(dim=-1) + eps).sqrt()
    return (asymmetric.relu().amax(dim=-1) + root).mean(dim=-1)


def plain_pairwise(x: Tensor, y: Tensor) -> Tensor:
    return plain_mrn(x[:, None], y)


CASES = [
    Case(
        "mrn", "pairwise 512 x 512, D=512, tmd", lambda: [randn(512, 512), randn(512, 512, seed=1)],
        {
            "ours": lambda: functools.partial(qm.mrn_pairwise, preset="tmd"),
            "eager": lambda: plain_pairwise,
            "compiled": compiled(plain_pairwise),
        },
        aims={
            ("eager", "forward"): 60,
            ("eager", BACKWARD): 60,
            ("compiled", "forward"): 2,
            ("compiled", BACKWARD): 12,
        },
    ),
    Case(
        "mrn", "elementwise (1024, 512), tmd", lambda: [randn(1024, 512), randn(1024, 512, seed=1)],
        {
            "ours": lambda: functools.partial(qm.mrn, preset="tmd"),
            "eager": lambda: plain_mrn,
            "compiled": compiled(plain_mrn),
        },
        moved=(2 * 1024 * 512, 4 * 1024 * 512),
    ),
    Case(
        "mrn", "Euclidean pairwise 512 x 512, D=512", lambda: [randn(512, 512), randn(512, 512, seed=1)],
        {
            "ours": lambda: qm.euclidean_pairwise,
            "eager": lambda: functools.partial(torch.cdist, compute_mode="donot_use_mm_for_euclid_dist"),
            "cdist by matrix product": lambda: torch.cdist,
        },
    ),
]  # fmt: skip


@parametrised(CASES)
def test_mrn(benchmark, case, direction, contender):
    run_benchmark(benchmark, case, direction, contender)
