"""iQRL's temporal consistency as one op: against the loss composed of plain PyTorch, on every backend, under torch."""

import math

import pytest
import torch

import qmkernels as qm
from qmkernels.definitions import temporal_consistency as definition
from qmkernels.ops.temporal_consistency import composed

DTYPES = (torch.float32, torch.float64)
TOLERANCE = {torch.float32: {"rtol": 1e-5, "atol": 1e-6}, torch.float64: {"rtol": 1e-12, "atol": 1e-13}}
# Sizes around the lanes of every instruction set, and one row, step and value.
SHAPES = [(1, 1, 1), (2, 3, 7), (5, 2, 16), (3, 4, 33), (1, 9, 123), (4, 1, 507), (5, 64, 512)]


def latents(*shape, dtype=torch.float64, seed=0):
    """Makes predicted, target and a mask with zeros."""
    generator = torch.Generator().manual_seed(sum(shape) + seed)
    predicted, target = torch.randn(2, *shape, dtype=torch.float64, generator=generator).to(dtype)
    mask = (torch.rand(*shape[:2], generator=generator) > 0.3).to(dtype)
    return predicted.clone().requires_grad_(), target.clone(), mask


def ours(predicted, target, mask=None, discount=0.9):
    """Returns loss, similarity and the gradient by predicted."""
    result = qm.losses.temporal_consistency(predicted, target, mask, discount=discount)
    return *result, *torch.autograd.grad(result.loss, predicted)


def plain(predicted, target, mask=None, discount=0.9):
    loss, similarity = composed(predicted, target, mask, discount)
    return loss, similarity, *torch.autograd.grad(loss, predicted)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_fused_loss_equals_the_composed_one(shape, masked, dtype, backend):
    predicted, target, mask = latents(*shape, dtype=dtype)
    mask = mask if masked else None
    torch.testing.assert_close(ours(predicted, target, mask), plain(predicted, target, mask), **TOLERANCE[dtype])


@pytest.mark.parametrize("discount", [0.0, 1, 0.5, 1.7, -0.5])
def test_any_discount_weighs_the_steps(discount, backend):
    predicted, target, mask = latents(4, 3, 10)
    torch.testing.assert_close(ours(predicted, target, mask, discount), plain(predicted, target, mask, discount))


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_a_mask_of_any_dtype_counts_as_numbers(dtype, backend):
    predicted, target, mask = latents(3, 5, 10)
    expected = ours(predicted, target, mask)
    for actual, truth in zip(ours(predicted, target, mask.to(dtype)), expected, strict=True):
        assert torch.equal(actual, truth)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("counts", [0.0, 1.0])
@pytest.mark.parametrize("value", [0.0, 1e-30, 1e-12, 3e-9, 1e-5, 1e15, torch.nan, torch.inf, -torch.inf])
def test_rows_without_a_direction_or_a_number_do_what_they_do_in_plain_torch(value, counts, side, dtype, backend):
    """Even masked rows: a zero in the mask does not stop NaN, which stays in its row's gradient."""
    predicted, target, mask = latents(3, 5, 20, dtype=dtype)
    mask[1, 2] = counts
    with torch.no_grad():
        (predicted, target)[side][1, 2] *= value
    actual, expected = ours(predicted, target, mask), plain(predicted, target, mask)
    torch.testing.assert_close(actual, expected, equal_nan=True, **TOLERANCE[dtype])
    is_number = torch.tensor(value).isfinite().item()
    assert actual[0].isfinite() == is_number
    assert actual[1].isfinite().tolist() == [True, is_number, True]
    assert actual[2].isfinite().all(dim=-1).sum() == 15 - (not is_number)


def test_a_norm_beyond_the_range_gives_the_cosine_0_as_in_plain_torch(backend):
    predicted, target, _ = latents(2, 3, 20, dtype=torch.float32)
    with torch.no_grad():
        predicted[1, 2] = 1e25
    torch.testing.assert_close(ours(predicted, target), plain(predicted, target), **TOLERANCE[torch.float32])


def of_every_angle(size, dtype, seed=0):
    """Makes rows from opposite to nearly equal."""
    predicted, target, mask = latents(3, 4, size, dtype=dtype, seed=seed)
    return predicted, target + torch.linspace(-1, 30, 12, dtype=dtype).reshape(3, 4, 1) * predicted.detach(), mask


@pytest.mark.parametrize("size", [16, 512, 1024, 30_003])
def test_the_error_in_float32_is_no_worse_than_that_of_plain_torch(size, backend):
    """Compares root mean squares over draws: for one draw either may be luckier by any factor, for twenty by half."""
    errors = torch.zeros(2, 3, dtype=torch.float64)
    for seed in range(20):
        arguments = of_every_angle(size, torch.float32, seed)
        truth = plain(*(tensor.detach().double().requires_grad_() for tensor in arguments))
        for place, results in enumerate((ours(*arguments), plain(*arguments))):
            for part, (actual, expected) in enumerate(zip(results, truth, strict=True)):
                errors[place, part] += (actual - expected).detach().square().mean()
    assert (errors[0].sqrt() <= 1.5 * errors[1].sqrt()).all()


@pytest.mark.parametrize("size", [512, 100_003])
def test_float64_is_exact_to_the_last_places(size, backend):
    def dot(a, b):
        return math.fsum(x * y for x, y in zip(a, b, strict=True))

    predicted, target, _ = of_every_angle(size, torch.float64)
    rows = zip(predicted.flatten(0, 1).tolist(), target.flatten(0, 1).tolist(), strict=True)
    cosines = [dot(p, t) / math.sqrt(dot(p, p) * dot(t, t)) for p, t in rows]
    similarity = qm.losses.temporal_consistency(predicted, target).similarity
    torch.testing.assert_close(
        similarity, torch.tensor(cosines, dtype=torch.float64).view(3, 4).mean(dim=1), rtol=1e-15, atol=1e-15
    )


def test_the_definitions_gradient_is_that_of_its_loss():
    predicted, target, mask = latents(3, 4, 6)
    with torch.no_grad():
        predicted[0, 0], predicted[1, 1], target[2, 2] = 0, 1e-10 * predicted[1, 1], 1e-12 * target[2, 2]
    grad_loss = torch.tensor(-1.7, dtype=torch.float64)
    (expected,) = torch.autograd.grad(composed(predicted, target, mask, 0.8)[0], predicted, grad_loss)
    slopes = definition.slopes(predicted, target, mask, 0.8)
    torch.testing.assert_close(definition.gradient(grad_loss, slopes, predicted, target), expected)


def test_strided_and_expanded_latents_give_the_numbers_of_contiguous_ones(backend):
    predicted, target, mask = latents(3, 5, 10)
    contiguous = ours(predicted, target, mask)
    strided = predicted.detach().permute(2, 0, 1).contiguous().permute(1, 2, 0).requires_grad_()
    for actual, expected in zip(
        ours(strided, target.mT.contiguous().mT, mask.T.contiguous().T), contiguous, strict=True
    ):
        assert torch.equal(actual, expected)
    expanded, one_mask = target[:, :1].expand(3, 5, 10), mask[:, :1].expand(3, 5)
    for actual, expected in zip(
        ours(predicted, expanded, one_mask), ours(predicted, expanded.clone(), one_mask.clone()), strict=True
    ):
        assert torch.equal(actual, expected)


def test_the_target_has_no_gradient_and_the_mask_has_that_of_the_composed_form(backend):
    predicted, target, mask = latents(3, 5, 10)
    target.requires_grad_()
    for weights in (None, mask):
        loss = qm.losses.temporal_consistency(predicted, target, weights).loss
        assert torch.autograd.grad(loss, target, allow_unused=True) == (None,)
    assert not qm.losses.temporal_consistency(predicted.detach(), target).loss.requires_grad
    mask.requires_grad_()
    leaves = [predicted, mask]
    actual = torch.autograd.grad(qm.losses.temporal_consistency(predicted, target, mask).loss, leaves)
    torch.testing.assert_close(actual, torch.autograd.grad(composed(predicted, target.detach(), mask, 0.9)[0], leaves))


def test_a_discount_that_is_learned_has_the_gradient_of_the_composed_form(backend):
    predicted, target, mask = latents(3, 5, 10)
    discount = torch.tensor(0.9, dtype=torch.float64, requires_grad=True)
    loss = qm.losses.temporal_consistency(predicted, target, mask, discount=discount).loss
    torch.testing.assert_close(loss.detach(), ours(predicted, target, mask)[0].detach())
    (actual,) = torch.autograd.grad(loss, discount)
    (expected,) = torch.autograd.grad(composed(predicted, target, mask, discount)[0], discount)
    torch.testing.assert_close(actual, expected)


def test_backward_keeps_the_inputs_and_two_numbers_per_row(backend):
    kept = []
    predicted, target, mask = latents(3, 5, 100)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        qm.losses.temporal_consistency(predicted, target, mask)
    assert [tuple(tensor.shape) for tensor in kept] == [(3, 5, 100), (3, 5, 100), (3, 5), (2, 3, 5)]
    assert kept[0].data_ptr() == predicted.data_ptr() and kept[1].data_ptr() == target.data_ptr()


def test_a_mask_on_another_device_is_refused():
    predicted, target, mask = latents(3, 5, 10)
    with pytest.raises(RuntimeError, match="mask must be on cpu, like the latents, got meta"):
        qm.losses.temporal_consistency(predicted, target, mask.to("meta"))
