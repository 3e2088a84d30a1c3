"""What follows the head in the pairwise losses, a matrix of distances to a loss, beside plain PyTorch.

For pytest-benchmark and measure_ops.py.

pytest benchmarks/bench_pair_loss.py --benchmark-group-by=group
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from comparison import Case, compiled, parametrised, randn, run_benchmark
from torch import Tensor
from torch.nn import functional

from qmkernels.arguments.pair_loss import PairLossSettings
from qmkernels.ops.pair_loss import pair_loss

BACKWARD = "forward+backward"
SCALE, LOG_DISCOUNT, EPS = 1 / math.sqrt(512), math.log(0.99), 1e-3


def _softmaxes(distance: Tensor, *dims: int) -> Tensor:
    """Cross-entropy along dimensions of the logits (B, N, N): 1 over the states, 2 over the goals."""
    logits = -SCALE * distance
    matches = torch.arange(distance.shape[1], device=distance.device).expand(distance.shape[0], -1)
    sides = [functional.cross_entropy(logits if dim == 1 else logits.mT, matches) for dim in dims]
    return sum(sides) / len(sides)


def _linex(distance: Tensor, after: Tensor) -> Tensor:
    delta = distance - after
    grown = (delta.clamp(max=3.0) + LOG_DISCOUNT).exp() - distance
    divergence = torch.where(delta > 3.0, delta, grown)
    return 0.5 * divergence.mean() + 0.5 * divergence.diagonal(dim1=1, dim2=2).mean()


def _energy(distance: Tensor) -> Tensor:
    batch, count = distance.shape[:2]
    is_match = torch.eye(count, dtype=torch.bool, device=distance.device)
    return (1 / (distance + EPS)).masked_fill(is_match, 0.0).sum() / (batch * count * (count - 1))


Loss = Callable[[Tensor, Tensor], Tensor]
PLAIN: dict[str, Loss] = {
    "backward": lambda distance, after: _softmaxes(distance, 1),
    "symmetric": lambda distance, after: _softmaxes(distance, 1, 2),
    "linex": lambda distance, after: _linex(distance, after),
    "tmd": lambda distance, after: _softmaxes(distance, 1) + 0.05 * _linex(distance, after),
    "coulomb": lambda distance, after: _energy(distance),
}
FORMS = {
    "backward": PairLossSettings("backward", SCALE),
    "symmetric": PairLossSettings("symmetric", SCALE),
    "linex": PairLossSettings(log_discount=LOG_DISCOUNT),
    "tmd": PairLossSettings("backward", SCALE, linex_weight=0.05, log_discount=LOG_DISCOUNT),
    "coulomb": PairLossSettings("coulomb", eps=EPS),
}


def case(name: str, batch: int, rows: int, aims: dict[tuple[str, str], float] | None = None) -> Case:
    with_after = name in ("linex", "tmd")

    def ours(distance: Tensor, after: Tensor) -> Tensor:
        return pair_loss(distance, after if with_after else None, None, FORMS[name])[0]

    def given_after(loss: Callable[[], Loss]) -> Callable[[], Callable[[Tensor], Tensor]]:
        """A contender that has the distances of the next states: they have no gradient."""

        def build() -> Callable[[Tensor], Tensor]:
            function, after = loss(), 20 + 3 * randn(batch, rows, rows, seed=1)
            return lambda distance: function(distance, after)

        return build

    return Case(
        "pair_loss", f"{name}, {batch} x {rows} x {rows}",
        lambda: [20 + 3 * randn(batch, rows, rows)],
        {
            "ours": given_after(lambda: ours),
            "eager": given_after(lambda: PLAIN[name]),
            "compiled": given_after(compiled(PLAIN[name])),
        },
        aims=aims or {},
        moved=(batch * rows * rows * (1 + with_after), batch * rows * rows * (3 + 2 * with_after)),
    )  # fmt: skip


CASES = [
    *(case(name, 1, 512, {("eager", BACKWARD): 8}) for name in FORMS),
    case("symmetric", 1, 4096),
    case("tmd", 1, 16),  # what a call costs that has next to nothing to compute
]


@parametrised(CASES)
def test_pair_loss(benchmark, case, direction, contender):
    run_benchmark(benchmark, case, direction, contender)
