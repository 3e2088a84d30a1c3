"""Distances in both directions in one call, for any shapes that broadcast."""

import pytest
import torch

import qmkernels as qm


@pytest.mark.parametrize("name", ["mrn", "pqe"])
@pytest.mark.parametrize("x_shape, y_shape", [((3, 1, 12), (3, 4, 12)), ((9, 1, 12), (10, 12)), ((12,), (5, 12))])
def test_broadcasting_and_both_directions_equal_expanded_inputs(name, x_shape, y_shape, backend):
    function = {"mrn": lambda x, y, **k: qm.mrn(x, y, 3, **k), "pqe": lambda x, y, **k: qm.pqe(x, y, 3, **k)}[name]
    x, y = torch.randn(x_shape, dtype=torch.float64), torch.randn(y_shape, dtype=torch.float64)
    wide_x, wide_y = (tensor.contiguous() for tensor in torch.broadcast_tensors(x, y))
    torch.testing.assert_close(function(x, y), function(wide_x, wide_y))
    both = function(x, y, bidirectional=True)
    torch.testing.assert_close(both.x_to_y, function(wide_x, wide_y))
    torch.testing.assert_close(both.y_to_x, function(wide_y, wide_x))


@pytest.mark.parametrize("function", [qm.iqe, qm.mrn, qm.pqe])
@pytest.mark.parametrize("rows", [7, 1 + 2**15 // 96], ids=["stacked", "one after the other"])
def test_both_directions_and_their_gradients_at_any_size(function, rows):
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(rows, 96, generator=generator, requires_grad=True) for _ in range(2))
    weights = torch.randn(2, rows, generator=generator)
    actual = torch.stack(function(x, y, 8, bidirectional=True))
    expected = torch.stack([function(x, y, 8), function(y, x, 8)])
    torch.testing.assert_close(actual, expected)
    gradients = [torch.autograd.grad((weights * distances).sum(), (x, y)) for distances in (actual, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("pairwise", [qm.iqe_pairwise, qm.mrn_pairwise, qm.pqe_pairwise])
def test_pairwise_takes_batches_ensembles_and_both_directions(pairwise, backend):
    x, y = torch.randn(3, 5, 16, dtype=torch.float64), torch.randn(6, 16, dtype=torch.float64)
    both = pairwise(x, y, 4, bidirectional=True)
    assert both.x_to_y.shape == both.y_to_x.shape == (3, 5, 6)
    for member in range(3):
        torch.testing.assert_close(both.x_to_y[member], pairwise(x[member], y, 4))
        torch.testing.assert_close(both.y_to_x[member], pairwise(y, x[member], 4).T)
