"""The eikonal loss through an encoder beside plain PyTorch, for pytest-benchmark and measure_ops.py.

pytest benchmarks/bench_eikonal.py --benchmark-group-by=group
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from bench_iqe import PlainIQE, sort_form
from bench_mrn import plain_mrn
from comparison import Case, parametrised, randn, run_benchmark
from torch import Tensor, nn

import qmkernels as qm


def through_encoder(head: Callable[[], Callable], eikonal: Callable) -> Callable[[], Callable]:
    """A contender: the loss of a head behind an encoder of one hidden layer."""

    def build() -> Callable:
        torch.manual_seed(0)
        encoder, distance = nn.Sequential(nn.Linear(29, 512), nn.GELU(), nn.Linear(512, 512)), head()
        return functools.partial(eikonal, lambda state, goal: 40 * distance(encoder(state), encoder(goal)))

    return build


def ours(distance_of: Callable, state: Tensor, goal: Tensor) -> Tensor:
    return qm.losses.eikonal(distance_of, state, goal).loss


def plain(distance_of: Callable, state: Tensor, goal: Tensor) -> Tensor:
    with torch.enable_grad():
        state = state if state.requires_grad else state.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(distance_of(state, goal).sum(), state, create_graph=True)
    return (gradient.norm(dim=-1) - 1).relu().square().mean()


CASES = [
    Case(
        "eikonal", f"1024 states, D=512, {name}, with its encoder", lambda: [randn(1024, 29), randn(1024, 29, seed=1)],
        {"ours": through_encoder(head, ours), "eager": through_encoder(plain_head, plain)},
    )
    for name, head, plain_head in (
        ("IQE K=8", lambda: qm.nn.IQE(512, 8), lambda: PlainIQE(sort_form, 8)),
        ("MRN tmd", lambda: qm.nn.LatentMRN(512), lambda: plain_mrn),
    )
]  # fmt: skip


@parametrised(CASES)
def test_eikonal(benchmark, case, direction, contender):
    run_benchmark(benchmark, case, direction, contender)
