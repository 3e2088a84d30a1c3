"""Shortest paths equal scipy's, in every size around a tile, and the next nodes and gradients follow them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import qmkernels as qm
from qmkernels.backends import dispatch

csgraph = pytest.importorskip("scipy.sparse.csgraph", reason="scipy is not installed")


def random_graph(nodes: int, ways_per_node: int, seed: int = 0, *, batch: tuple = (), longest: int = 9):
    """Makes whole lengths from 0, which tie, to random nodes; infinity elsewhere."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.full((*batch, nodes, nodes), torch.inf, dtype=torch.float64)
    if nodes:
        to = torch.randint(nodes, (*batch, nodes, ways_per_node), generator=generator)
        lengths.scatter_(-1, to, torch.randint(longest, to.shape, generator=generator).double())
    return lengths


def scipys(lengths: torch.Tensor) -> torch.Tensor:
    steps = np.ma.masked_invalid(lengths.numpy())  # a dense array would take a length of 0 for no step
    graph = csgraph.csgraph_from_masked(steps)
    return torch.from_numpy(csgraph.dijkstra(graph))


def length_along(lengths: torch.Tensor, next_nodes: torch.Tensor, i: int, j: int) -> float:
    length = 0.0
    for _ in range(len(lengths)):
        if i == j:
            return length
        then = int(next_nodes[i, j])
        if then < 0:
            return torch.inf
        length, i = length + lengths[i, then].item(), then
    raise AssertionError("next leads around in a circle")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("nodes, ways", [(0, 0), (1, 1), (2, 1), (33, 3), (64, 2), (65, 5), (150, 4)])
def test_distances_and_paths_equal_scipys(nodes, ways, dtype, backend):
    lengths = random_graph(nodes, ways)
    expected = scipys(lengths).to(dtype)
    assert torch.equal(qm.shortest_paths(lengths.to(dtype)), expected)
    found = qm.shortest_paths(lengths.to(dtype), return_next=True)
    assert torch.equal(found.distances, expected)
    assert torch.equal(found.next < 0, expected.isinf())
    assert torch.equal(found.next.diagonal(), torch.arange(nodes))
    for pair in torch.randint(nodes, (200, 2)).tolist() if nodes else []:
        assert length_along(lengths, found.next, *pair) == expected[tuple(pair)]


def test_real_lengths_equal_floyd_and_warshalls_by_scipy(backend):
    lengths = (
        torch.rand(131, 131, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 8 + 1e-3
    )  # scipy drops tiny ones
    expected = torch.from_numpy(csgraph.floyd_warshall(lengths.numpy()))
    torch.testing.assert_close(qm.shortest_paths(lengths), expected)
    torch.testing.assert_close(qm.shortest_paths(lengths.float()), expected.float())


def test_graphs_of_a_batch_are_independent_and_may_be_views(backend):
    lengths = random_graph(66, 3, batch=(2, 3))
    found = qm.shortest_paths(lengths.transpose(-1, -2), return_next=True)
    alone = qm.shortest_paths(lengths[1, 2].T.contiguous(), return_next=True)
    assert torch.equal(found.distances[1, 2], alone.distances) and torch.equal(found.next[1, 2], alone.next)
    # Turning all steps around turns all paths around.
    assert torch.equal(found.distances.transpose(-1, -2), qm.shortest_paths(lengths))


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 140), st.integers(1, 6), st.integers(0, 2**31))
def test_distances_are_the_largest_quasimetric_below_the_lengths(nodes, ways, seed):
    lengths = random_graph(nodes, ways, seed, longest=4)
    distances = qm.shortest_paths(lengths)
    assert not distances.diagonal().any() and (distances <= lengths.masked_fill(torch.eye(nodes) > 0, 0)).all()
    assert torch.equal(qm.shortest_paths(distances), distances)
    assert torch.equal(distances, scipys(lengths))


@pytest.mark.parametrize("value", [torch.nan, -1.0])
def test_nan_and_what_cannot_be_refused_make_their_graph_nan(value, backend):
    lengths = random_graph(70, 4, batch=(3,))
    lengths[1, 3, 69] = value
    for name in ("cpu", "reference"):
        if dispatch.why_not(name, "shortest_paths", "cpu"):
            continue
        distances, next_nodes = torch.ops.qmkernels.shortest_paths_forward(lengths, True, name)
        assert distances[1].isnan().all() and (next_nodes[1] == -1).all()
        assert torch.equal(distances[[0, 2]], qm.shortest_paths(lengths[[0, 2]]))


def test_a_gradient_is_one_for_every_step_of_the_path(backend):
    nodes = 70
    lengths = torch.rand(nodes, nodes, generator=torch.Generator().manual_seed(1), dtype=torch.float64) ** 9 + 1e-3
    lengths[:, 7] = torch.inf
    lengths.requires_grad_()
    found = qm.shortest_paths(lengths, return_next=True)
    grad = torch.rand(nodes, nodes, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found.distances.backward(grad)
    expected = torch.zeros_like(grad)
    for i in range(nodes):
        for j in range(nodes):
            here = i
            while here != j and found.next[here, j] >= 0:
                then = int(found.next[here, j])
                expected[here, then] += grad[i, j]
                here = then
    assert (found.next[0, 1:] != torch.arange(1, nodes)).any(), "no path of several steps"
    torch.testing.assert_close(lengths.grad, expected)


@pytest.mark.parametrize("seed", range(3))
def test_rounding_and_duplicate_nodes_spoil_no_gradient(seed, backend):
    """Nodes at the same place have steps of length 0 between them, and many paths that differ by their rounding."""
    points = torch.rand(40, 2, generator=torch.Generator().manual_seed(seed)).repeat(3, 1)
    lengths = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    lengths = lengths.masked_fill(lengths > 0.3, torch.inf).requires_grad_()
    distances = qm.shortest_paths(lengths)
    assert torch.equal(distances, qm.shortest_paths(lengths.detach()))
    (grad,) = torch.autograd.grad(distances[distances.isfinite()].sum(), lengths)
    steps = lengths.detach().masked_fill(lengths.isinf(), 0)
    # Euler: distances are homogeneous in the lengths.
    torch.testing.assert_close((grad * steps).sum(), distances[distances.isfinite()].sum().detach(), rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    "lengths, error, message",
    [
        (torch.zeros(3, 4), ValueError, r"lengths must be \(\*b, N, N\), got \(3, 4\)"),
        (torch.zeros(3), ValueError, r"got \(3,\)"),
        (torch.full((2, 2), -0.5), ValueError, "at least 0, got -0.5"),
        (torch.zeros(2, 2, dtype=torch.int64), TypeError, "float64, float32, bfloat16 or float16"),
        ([[0.0]], TypeError, "lengths must be a tensor, got list"),
    ],
)
def test_wrong_arguments_are_refused(lengths, error, message):
    with pytest.raises(error, match=message):
        qm.shortest_paths(lengths)
