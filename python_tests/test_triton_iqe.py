"""The Triton functions of IQE against backends/reference, on a GPU where there is one, else under the interpreter."""

from __future__ import annotations

import iqe_gradients
import pytest
import torch
from backend_comparison import DTYPES, HALF, assert_alike, assert_same, with_special_values
from triton_testing import DEVICE, assert_rounded, import_kernels, interpreted, pair_points, points

from qmkernels.arguments.iqe import REDUCTIONS
from qmkernels.backends.reference import iqe as reference
from qmkernels.definitions import iqe as definition

kernels = import_kernels("iqe")
pairwise_kernels = import_kernels("iqe_pairwise")
pytestmark = interpreted

# Every reduction in both dtypes at one size, and at the others one of each kind that the kernels distinguish: lengths
# depend on the size, what is made of them does not.
CASES = [(8, reduction, dtype) for reduction in REDUCTIONS for dtype in DTYPES]
CASES += [
    (dim_per_component, reduction, dtype)
    for dim_per_component in (1, 4, 5, 16, 33, 64)
    for reduction, dtype in (("none", torch.float32), ("maxmean", torch.float32), ("sum", torch.float64))
]


def _max_weight(dtype: torch.dtype) -> torch.Tensor:
    return torch.tensor(0.3, dtype=dtype, device=DEVICE)


@pytest.mark.parametrize("keep", (False, True))
@pytest.mark.parametrize("dim_per_component, reduction, dtype", CASES)
def test_forward_returns_what_the_reference_returns(dim_per_component, reduction, dtype, keep):
    x, y = points(7, size=3 * dim_per_component, dtype=dtype)
    arguments = x, y, _max_weight(dtype), dim_per_component, reduction, "sigmoid", keep
    assert_alike(kernels.iqe_forward(*arguments), reference.iqe_forward(*arguments))


@pytest.mark.parametrize("dim_per_component, reduction, dtype", CASES)
def test_backward_is_the_gradient_of_the_definition(dim_per_component, reduction, dtype):
    x, y = points(8, size=3 * dim_per_component, dtype=dtype)
    iqe_gradients.check_rows(kernels, x, y, dim_per_component, reduction)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("dim_per_component", (1, 5, 8, 33))
def test_rows_in_half_precision_give_the_numbers_of_float32(dim_per_component, dtype):
    x, y = with_special_values(*points(8, size=3 * dim_per_component, dtype=dtype))
    arguments = _max_weight(torch.float32), dim_per_component, "maxmean", "sigmoid"
    out, *kept = kernels.iqe_forward(x, y, *arguments, True)
    assert_same((out, *kept), kernels.iqe_forward(x.float(), y.float(), *arguments, True))
    grad_out = torch.randn_like(out)
    grads = kernels.iqe_backward(grad_out, *kept, *arguments, False, x.new_empty(1))[:2]
    assert_rounded(grads, kernels.iqe_backward(grad_out, *kept, *arguments, False)[:2], dtype)


@pytest.mark.parametrize("keep", (False, True))
@pytest.mark.parametrize("dim_per_component, reduction, dtype", CASES)
def test_pairwise_forward_returns_what_the_reference_returns(dim_per_component, reduction, dtype, keep):
    x, y = pair_points(5, 7, 3 * dim_per_component, dtype)
    arguments = x, y, _max_weight(dtype), dim_per_component, reduction, "sigmoid", keep
    assert_alike(kernels.iqe_pairwise_forward(*arguments), reference.iqe_pairwise_forward(*arguments))


@pytest.mark.parametrize("dim_per_component, reduction, dtype", CASES)
def test_pairwise_backward_is_the_gradient_of_the_definition(dim_per_component, reduction, dtype):
    x, y = pair_points(5, 7, 3 * dim_per_component, dtype)
    iqe_gradients.check_pairs(kernels, x, y, dim_per_component, reduction)


# The single row's gradient is a sum of parts, of 16 rows or of a tile.
@pytest.mark.parametrize("num_x, num_y", ((1, 3), (1, 37), (37, 1), (1, 1)))
@pytest.mark.parametrize(
    "dim_per_component, reduction, dtype",
    [
        (8, "maxmean", torch.float32), (8, "none", torch.float64), (5, "max", torch.float32),
        (12, "sum", torch.float32), (32, "maxmean", torch.float32),
    ],
)  # fmt: skip
def test_pairs_with_a_single_row_are_those_of_the_definition(dim_per_component, reduction, dtype, num_x, num_y):
    x, y = pair_points(num_x, num_y, 3 * dim_per_component, dtype)
    arguments = x, y, _max_weight(dtype), dim_per_component, reduction, "sigmoid", True
    assert_alike(kernels.iqe_pairwise_forward(*arguments), reference.iqe_pairwise_forward(*arguments))
    iqe_gradients.check_pairs(kernels, x, y, dim_per_component, reduction)


@pytest.mark.parametrize("num_x, num_y", ((2, 33), (33, 2), (17, 131), (131, 17)))
def test_pairwise_gradients_hold_where_points_pass_a_tile(num_x, num_y):
    x, y = pair_points(num_x, num_y, 3 * 4, torch.float64)
    max_weight = _max_weight(torch.float64)
    out, largest = reference.iqe_pairwise_forward(x, y, max_weight, 4, "maxmean", "sigmoid", True)
    assert_alike(kernels.iqe_pairwise_forward(x, y, max_weight, 4, "maxmean", "sigmoid", True), (out, largest))
    arguments = torch.randn_like(out), x, y, largest, max_weight, 4, "maxmean", "sigmoid", True
    assert_alike(kernels.iqe_pairwise_backward(*arguments), reference.iqe_pairwise_backward(*arguments))


def test_pairwise_offsets_of_64_bits_give_the_same_numbers(monkeypatch):
    x, y = pair_points(5, 7, 3 * 4, torch.float64)
    out, largest = kernels.iqe_pairwise_forward(x, y, None, 4, "max", "identity", True)
    grads = kernels.iqe_pairwise_backward(out, x, y, largest, None, 4, "max", "identity", False)
    monkeypatch.setattr(pairwise_kernels, "_is_wide", lambda *_: True)
    assert_alike(kernels.iqe_pairwise_forward(x, y, None, 4, "max", "identity", True), (out, largest))
    assert_alike(kernels.iqe_pairwise_backward(out, x, y, largest, None, 4, "max", "identity", False), grads)


@pytest.mark.parametrize("num_components", (1, 2, 7, 129))
def test_any_number_of_components_is_reduced(num_components):
    x, y = points(5, size=num_components * 8, dtype=torch.float64)
    arguments = x, y, _max_weight(torch.float64), 8, "maxmean", "sigmoid", True
    assert_alike(kernels.iqe_forward(*arguments), reference.iqe_forward(*arguments))


def test_one_component_may_span_1024_values():
    x, y = points(3, size=1024, dtype=torch.float64)
    arguments = x, y / 64 + x, None, 1024, "sum", "identity", True
    assert_alike(kernels.iqe_forward(*arguments), reference.iqe_forward(*arguments))


@pytest.mark.parametrize("dim_per_component", (4, 5, 16, 33))
def test_tied_ends_add_up_to_the_reference_subgradient(dim_per_component):
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randint(0, 5, (2, 57, 2 * dim_per_component), generator=generator).to(DEVICE, torch.float64)
    for actual, expected, coordinate in zip(
        definition.unpack_ends(
            kernels.iqe_forward(x, y, None, dim_per_component, "sum", "identity", True)[1], dim_per_component
        ),
        definition.ends(x, y, dim_per_component),
        (x, y),
        strict=True,
    ):
        coordinate = coordinate.unflatten(-1, (-1, dim_per_component))
        for tied in range(5):
            assert torch.equal(
                (actual.bool() & (coordinate == tied)).sum(dim=-1), (expected & (coordinate == tied)).sum(dim=-1)
            )


def _hard_rows(dim_per_component: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns rows of two components with many pieces, ties, equal intervals, zeros of both signs, infinities, NaN."""
    x, y = points(11, size=2 * dim_per_component, dtype=dtype)
    y = x + 4 * (y - x) / dim_per_component
    x[1:3], y[1:3] = (4 * x[1:3]).round(), (4 * y[1:3]).round()
    x[3], y[4] = 0.5, 0.5
    x[5], y[5] = x[5].sign() * 0.0, y[5].sign()
    x[6, ::3], x[7, 1::3], y[6, ::4], y[7, ::5] = torch.inf, -torch.inf, -torch.inf, torch.inf
    x[8, 0], y[9, 1], x[10, -1], x[10, 2:9] = torch.nan, torch.nan, torch.nan, torch.inf
    return x, y


# Components that are sorted: powers of two, one more than that, and a multiple of 8, which packs its ends otherwise.
# Of ends that tie they mark the same one as the reference, which sorts too.
@pytest.mark.parametrize(
    "dim_per_component, reduction, dtype",
    [
        (32, "none", torch.float32), (65, "max", torch.float32), (72, "maxmean", torch.float64),
        (128, "none", torch.float64),
    ],
)  # fmt: skip
def test_sorted_components_have_the_lengths_and_ends_of_the_reference(dim_per_component, reduction, dtype):
    x, y = _hard_rows(dim_per_component, dtype)
    arguments = x, y, _max_weight(dtype), dim_per_component, reduction, "sigmoid"
    expected = reference.iqe_forward(*arguments, True)
    assert definition.unpack_ends(expected[1], dim_per_component)[0][0].sum() > 10
    assert_alike(kernels.iqe_forward(*arguments, True), expected)
    assert_alike(kernels.iqe_forward(*arguments, False)[:1], expected[:1])


@pytest.mark.parametrize("dim_per_component", (4, 5, 16, 33))
def test_pairwise_tied_ends_add_up_to_the_length(dim_per_component):
    # sum of y * grad_y + x * grad_x over a component is the sum of its lengths, whichever of the tied ends is taken.
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randint(0, 5, (2, 1, 9, 2 * dim_per_component), generator=generator).to(DEVICE, torch.float64)
    lengths, largest = kernels.iqe_pairwise_forward(x, y, None, dim_per_component, "none", "identity", True)
    grads = kernels.iqe_pairwise_backward(
        torch.ones_like(lengths), x, y, largest, None, dim_per_component, "none", "identity", False
    )
    by_component = (x * grads[0] + y * grads[1]).unflatten(-1, (-1, dim_per_component)).sum(dim=(1, 3))
    assert torch.equal(by_component, lengths.sum(dim=(1, 2)))


@pytest.mark.parametrize("side", ("x", "y"))
@pytest.mark.parametrize("reduction", ("none", "sum", "max", "maxmean"))
@pytest.mark.parametrize("dim_per_component", (4, 5, 33))
def test_nan_gives_nan_only_in_its_row(dim_per_component, reduction, side):
    x, y = points(7, size=3 * dim_per_component, dtype=torch.float32)
    (x if side == "x" else y)[2, dim_per_component + 1] = torch.nan
    arguments = x, y, _max_weight(torch.float32), dim_per_component, reduction, "sigmoid", False
    assert_alike(kernels.iqe_forward(*arguments), reference.iqe_forward(*arguments))


@pytest.mark.parametrize("side", ("x", "y"))
@pytest.mark.parametrize("reduction", ("none", "sum", "max", "maxmean"))
@pytest.mark.parametrize("dim_per_component", (4, 5, 33))
def test_nan_gives_nan_only_in_its_pairs(dim_per_component, reduction, side):
    x, y = pair_points(5, 7, 3 * dim_per_component, torch.float32)
    (x if side == "x" else y)[1, 2, dim_per_component + 1] = torch.nan
    arguments = x, y, _max_weight(torch.float32), dim_per_component, reduction, "sigmoid", False
    assert_alike(kernels.iqe_pairwise_forward(*arguments), reference.iqe_pairwise_forward(*arguments))


@pytest.mark.parametrize("infinity", (torch.inf, -torch.inf))
@pytest.mark.parametrize("side", ("x", "y"))
@pytest.mark.parametrize("dtype", DTYPES)
def test_infinity_counts_as_the_largest_finite_number(dtype, side, infinity):
    x, y = pair_points(5, 5, 3 * 4, dtype)
    (x if side == "x" else y)[:, 2, 5] = infinity  # one coordinate: of tied ends any may hold the end
    arguments = x, y, None, 4, "none", "identity", True
    assert_alike(kernels.iqe_forward(*arguments), reference.iqe_forward(*arguments))
    assert_alike(kernels.iqe_pairwise_forward(*arguments), reference.iqe_pairwise_forward(*arguments))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", ((0, 8), (3, 0, 8)))
def test_empty_batch_returns_empty_tensors_of_the_right_shape(shape, reduction):
    x = torch.zeros(shape, dtype=torch.float64, device=DEVICE)
    arguments = x, x, _max_weight(torch.float64), 4, reduction, "sigmoid", True
    actual = kernels.iqe_forward(*arguments)
    assert_alike(actual, reference.iqe_forward(*arguments))
    grads = kernels.iqe_backward(*actual, arguments[2], 4, reduction, "sigmoid", False)[:2]
    assert_alike(grads, (x, x))


@pytest.mark.parametrize("shape_x, shape_y", (((0, 3, 8), (0, 2, 8)), ((2, 0, 8), (2, 3, 8)), ((2, 3, 8), (2, 0, 8))))
def test_pairwise_with_an_empty_side_returns_zero_gradients(shape_x, shape_y):
    x, y = torch.ones(shape_x, device=DEVICE), torch.ones(shape_y, device=DEVICE)
    arguments = x, y, _max_weight(torch.float32), 4, "maxmean", "sigmoid", True
    actual = kernels.iqe_pairwise_forward(*arguments)
    assert_alike(actual, reference.iqe_pairwise_forward(*arguments))
    grads = kernels.iqe_pairwise_backward(actual[0], x, y, actual[1], arguments[2], 4, "maxmean", "sigmoid", True)
    assert_alike(grads, (torch.zeros_like(x), torch.zeros_like(y), torch.zeros((), device=DEVICE)))


def test_two_runs_of_the_pairwise_gradient_give_the_same_bits():
    x, y = pair_points(9, 35, 3 * 8, torch.float32)
    out, largest = kernels.iqe_pairwise_forward(x, y, None, 8, "max", "identity", True)
    arguments = torch.randn_like(out), x, y, largest, None, 8, "max", "identity", False
    once, again = (kernels.iqe_pairwise_backward(*arguments)[:2] for _ in range(2))
    assert all(torch.equal(first, second) for first, second in zip(once, again, strict=True))


@pytest.mark.parametrize("side", ("x", "y"))
@pytest.mark.parametrize("dim_per_component", (4, 5, 8, 33, 77))
def test_the_gradient_of_a_component_with_a_nan_is_nan(dim_per_component, side):
    x, y = points(7, size=3 * dim_per_component, dtype=torch.float32)
    (x if side == "x" else y)[2, dim_per_component + 1] = torch.nan
    kept = [
        module.iqe_forward(x, y, None, dim_per_component, "mean", "identity", True) for module in (kernels, reference)
    ]
    assert torch.equal(kept[0][1][2, 1], kept[1][1][2, 1])
    for others in kept:
        arguments = torch.ones(7), *others[1:], None, dim_per_component, "mean", "identity", False
        for grad in kernels.iqe_backward(*arguments)[:2]:
            nan = grad.isnan().unflatten(-1, (3, -1))
            assert nan[2, 1].all() and nan.sum() == dim_per_component


@pytest.mark.parametrize("side", ("x", "y"))
@pytest.mark.parametrize("dim_per_component", (4, 8, 33))
def test_the_pairwise_gradients_of_all_pairs_with_a_nan_are_nan(dim_per_component, side):
    x, y = pair_points(5, 7, 3 * dim_per_component, torch.float32)
    (x if side == "x" else y)[1, 2, dim_per_component + 1] = torch.nan
    grad_out, none = torch.ones(x.shape[0], 5, 7), torch.empty(0, dtype=torch.int32)
    arguments = grad_out, x, y, none, None, dim_per_component, "mean", "identity", False
    for actual, expected in zip(
        kernels.iqe_pairwise_backward(*arguments)[:2], reference.iqe_pairwise_backward(*arguments), strict=False
    ):
        assert torch.equal(actual.isnan(), expected.isnan()) and actual.isnan().any()


@pytest.mark.parametrize("dim_per_component", (4, 5))
def test_an_infinite_gradient_of_a_maximum_reaches_only_its_component(dim_per_component):
    iqe_gradients.check_infinite_upstream(
        kernels, *pair_points(5, 5, 3 * dim_per_component, torch.float32), dim_per_component
    )
