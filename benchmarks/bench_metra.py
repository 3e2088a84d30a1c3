"""METRA's loss beside the same loss in plain PyTorch, for pytest-benchmark and measure_ops.py.

pytest benchmarks/bench_metra.py --benchmark-group-by=group
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from comparison import Case, compiled, parametrised, randn, run_benchmark
from torch import Tensor

import qmkernels as qm

BACKWARD = "forward+backward"
Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def plain_metra(phi: Tensor, phi_next: Tensor, skill: Tensor, log_multiplier: Tensor) -> Tensor:
    """The published loss as one writes it in PyTorch."""
    step = phi_next - phi
    reward = (step * skill).sum(dim=-1)
    constraint = (1 - step.square().sum(dim=-1)).clamp(max=1e-3).mean()
    return -reward.mean() - log_multiplier.detach().exp() * constraint + log_multiplier * constraint.detach()


def with_skill(loss: Callable[[], Loss], rows: int, size: int) -> Callable[[], Callable[..., Tensor]]:
    """A contender whose skills are given: they have no gradient."""

    def build() -> Callable[..., Tensor]:
        function, skill = loss(), randn(rows, size, seed=2)
        return lambda phi, phi_next, raw: function(phi, phi_next, skill.to(phi.dtype), raw)

    return build


def case(rows: int, size: int, aims: dict[tuple[str, str], float]) -> Case:
    return Case(
        "metra", f"({rows}, {size})",
        # Steps of about length one: some rows are at the slack.
        lambda: [0.7 / size**0.5 * randn(rows, size), 0.7 / size**0.5 * randn(rows, size, seed=1),
                 torch.tensor(math.log(30))],
        {
            name: with_skill(loss, rows, size)
            for name, loss in (
                ("ours", lambda: lambda *arguments: qm.losses.metra(*arguments).loss),
                ("eager", lambda: plain_metra),
                ("compiled", compiled(plain_metra)),
            )
        },
        directions=(BACKWARD,),
        aims=aims,
        # Three tensors are read each way, and two gradients written.
        moved=(3 * rows * size, 8 * rows * size),
    )  # fmt: skip


CASES = [
    case(256, 2, {("compiled", BACKWARD): 1}),  # what a call costs that has next to nothing to compute
    case(256, 512, {("eager", BACKWARD): 3, ("compiled", BACKWARD): 1}),
    case(1024, 512, {("eager", BACKWARD): 3, ("compiled", BACKWARD): 1}),
]


@parametrised(CASES)
def test_metra(benchmark, case, direction, contender):
    run_benchmark(benchmark, case, direction, contender)
