"""QRL's latent dynamics as one op: against the loss composed of distances, on every backend, under torch."""

import pytest
import torch

import qmkernels as qm
from qmkernels.backends import dispatch
from qmkernels.definitions import iqe as iqe_definition
from qmkernels.definitions.iqe import unpack_ends

SIZES = [(1, 3, 4), (4, 5, 9), (5, 2, 3), (8, 64, 40), (16, 1, 2), (32, 2, 7), (33, 3, 6)]  # K, C, rows


def problem(*shape, dtype=torch.float64):
    generator = torch.Generator().manual_seed(sum(shape))
    return [torch.randn(shape, dtype=dtype, generator=generator).requires_grad_() for _ in range(2)]


def loss_and_gradients(head, predicted, target, power=2):
    result = qm.losses.latent_dynamics(head, predicted, target, power=power)
    return *result, *torch.autograd.grad(result.loss, [predicted, target, *head.parameters()])


def without_fusion(head):
    head.fused_iqe = lambda x: None
    return head


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("reduction", ["sum", "mean", "max", "maxmean", "maxmean_ogbench"])
@pytest.mark.parametrize("size, count, rows", SIZES)
def test_the_fused_loss_equals_the_composed_one(size, count, rows, reduction, power, dtype, backend):
    head = qm.nn.IQE(count * size, size, reduction=reduction).to(dtype)
    arguments = problem(rows, count * size, dtype=dtype)
    assert head.fused_iqe(arguments[0]) is not None
    fused = loss_and_gradients(head, *arguments, power)
    composed = loss_and_gradients(without_fusion(head), *arguments, power)
    tolerance = {"rtol": 1e-10, "atol": 1e-11} if dtype == torch.float64 else {"rtol": 2e-5, "atol": 5e-6}
    torch.testing.assert_close(fused, composed, **tolerance)


def test_leading_dimensions_are_more_rows(backend):
    head, arguments = qm.nn.IQE(24, 8).double(), problem(2, 3, 5, 24)
    fused = loss_and_gradients(head, *arguments)
    torch.testing.assert_close(fused, loss_and_gradients(without_fusion(head), *arguments))


@pytest.mark.parametrize("size", [4, 5, 8, 16, 32, 33])
def test_tied_ends_add_up_to_the_reference_subgradient(size, backend):
    generator = torch.Generator().manual_seed(1)
    # Few distinct values: intervals of both directions begin, end and touch at the same places, or are empty.
    x, y = torch.randint(0, 5, (2, 57, 2 * size), generator=generator).double()
    kernels = dispatch.resolve("latent_dynamics", "cpu", backend).module
    loss, _, _, ends, *_ = kernels.latent_dynamics_forward(x, y, None, size, "sum", "identity", 1)
    kept = [side.bool() for side in unpack_ends(ends, size)]
    there, back = (iqe_definition.components(*pair, size).sum(dim=-1) for pair in ((x, y), (y, x)))
    torch.testing.assert_close(loss, 0.5 * (there + back).mean())
    for pair, (a, b) in enumerate(((x, y), (y, x))):
        expected = iqe_definition.ends(a, b, size)
        for side, coordinate in enumerate((a, b)):
            for tied in range(5):
                here = coordinate.unflatten(-1, (-1, size)) == tied
                assert torch.equal((kept[side][pair] & here).sum(dim=-1), (expected[side] & here).sum(dim=-1))


@pytest.mark.parametrize("size", [4, 8, 33])
@pytest.mark.parametrize("side", [0, 1])
def test_nan_gives_nan_both_ways_and_other_rows_keep_their_gradients(side, size, backend):
    head = qm.nn.IQE(2 * size, size).double()
    arguments = problem(6, 2 * size)
    clean = loss_and_gradients(head, *arguments)
    with torch.no_grad():
        arguments[side][2, 3] = torch.nan
    result = loss_and_gradients(head, *arguments)
    assert all(value.isnan() for value in result[:3])
    others = [0, 1, 3, 4, 5]
    for actual, expected in zip(result[3:5], clean[3:5], strict=True):
        torch.testing.assert_close(actual[others], expected[others])
        assert actual[2, :size].isnan().all()


@pytest.mark.parametrize("infinity", [torch.inf, -torch.inf])
@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("size", [4, 8, 33])
def test_infinity_counts_as_the_largest_finite_number(size, side, infinity, backend):
    arguments = problem(6, 2 * size)
    with torch.no_grad():
        arguments[side][2, 3] = infinity
    head = qm.nn.IQE(2 * size, size, reduction="max").double()
    fused = loss_and_gradients(head, *arguments, 1)
    torch.testing.assert_close(fused, loss_and_gradients(without_fusion(head), *arguments, 1))


def test_equal_sides_have_no_distance_and_no_gradient(backend):
    (x, _), head = problem(5, 24), qm.nn.IQE(24, 8).double()
    result = loss_and_gradients(head, x, x.detach().clone().requires_grad_())
    assert all(torch.equal(value, torch.zeros_like(value)) for value in result)


def test_float32_sums_over_many_rows_keep_their_digits():
    head = qm.nn.IQE(8, 8, reduction="sum")
    x, y = (side.detach() for side in problem(300_000, 8, dtype=torch.float32))
    result, exact = (qm.losses.latent_dynamics(h, *s) for h, s in ((head, (x, y)), (head, (x.double(), y.double()))))
    for actual, expected in zip(result, exact, strict=True):
        torch.testing.assert_close(actual.double(), expected, rtol=1e-6, atol=0)
