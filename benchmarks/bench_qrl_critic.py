"""QRL's critic loss on an IQE head beside the same loss in plain PyTorch, for pytest-benchmark and measure_ops.py.

pytest benchmarks/bench_qrl_critic.py --benchmark-group-by=group
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from bench_iqe import PlainIQE, sort_form, unrolled_sort_form
from comparison import Case, compiled, parametrised, randn, run_benchmark, torchqmet
from torch import Tensor
from torch.nn import functional

import qmkernels as qm

BACKWARD = "forward+backward"


def plain_loss(head: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The published loss as one writes it in PyTorch: the multiplier's gradient is reversed."""

    def loss(x: Tensor, y: Tensor, raw: Tensor) -> Tensor:
        push = functional.softplus(15 - head(x, y.roll(1, dims=0)), beta=0.1).mean()
        violation = (head(x, y) - 1).relu().square().mean() - 0.25**2
        weight = functional.softplus(raw)
        return (
            push
            + (2 * weight.detach() - weight) * violation.detach()
            + weight.detach() * (violation - violation.detach())
        )

    return loss


def ours(size: int, dim_per_component: int, is_fused: bool):
    head = qm.nn.IQE(size, dim_per_component)
    if not is_fused:
        head.fused_iqe = lambda x: None
    return lambda x, y, raw: qm.losses.qrl_critic(head, x, y, raw).loss


def case(rows: int, size: int, dim_per_component: int, aims: dict[tuple[str, str], float] | None = None) -> Case:
    return Case(
        "qrl", f"critic ({rows}, {size}), IQE K={dim_per_component}",
        lambda: [randn(rows, size), randn(rows, size, seed=1), torch.tensor(0.01)],
        {
            "ours": lambda: ours(size, dim_per_component, True),
            "eager": lambda: plain_loss(PlainIQE(sort_form, dim_per_component)),
            "compiled": lambda: compiled(plain_loss(PlainIQE(unrolled_sort_form, dim_per_component)))(),
            "torchqmet": lambda: plain_loss(torchqmet().IQE(size, dim_per_component)),
            "ours, not fused": lambda: ours(size, dim_per_component, False),
        },
        directions=(BACKWARD,),
        aims=aims or {},
    )  # fmt: skip


CASES = [
    case(
        256, 512, 8,
        {("torchqmet", BACKWARD): 40, ("compiled", BACKWARD): 12, ("ours, not fused", BACKWARD): 1.3},
    ),
    case(1024, 2048, 32, {("torchqmet", BACKWARD): 25, ("compiled", BACKWARD): 8}),
    case(2, 512, 8),  # what a call costs that has next to nothing to compute
]  # fmt: skip


@parametrised(CASES)
def test_qrl(benchmark, case, direction, contender):
    run_benchmark(benchmark, case, direction, contender)
