"""Shortest paths between all nodes beside scipy and a loop in plain PyTorch, for pytest-benchmark and measure_ops.py.

    pytest benchmarks/bench_shortest_paths.py --benchmark-group-by=group

The graphs are dense, as those of landmarks are before long distances are cut off; the time does not depend on lengths.
"""

from __future__ import annotations

import functools

import torch
from comparison import Case, Unavailable, parametrised, randn, run_benchmark
from torch import Tensor

import qmkernels as qm


def plain_loop(lengths: Tensor) -> Tensor:
    """Floyd and Warshall's closure as one writes it in PyTorch, in place."""
    distances = lengths.clone().fill_diagonal_(0)
    for k in range(len(distances)):
        torch.minimum(distances, distances[:, k, None] + distances[k], out=distances)
    return distances


def scipys():
    try:
        from scipy.sparse.csgraph import floyd_warshall
    except ImportError as missing:
        raise Unavailable("scipy is not installed") from missing
    return lambda lengths: torch.from_numpy(floyd_warshall(lengths.cpu().numpy()))


def graph(nodes: int) -> list[Tensor]:
    return [randn(nodes, nodes).abs() + 0.01]


OURS = {
    "ours": lambda: qm.shortest_paths,
    "with next": lambda: lambda lengths: qm.shortest_paths(lengths, return_next=True).distances,
}
CASES = [
    Case(
        "shortest_paths", f"{nodes} nodes", functools.partial(graph, nodes),
        {**OURS, **others},
        directions=("forward",),
        aims={("eager", "forward"): 5} if others else {},
    )
    for nodes, others in (
        (256, {"eager": lambda: plain_loop, "scipy": scipys}),
        (1024, {"eager": lambda: plain_loop, "scipy": scipys}),
        (2048, {}),  # on which the others take tens of seconds
    )
]  # fmt: skip


@parametrised(CASES)
def test_shortest_paths(benchmark, case, direction, contender):
    run_benchmark(benchmark, case, direction, contender)
