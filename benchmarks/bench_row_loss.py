"""Losses over rows, step_gap and expectile_backup, beside plain PyTorch, for pytest-benchmark and measure_ops.py.

pytest benchmarks/bench_row_loss.py --benchmark-group-by=group
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from bench_iqe import PlainIQE, sort_form, unrolled_sort_form
from bench_mrn import plain_mrn
from comparison import Case, compiled, parametrised, randn, run_benchmark
from torch import Tensor
from torch.nn import functional

import qmkernels as qm

BACKWARD = "forward+backward"
SIZE, DIM_PER_COMPONENT = 512, 8


def steps_of(x: Tensor) -> Tensor:
    return torch.arange(len(x), device=x.device) % 8 + 1


def plain_step_gap(head: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, y: functional.smooth_l1_loss(head(x, y), steps_of(x).to(x.dtype))


def plain_backup(head: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The n-step backup of distances as one writes it in PyTorch; the next states get no gradient."""

    def loss(x: Tensor, goal: Tensor, following: Tensor) -> Tensor:
        steps = steps_of(x).to(x.dtype)
        with torch.no_grad():
            kept = 0.99**steps
            target = (1 - kept) / (1 - 0.99) + kept * head(following, goal)
        difference = target - head(x, goal)
        weight = (0.9 - (difference > 0).to(x.dtype)).abs()
        sizes = functional.huber_loss(difference, torch.zeros_like(difference), reduction="none")
        return (weight * sizes).mean() + 0 * following.sum()

    return loss


def backup(head: torch.nn.Module) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    def loss(x: Tensor, goal: Tensor, following: Tensor) -> Tensor:
        result = qm.losses.expectile_backup(
            head, x, goal, following, steps=steps_of(x), discount=0.99, cost="discounted", expectile=0.9, huber_delta=1
        )
        return result.loss + 0 * following.sum()

    return loss


def step_gap(head: torch.nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, y: qm.losses.step_gap(head, x, y, steps_of(x)).loss


def iqe() -> torch.nn.Module:
    return qm.nn.IQE(SIZE, DIM_PER_COMPONENT)


def mrn() -> torch.nn.Module:
    return qm.nn.LatentMRN(SIZE, preset="tmd")


def not_fused(head: torch.nn.Module) -> torch.nn.Module:
    head.fused_rows = lambda x, y: None
    return head


def plain_iqe(components: Callable[[Tensor, Tensor], Tensor]) -> torch.nn.Module:
    return PlainIQE(components, DIM_PER_COMPONENT)


def case(name: str, rows: int, ours: Callable, plain: Callable, tensors: int, head: str, aims=None) -> Case:
    make = {"IQE K=8": iqe, "MRN of 8 components": mrn}[head]
    contenders = {
        "ours": lambda: ours(make()),
        "eager": lambda: plain(plain_iqe(sort_form) if make is iqe else plain_mrn),
        "compiled": lambda: compiled(plain(plain_iqe(unrolled_sort_form) if make is iqe else plain_mrn))(),
        "ours, not fused": lambda: ours(not_fused(make())),
    }
    return Case(
        name, f"({rows}, {SIZE}), {head}", lambda: [randn(rows, SIZE, seed=seed) for seed in range(tensors)],
        contenders, directions=(BACKWARD,), aims=aims or {},
    )  # fmt: skip


AIMS = {("eager", BACKWARD): 5}
CASES = [
    case("step_gap", 1024, step_gap, plain_step_gap, 2, "IQE K=8", AIMS),
    case("step_gap", 1024, step_gap, plain_step_gap, 2, "MRN of 8 components", AIMS),
    case("step_gap", 2, step_gap, plain_step_gap, 2, "IQE K=8"),  # what a call costs that has next to nothing to do
    case("expectile_backup", 1024, backup, plain_backup, 3, "IQE K=8", AIMS),
    case("expectile_backup", 1024, backup, plain_backup, 3, "MRN of 8 components", AIMS),
]


@parametrised(CASES)
def test_row_loss(benchmark, case, direction, contender):
    run_benchmark(benchmark, case, direction, contender)
