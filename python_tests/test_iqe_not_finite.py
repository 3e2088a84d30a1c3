"""IQE of NaN and infinities: which results and gradients they reach."""

import math

import iqe_gradients
import pytest
import torch
from backend_comparison import pair_points

import qmkernels as qm
from qmkernels.backends import dispatch

REDUCTIONS = ("none", "sum", "mean", "max", "maxmean")


def two_sides(num_x, num_y, size):
    return (rows[0] for rows in pair_points(num_x, num_y, size, torch.float32, batch=1))


@pytest.mark.parametrize("where", ["x", "y"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dim_per_component", [1, 4, 8, 16, 32, 33, 70])
def test_nan_gives_nan_only_in_its_row(backend, dim_per_component, reduction, where):
    x, y = two_sides(21, 21, 3 * dim_per_component)
    (x if where == "x" else y)[5, dim_per_component // 2] = math.nan
    out = qm.iqe(x, y, dim_per_component, reduction=reduction, backend=backend)
    nan = out.isnan() if reduction != "none" else out.isnan().any(dim=-1)
    assert nan.nonzero().flatten().tolist() == [5]
    if reduction == "none":
        assert out[5].isnan().tolist() == [True, False, False]


@pytest.mark.parametrize("where", ["x", "y"])
@pytest.mark.parametrize("num_x, num_y", [(9, 21), (21, 3)])
def test_pairwise_nan_gives_nan_only_in_its_row_or_column(num_x, num_y, backend, where):
    x, y = two_sides(num_x, num_y, 24)
    (x if where == "x" else y)[2, 11] = math.nan
    out = qm.iqe_pairwise(x, y, 8, backend=backend)
    expected = torch.zeros(num_x, num_y, dtype=torch.bool)
    (expected if where == "x" else expected.T)[2] = True
    assert torch.equal(out.isnan(), expected)


@pytest.mark.parametrize("where", ["x", "y"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dim_per_component", [1, 2, 4, 8, 16, 32, 33, 70])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_the_gradient_of_a_component_with_a_nan_is_nan_and_that_of_other_rows_is_not(
    backend, dim_per_component, reduction, where
):
    x, y = two_sides(21, 21, 3 * dim_per_component)
    (x if where == "x" else y)[5, dim_per_component // 2] = math.nan
    out = qm.iqe(x.requires_grad_(), y.requires_grad_(), dim_per_component, reduction=reduction, backend=backend)
    for grad in torch.autograd.grad(out.sum(), (x, y)):
        nan = grad.isnan()
        assert nan[5, :dim_per_component].all()
        assert not nan[5, dim_per_component:].any() and not nan[[*range(5), *range(6, 21)]].any()
    tangents = torch.ones_like(x.detach())
    _, tangent = torch.func.jvp(
        lambda x: qm.iqe(x, y.detach(), dim_per_component, reduction="none", backend=backend),
        (x.detach(),),
        (tangents,),
    )
    assert tangent.isnan().nonzero().tolist() == [[5, 0]]


@pytest.mark.parametrize("where", ["x", "y"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dim_per_component", [1, 8, 33])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("num_x, num_y", [(9, 21), (21, 3)])
def test_the_pairwise_gradients_of_all_pairs_with_a_nan_are_nan(
    num_x, num_y, backend, dim_per_component, reduction, where
):
    x, y = two_sides(num_x, num_y, 3 * dim_per_component)
    nan_side, other = (x, y) if where == "x" else (y, x)
    nan_side[2, dim_per_component] = math.nan
    leaves = nan_side.requires_grad_(), other.requires_grad_()
    out = qm.iqe_pairwise(x, y, dim_per_component, reduction=reduction, backend=backend)
    of_own, of_other = (grad.isnan().unflatten(-1, (3, -1)) for grad in torch.autograd.grad(out.sum(), leaves))
    assert of_own[2, 1].all() and of_own.sum() == dim_per_component
    assert of_other[:, 1].all() and of_other.sum() == other.shape[0] * dim_per_component


@pytest.mark.parametrize("form", ["elementwise", "pairwise"])
@pytest.mark.parametrize("dim_per_component", [1, 4, 8, 33])
def test_infinities_give_what_the_reference_gives(dim_per_component, form):
    generator = torch.Generator().manual_seed(3)
    values = torch.tensor([-math.inf, -1.0, 0.0, 2.0, math.inf])
    x = values[torch.randint(0, 5, (64, 3 * dim_per_component), generator=generator)]
    y = values[torch.randint(0, 5, (64, 3 * dim_per_component), generator=generator)]
    if form == "elementwise":
        actual = qm.iqe(x, y, dim_per_component, reduction="none", backend="cpu")
        expected = qm.iqe(x, y, dim_per_component, reduction="none", backend="reference")
    else:
        actual = qm.iqe_pairwise(x, y, dim_per_component, reduction="none", backend="cpu")
        expected = qm.iqe_pairwise(x, y, dim_per_component, reduction="none", backend="reference")
    assert not actual.isnan().any()
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("dim_per_component", [1, 4, 8, 33])
def test_an_infinite_gradient_of_a_maximum_reaches_only_its_component(dim_per_component, backend):
    x, y = pair_points(9, 9, 5 * dim_per_component, torch.float32)
    kernels = dispatch.resolve("iqe", "cpu", backend).module
    iqe_gradients.check_infinite_upstream(kernels, x, y, dim_per_component)
