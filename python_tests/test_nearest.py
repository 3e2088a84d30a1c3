"""Nearest neighbours equal sorting the whole matrix, for every metric, without the matrix."""

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import qmkernels as qm
from qmkernels.backends import dispatch
from qmkernels.ops import nearest as module

METRICS = {
    "iqe": qm.nn.IQE(16, 4),
    "iqe function": functools.partial(qm.iqe, dim_per_component=4),
    "mrn": functools.partial(qm.mrn, preset="ogbench"),
    "pqe": functools.partial(qm.pqe, dim_per_component=4),
}


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Uses several tiles of queries and of the bank, the last ones partial."""
    monkeypatch.setitem(module._TILE_QUERIES, "cpu", 5)
    monkeypatch.setitem(module._TILE_ROWS, "cpu", 64)


def expected_of(metric, x, y, k):
    values, indices = metric(x[:, None], y).detach().sort(dim=-1, stable=True)
    return values[:, :k], indices[:, :k]


@pytest.mark.parametrize("k", [1, 2, 10, 150])
@pytest.mark.parametrize("name", METRICS)
def test_nearest_equals_sorting_the_whole_matrix(name, k, backend):
    x, y = torch.randn(13, 16), torch.randn(150, 16)
    values, indices = expected_of(METRICS[name], x, y, k)
    result = qm.nearest(x, y, k, metric=METRICS[name])
    assert result.indices.dtype == torch.int64
    torch.testing.assert_close(result.values.detach(), values)
    distances = METRICS[name](x[:, None], y).detach()
    torch.testing.assert_close(distances.gather(1, result.indices), values)
    assert all(len(set(row)) == k for row in result.indices.tolist())


@pytest.mark.parametrize("k", [1, 3, 40])
def test_ties_come_in_the_order_of_the_bank(k, backend):
    x = torch.zeros(6, 8)
    y = torch.randint(0, 2, (200, 1)).float().expand(200, 8)
    metric = functools.partial(qm.mrn, asymmetric="none")
    result = qm.nearest(x, y, k, metric=metric)
    assert torch.equal(result.indices, expected_of(metric, x, y, k)[1])


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 90), st.integers(1, 200), st.integers(1, 30), st.integers(0, 2**31))
def test_merging_tiles_equals_a_stable_sort_with_nan_last(k, columns, rows, seed):
    generator = torch.Generator().manual_seed(seed)
    distances = torch.randint(0, 12, (rows, columns), generator=generator).float()
    distances[torch.rand(distances.shape, generator=generator) < 0.2] = torch.nan
    distances[torch.rand(distances.shape, generator=generator) < 0.1] = torch.inf
    k = min(k, columns)
    for name in ("cpu", "reference"):
        if dispatch.why_not(name, "nearest", "cpu"):
            continue
        values = torch.full((rows, k), torch.inf)
        indices = torch.full((rows, k), -1)
        first = 0
        for tile in distances.split(37, dim=1):
            values, indices = module.nearest_merge(tile, values, indices, first, name)
            first += tile.shape[1]
        expected, places = distances.sort(dim=1, stable=True)
        assert torch.equal(indices, places[:, :k])
        torch.testing.assert_close(values, expected[:, :k], equal_nan=True)


def test_a_head_without_a_fused_form_composes(backend):
    class Manhattan(qm.nn.QuasimetricBase):
        def __init__(self):
            super().__init__(16, 1, guaranteed_quasimetric=True, transforms=[], reduction="sum")

        def compute_components(self, x, y):
            return (x - y).abs().sum(dim=-1, keepdim=True)

    x, y = torch.randn(7, 16), torch.randn(90, 16)
    result = qm.nearest(x, y, 4, metric=Manhattan())
    values, indices = torch.cdist(x, y, p=1).topk(4, largest=False)
    torch.testing.assert_close(result.values, values)
    assert torch.equal(result.indices, indices)


def test_gradients_flow_through_the_values(backend):
    head = qm.nn.IQE(16, 4)
    x, y = torch.randn(6, 16, requires_grad=True), torch.randn(80, 16, requires_grad=True)
    qm.nearest(x, y, 3, metric=head).values.square().sum().backward()
    actual = x.grad.clone(), y.grad.clone(), head.reduction.raw_alpha.grad.clone()
    x.grad = y.grad = head.reduction.raw_alpha.grad = None
    head(x[:, None], y).topk(3, largest=False).values.square().sum().backward()
    torch.testing.assert_close(actual, (x.grad, y.grad, head.reduction.raw_alpha.grad))


def test_leading_dimensions_empty_queries_half_precision_and_compile():
    metric = functools.partial(qm.iqe, dim_per_component=4)
    y = torch.randn(100, 16)
    x = torch.randn(2, 3, 16)
    result = qm.nearest(x, y, 2, metric=metric)
    assert result.values.shape == result.indices.shape == (2, 3, 2)
    torch.testing.assert_close(result.values[1, 2], qm.nearest(x[1, 2], y, 2, metric=metric).values)
    assert qm.nearest(x[:0], y, 2, metric=metric).indices.shape == (0, 3, 2)
    assert qm.nearest(x.bfloat16(), y.bfloat16(), 1, metric=metric).values.dtype == torch.float32
    compiled = torch.compile(lambda x, y: qm.nearest(x, y, 2, metric=metric), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, y), result)


def test_memory_does_not_depend_on_the_bank(monkeypatch):
    monkeypatch.undo()
    if reason := dispatch.why_not("cpu", "nearest", "cpu"):
        pytest.skip(reason)
    metric = functools.partial(qm.iqe, dim_per_component=4)
    x, peaks = torch.randn(700, 16), []
    for rows in (5_000, 80_000):
        bank = torch.randn(rows, 16)
        with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            qm.nearest(x, bank, 10, metric=metric)
        peaks.append(max(event.cpu_memory_usage for event in profile.events()))
    assert peaks[1] <= peaks[0] * 1.5 and peaks[1] < 700 * 80_000 * 4 / 8


@pytest.mark.parametrize(
    "y, k, metric, error, message",
    [
        (torch.zeros(0, 16), 1, METRICS["iqe"], ValueError, "the bank, must have at least one row"),
        (torch.zeros(3, 16), 4, METRICS["iqe"], ValueError, "k must be from 1 to the bank's 3 rows, got 4"),
        (torch.zeros(3, 16), 0, METRICS["iqe"], ValueError, "k must be from 1"),
        (torch.zeros(3, 16), 1.0, METRICS["iqe"], TypeError, "k must be an int"),
        (torch.zeros(2, 3, 16), 1, METRICS["iqe"], ValueError, r"must be \(M, D\)"),
        (torch.zeros(3, 12), 1, METRICS["iqe"], ValueError, "same last size"),
        (torch.zeros(3, 16, dtype=torch.float64), 1, METRICS["iqe"], TypeError, "same dtype"),
        (torch.zeros(3, 16), 1, "iqe", TypeError, "metric must be a head or a function"),
        (torch.zeros(3, 16), 1, qm.nn.IQE(16, 4, discount=0.9), ValueError, "head with discount=0.9"),
        (torch.zeros(3, 16), 1, lambda x, y: (x * y).sum(), ValueError, "metric must give"),
    ],
)
def test_wrong_arguments_are_refused(y, k, metric, error, message):
    with pytest.raises(error, match=message):
        qm.nearest(torch.zeros(2, 16), y, k, metric=metric)
