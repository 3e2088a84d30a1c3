"""The CUDA kernels of the closure that gives shortest paths, on a CPU (cuda_on_cpu.py), against backends/reference."""

from __future__ import annotations

import pytest
import torch
from backend_comparison import DTYPES
from cuda_on_cpu import kernels, needs_compiler

from qmkernels.backends.native import shortest_paths as native
from qmkernels.backends.reference import shortest_paths as reference

pytestmark = needs_compiler
shortest_paths_kernels = kernels("shortest_paths")


def _graphs(batch: int, nodes: int, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(nodes)
    lengths = torch.rand(batch, nodes, nodes, generator=generator, dtype=torch.float64) ** 6
    return lengths.masked_fill(torch.rand(lengths.shape, generator=generator) < 0.5, torch.inf).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch, nodes", [(1, 1), (5, 9), (2, 64), (2, 67), (1, 131)])
def test_distances_and_next_nodes_agree_with_the_reference(batch, nodes, dtype):
    lengths = _graphs(batch, nodes, dtype)
    wanted, wanted_next = reference.shortest_paths_forward(lengths, True)
    actual, next_nodes = native.shortest_paths_forward(lengths, True)
    torch.testing.assert_close(actual, wanted)
    assert torch.equal(next_nodes, wanted_next)
    alone, none = native.shortest_paths_forward(lengths, False)
    assert none is None and torch.equal(alone, actual)


def test_whole_lengths_that_tie_and_may_be_zero_are_exact_and_their_paths_arrive():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.full((140, 140), torch.inf)
    lengths.scatter_(1, torch.randint(140, (140, 3), generator=generator), torch.randint(4, (140, 3)).float())
    distances, next_nodes = (value[0] for value in native.shortest_paths_forward(lengths[None], True))
    assert torch.equal(distances, reference.shortest_paths_forward(lengths[None], False)[0][0])
    columns = torch.arange(140)
    here, length = columns[:, None].expand(140, 140), torch.zeros(140, 140)
    for _ in range(140):
        then = torch.where(distances.isinf(), columns, next_nodes[here, columns])
        length, here = length + lengths[here, then].masked_fill(here == then, 0), then
    assert torch.equal(here, columns.expand(140, 140))
    assert torch.equal(length[distances.isfinite()], distances[distances.isfinite()])


def test_a_graph_with_a_length_that_is_nan_or_negative_is_nan_alone():
    lengths = _graphs(3, 70, torch.float32)
    lengths[0, 3, 3], lengths[2, 69, 1] = torch.nan, -1
    actual, next_nodes = native.shortest_paths_forward(lengths, True)
    assert actual[[0, 2]].isnan().all() and (next_nodes[[0, 2]] == -1).all()
    torch.testing.assert_close(actual[1], reference.shortest_paths_forward(lengths, False)[0][1])
