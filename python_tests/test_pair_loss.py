"""Losses over a matrix of distances as one op: against torch's composition, on every backend, under torch."""

import far_rows
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import qmkernels as qm
from qmkernels.arguments.pair_loss import KINDS, SOFTMAXES, PairLossSettings
from qmkernels.definitions import pair_loss as definition
from qmkernels.losses import tiles
from qmkernels.ops.pair_loss import pair_loss

# Ensemble, rows, columns, offset: one pair, less than a vector, partial tasks of rows, strips of columns, columns
# without a match.
SHAPES = [(1, 1, 1, 0), (2, 7, 7, 0), (3, 33, 40, 5), (1, 5, 100, 50), (2, 70, 1100, 3), (1, 513, 513, 0)]
TERMS = [
    (kind, terms)
    for kind in KINDS
    for terms in ("alone", "linex", "linex per row")
    if (kind, terms) != ("none", "alone")
] + [(kind, "near") for kind in SOFTMAXES]


def problem(shape, kind, terms, dtype=torch.float64, scale=0.7):
    *shape, offset = shape
    generator = torch.Generator().manual_seed(sum(shape))
    distance, after = (6 * torch.rand(2, *shape, dtype=torch.float64, generator=generator)).to(dtype)
    log_discounts = -torch.rand(shape[:2], dtype=torch.float64, generator=generator).to(dtype)
    # Divergences on both sides of the clip.
    places = torch.randint(0, shape[2], (shape[0], shape[2]), dtype=torch.int32, generator=generator)
    form = PairLossSettings(kind, scale, 0.1, 0.7, 2.0, 0.4, -0.1, 1.3, 0.6, offset, 0.3, shape[2] // 4)
    return (
        distance.requires_grad_(),
        after if terms.startswith("linex") else None,
        log_discounts if terms == "linex per row" else None,
        form,
        places if terms == "near" else None,
    )


def loss_and_gradient(function, distance, *rest):
    loss, stats, *_ = function(distance, *rest)
    return loss.detach(), torch.stack(stats), *torch.autograd.grad(loss, distance)


def in_double(distance, after, log_discounts, form, places=None):
    tensors = (None if tensor is None else tensor.detach().double() for tensor in (after, log_discounts))
    return distance.detach().double().requires_grad_(), *tensors, form, places


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind, terms", TERMS)
@pytest.mark.parametrize("shape", SHAPES)
def test_loss_diagnostics_and_gradient_are_those_of_the_definition(shape, kind, terms, dtype, backend):
    arguments = problem(shape, kind, terms, dtype)
    actual = loss_and_gradient(pair_loss, *arguments)
    expected = loss_and_gradient(definition.pair_loss, *in_double(*arguments))
    tolerance = 1e-11 if dtype == torch.float64 else 3e-6
    for value, truth in zip(actual, expected, strict=True):
        assert value.dtype == dtype
        torch.testing.assert_close(value.double(), truth, rtol=0, atol=tolerance * max(1, truth.abs().max().item()))


@pytest.mark.parametrize("kind", KINDS[1:])
# At 300 the kernel sums columns from exponentials that were rounded at up to 41 below their rows' largest logits.
@pytest.mark.parametrize("scale, tolerance", [(0.05, 3e-7), (1.0, 3e-7), (300.0, 2e-6)])
def test_float32_is_no_worse_than_plain_torch(scale, tolerance, kind, backend):
    """Compares log-sum-exps over many terms, near each other and far apart."""
    arguments = problem((2, 300, 700, 11), kind, "alone", torch.float32, scale)
    truth = loss_and_gradient(definition.pair_loss, *in_double(*arguments))
    plain = loss_and_gradient(definition.pair_loss, *arguments)
    ours = loss_and_gradient(pair_loss, *arguments)
    for fused, other, exact in zip(ours, plain, truth, strict=True):
        error, plain_error = ((result.double() - exact).abs().max() for result in (fused, other))
        assert error <= plain_error + tolerance * exact.abs().max()


@pytest.mark.parametrize("kind", ["backward", "forward", "symmetric"])
def test_a_row_and_a_column_far_below_the_others_keep_their_digits(kind, backend):
    distance, _, _, form, _ = problem((1, 40, 40, 0), kind, "alone", torch.float32, 1.0)
    with torch.no_grad():
        distance[0, 3] += 500
        distance[0, :, 5] += 400
    actual = loss_and_gradient(pair_loss, distance, None, None, form)
    expected = loss_and_gradient(definition.pair_loss, *in_double(distance, None, None, form))
    torch.testing.assert_close(actual, tuple(tensor.float() for tensor in expected), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind, terms", [case for case in TERMS if case[0] != "none" and case[1] != "linex per row"])
@pytest.mark.parametrize("value", [torch.inf, torch.nan])
@pytest.mark.parametrize("where", [(0, 3, 4), (0, 3), (0, slice(None), 4)])
def test_what_is_not_finite_gives_what_torch_gives(where, value, kind, terms, backend):
    distance, *rest = problem((1, 12, 12, 0), kind, terms)
    with torch.no_grad():
        distance[where] = value
    ours, plain = (loss_and_gradient(function, distance, *rest) for function in (pair_loss, definition.pair_loss))
    torch.testing.assert_close(ours[0], plain[0], equal_nan=True)
    # torch sometimes multiplies infinite probabilities by zero; where it gives numbers, so do we.
    finite = plain[2].isfinite()
    torch.testing.assert_close(ours[2][finite], plain[2][finite])


def test_distances_too_large_to_be_told_apart_give_finite_losses(backend):
    distance = (1e9 * torch.rand(1, 40, 40, generator=torch.Generator().manual_seed(0))).requires_grad_()
    loss, _ = pair_loss(distance, None, None, PairLossSettings("symmetric"))
    expected, *_ = definition.pair_loss(distance.double(), None, None, PairLossSettings("symmetric"))
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
    assert torch.autograd.grad(loss, distance)[0].isfinite().all()


@pytest.mark.parametrize("kind, terms", TERMS)
def test_derivatives_pass_gradcheck_and_gradgradcheck(kind, terms):
    distance, *rest = problem((2, 5, 7, 1), kind, terms)

    def call(distance):
        return pair_loss(distance, *rest)[0]

    assert gradcheck(call, distance)
    assert gradgradcheck(call, distance)


def test_a_log_discount_may_have_a_gradient():
    distance, after, log_discounts, form, _ = problem((2, 5, 7, 1), "none", "linex per row")
    loss, _ = pair_loss(distance, after, log_discounts.requires_grad_(), form)
    assert torch.autograd.grad(loss, log_discounts)[0].abs().min() > 0


def test_a_symmetric_loss_measures_each_pair_once():
    calls = []

    def head(x, y):
        calls.append(None)
        return (x - y).abs().sum(dim=-1)

    x = torch.randn(6, 4, requires_grad=True)
    qm.losses.contrastive(head, x, x.detach(), direction="symmetric")
    assert len(calls) == 1


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind, far, scale", far_rows.CASES)
def test_one_row_that_is_far_from_all_costs_the_others_no_digits(kind, far, scale, streaming, backend, monkeypatch):
    monkeypatch.setitem(tiles._TILE_PAIRS, "cpu", 5 * 16)
    x, y = far_rows.points(far)
    loss = qm.losses.contrastive(far_rows.head, x, y, direction=kind, scale=scale, streaming=streaming).loss
    far_rows.check_loss(loss, x, y, kind, scale)


def test_tmd_critic_keeps_the_digits_beside_a_far_row(backend, monkeypatch):
    monkeypatch.setitem(tiles._TILE_PAIRS, "cpu", 5 * 16)
    x, y = far_rows.points(1e9)
    expected, _ = far_rows.exact(far_rows.distances(x, y), "backward", 0.3)
    for streaming in (False, True):
        result = qm.losses.tmd_critic(far_rows.head, x, x, x, y, scale=0.3, streaming=streaming)
        torch.testing.assert_close(result.contrastive.double(), expected, **far_rows.TOLERANCE)
