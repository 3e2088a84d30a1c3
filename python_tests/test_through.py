"""Distances by way of landmarks equal shortest paths in the graph of starts, landmarks and goals."""

import functools

import pytest
import torch

import qmkernels as qm

HEAD = qm.nn.IQE(16, 4)


def points(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def by_all_triples(x, landmarks, y, metric, longest):
    """Computes the definition: the minimum over k and l for every x and y, (N, M)."""

    def steps(start, end):
        lengths = metric(start[:, None], end)
        return lengths if longest is None else lengths.masked_fill(lengths > longest, torch.inf)

    graph = torch.full((len(x) + len(landmarks) + len(y),) * 2, torch.inf)
    inner = slice(len(x), len(x) + len(landmarks))
    graph[: len(x), inner] = steps(x, landmarks)
    graph[inner, inner] = steps(landmarks, landmarks)
    graph[inner, inner.stop :] = steps(landmarks, y)
    return qm.shortest_paths(graph, backend="reference")[: len(x), inner.stop :]


@pytest.mark.parametrize("longest", [None, 1.5, 0.9, 0.01])
@pytest.mark.parametrize("metric", [HEAD, functools.partial(qm.mrn, preset="ogbench")], ids=["head", "function"])
@torch.no_grad()
def test_the_shortest_way_from_every_x_to_every_y(metric, longest, backend):
    x, landmarks, y = points(5, 16), points(40, 16, seed=1), points(7, 16, seed=2)
    scale = metric(x[:, None], landmarks).median()
    longest = None if longest is None else longest * scale.item()
    expected = by_all_triples(x, landmarks, y, metric, longest)
    found = qm.through(x[:, None], landmarks, y, metric=metric, longest=longest)
    torch.testing.assert_close(found.distances, expected)
    assert torch.equal(found.first < 0, expected.isinf()) and torch.equal(found.last < 0, expected.isinf())
    i, j = (expected < torch.inf).nonzero(as_tuple=True)
    first, last = found.first[i, j], found.last[i, j]
    lengths = metric(landmarks[:, None], landmarks)
    between = qm.shortest_paths(lengths if longest is None else lengths.masked_fill(lengths > longest, torch.inf))
    by_parts = metric(x[i], landmarks[first]) + between[first, last] + metric(landmarks[last], y[j])
    torch.testing.assert_close(found.distances[i, j], by_parts)
    again = qm.through(x[:, None], landmarks, y, metric=metric, longest=longest, between=between)
    assert all(map(torch.equal, found, again))


def test_some_cut_offs_make_long_ways_and_others_none():
    x, landmarks, y = points(5, 16), points(40, 16, seed=1), points(7, 16, seed=2)
    scale = HEAD(x[:, None], landmarks).median().item()
    found = [qm.through(x[:, None], landmarks, y, metric=HEAD, longest=share * scale) for share in (0.9, 0.01)]
    assert (found[0].first != found[0].last).any() and found[0].distances.isfinite().any()
    assert found[1].distances.isinf().all()


def test_one_goal_per_environment_is_compared_with_all_its_candidates(monkeypatch):
    monkeypatch.setattr("qmkernels.ops.through._SUMS_AT_ONCE", 700)  # one goal at a time
    x, landmarks, y = points(3, 11, 16), points(26, 16, seed=1), points(3, 1, 16, seed=2)
    found = qm.through(x, landmarks, y, metric=HEAD)
    assert all(value.shape == (3, 11) for value in found)
    alone = qm.through(x[1, 4], landmarks, y[1, 0], metric=HEAD)
    torch.testing.assert_close(tuple(value[1, 4] for value in found), tuple(alone))
    assert qm.through(x[:0], landmarks, y[:0], metric=HEAD).first.shape == (0, 11)
    half = qm.through(x.bfloat16(), landmarks.bfloat16(), y.bfloat16(), metric=HEAD)
    assert half.distances.dtype == torch.float32


def test_gradients_flow_along_the_way(backend):
    head = qm.nn.IQE(4, 2).double()
    # From 0 by landmarks on the way to 4.
    places = [torch.zeros(3, 1), torch.linspace(0.4, 3.6, 9)[:, None], torch.full((1, 1), 4.0)]
    leaves = [place + 0.1 * points(len(place), 4, seed=i) for i, place in enumerate(places)]
    leaves = [leaf.double().requires_grad_() for leaf in leaves]
    assert torch.autograd.gradcheck(lambda *points: qm.through(*points, metric=head, longest=1.6).distances, leaves)
    found = qm.through(*leaves, metric=head, longest=1.6)
    assert (found.first != found.last).any() and found.distances.isfinite().any()
    qm.through(*leaves, metric=head).distances.sum().backward()
    assert head.reduction.raw_alpha.grad.abs() > 0


@pytest.mark.parametrize(
    "changed, error, message",
    [
        ({"landmarks": torch.zeros(0, 16)}, ValueError, "at least one row, got"),
        ({"landmarks": torch.zeros(2, 3, 16)}, ValueError, r"landmarks must be \(L, D\)"),
        ({"landmarks": torch.zeros(3, 12)}, ValueError, "same last size"),
        ({"y": torch.zeros(3, 16)}, ValueError, "broadcast"),
        ({"y": torch.zeros(2, 16, dtype=torch.float64)}, TypeError, "same dtype"),
        ({"metric": "iqe"}, TypeError, "metric must be a head or a function"),
        ({"metric": qm.nn.IQE(16, 4, discount=0.9)}, ValueError, "through: .*discount=0.9"),
        ({"metric": lambda x, y: (x * y).sum()}, ValueError, r"metric must give \(2, 3\)"),
        ({"longest": 0.0}, ValueError, "longest must be above 0, got 0"),
        ({"between": torch.zeros(2, 2)}, ValueError, r"between must be \(L, L\) for the 3 landmarks"),
    ],
)
def test_wrong_arguments_are_refused(changed, error, message):
    arguments = {"x": torch.zeros(2, 16), "landmarks": torch.zeros(3, 16), "y": torch.zeros(2, 16), "metric": HEAD}
    with pytest.raises(error, match=message):
        qm.through(**{**arguments, **changed})
