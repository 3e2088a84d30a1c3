"""QRL's latent dynamics on an IQE head beside the same loss in plain PyTorch, for pytest-benchmark and measure_ops.py.

pytest benchmarks/bench_latent_dynamics.py --benchmark-group-by=group
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from bench_iqe import PlainIQE, sort_form, unrolled_sort_form
from comparison import Case, compiled, parametrised, randn, run_benchmark, torchqmet
from torch import Tensor

import qmkernels as qm

BACKWARD = "forward+backward"


def plain_loss(head: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """The published loss as one writes it in PyTorch: both directions in one call of the head."""

    def loss(predicted: Tensor, target: Tensor) -> Tensor:
        return head(torch.stack([predicted, target]), torch.stack([target, predicted])).square().mean()

    return loss


def ours(size: int, dim_per_component: int, is_fused: bool):
    head = qm.nn.IQE(size, dim_per_component)
    if not is_fused:
        head.fused_iqe = lambda x: None
    return lambda predicted, target: qm.losses.latent_dynamics(head, predicted, target).loss


def case(rows: int, size: int, dim_per_component: int, aims: dict[tuple[str, str], float] | None = None) -> Case:
    return Case(
        "latent_dynamics", f"({rows}, {size}), IQE K={dim_per_component}",
        lambda: [randn(rows, size), randn(rows, size, seed=1)],
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
    case(256, 512, 8, {("ours, not fused", BACKWARD): 3}),
    case(1024, 2048, 32),
    case(2, 512, 8),  # what a call costs that has next to nothing to compute
]


@parametrised(CASES)
def test_latent_dynamics(benchmark, case, direction, contender):
    run_benchmark(benchmark, case, direction, contender)
