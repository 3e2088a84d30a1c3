"""iQRL's temporal consistency beside plain PyTorch, for pytest-benchmark and measure_ops.py.

pytest benchmarks/bench_temporal_consistency.py --benchmark-group-by=group
"""

from __future__ import annotations

from comparison import Case, compiled, parametrised, randn, run_benchmark
from torch import Tensor
from torch.nn import functional

import qmkernels as qm

BACKWARD = "forward+backward"


def plain_loss(predicted: Tensor, target: Tensor) -> Tensor:
    cosine = functional.cosine_similarity(predicted, target, dim=-1)
    return sum(0.9**h * (1 - one).mean() for h, one in enumerate(cosine))


def loss_of(predicted: Tensor, target: Tensor) -> Tensor:
    return qm.losses.temporal_consistency(predicted, target).loss


def case(steps: int, batch: int, size: int, aims: dict[tuple[str, str], float] | None = None) -> Case:
    values = steps * batch * size

    def against(loss):
        target = randn(steps, batch, size, seed=1)  # of the momentum encoder: no gradient flows to it
        return lambda predicted: loss(predicted, target.to(predicted.dtype))

    return Case(
        "temporal_consistency", f"({steps}, {batch}, {size})", lambda: [randn(steps, batch, size)],
        {
            "ours": lambda: against(loss_of),
            "eager": lambda: against(plain_loss),
            "compiled": lambda: against(compiled(plain_loss)()),
        },
        aims=aims or {},
        # Two tensors read; backward reads them once more and writes one.
        moved=(2 * values, 5 * values),
    )  # fmt: skip


CASES = [
    case(5, 256, 512, {("eager", BACKWARD): 5}),
    case(5, 256, 1024),  # the published latent, 512 groups of two values
    case(5, 2, 16, {("eager", BACKWARD): 1.5}),  # what a call costs that has next to nothing to compute
]


@parametrised(CASES)
def test_temporal_consistency(benchmark, case, direction, contender):
    run_benchmark(benchmark, case, direction, contender)
