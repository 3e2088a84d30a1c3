"""MRN's CUDA kernels on a CPU (cuda_on_cpu.py) against backends/reference."""

from __future__ import annotations

import pytest
import torch
from backend_comparison import DTYPES, HALF, assert_alike, assert_same, pair_points, points, with_special_values
from cuda_on_cpu import check_half_without_a_copy, kernels, needs_compiler, off_a_boundary

import qmkernels as qm
from qmkernels.arguments.mrn import ASYMMETRIC, EPS_FORMS, PRESETS, SQUARES, MrnSettings
from qmkernels.backends.native import mrn as native
from qmkernels.backends.reference import mrn as reference

pytestmark = needs_compiler
mrn_kernels = kernels("mrn")

FORMS = {
    **PRESETS,
    **{f"{half}-{squares}": MrnSettings(3, half, squares) for half in ASYMMETRIC for squares in SQUARES},
    **{f"{name}-1.5": MrnSettings(3, "first", "mean", 1.5, 0.3, name, "none", 0.7) for name in EPS_FORMS},
    **{f"{name}-2": MrnSettings(2, "second", "sum", 2.0, 0.3, name, "mean") for name in EPS_FORMS},
    "exponent 0.5": MrnSettings(2, "none", "sum", 0.5, 0.0, "add", "sum"),
}
SUM, COMPONENTS = MrnSettings(3, "first"), MrnSettings(3, "second", reduction="none")
# Values per component: none or one in a half, halves of full and partial packs of 16 bytes, several slices.
SIZES = (1, 2, 5, 8, 16, 33, 64, 150)


def _rows_agree(x: torch.Tensor, y: torch.Tensor, form: MrnSettings) -> None:
    out = reference.mrn_forward(x, y, *form)
    assert_alike((native.mrn_forward(x, y, *form),), (out,))
    grad_out = torch.randn_like(out)
    assert_alike(native.mrn_backward(grad_out, x, y, *form), reference.mrn_backward(grad_out, x, y, *form))


def _pairs_agree(x: torch.Tensor, y: torch.Tensor, form: MrnSettings) -> None:
    out = reference.mrn_pairwise_forward(x, y, *form)
    assert_alike((native.mrn_pairwise_forward(x, y, *form),), (out,))
    grad_out = torch.randn_like(out)
    actual = native.mrn_pairwise_backward(grad_out, x, y, *form)
    assert_alike(actual, reference.mrn_pairwise_backward(grad_out, x, y, *form))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_rows_agree_with_the_reference_in_every_form(form, dtype):
    _rows_agree(*points(13, size=5 * form.num_components, dtype=dtype), form)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", (SUM, COMPONENTS), ids=("sum", "components"))
@pytest.mark.parametrize("size", (*SIZES, 1001))
def test_rows_agree_with_the_reference_at_every_size(size, form, dtype):
    _rows_agree(*points(47, size=3 * size, dtype=dtype), form)


@pytest.mark.parametrize("num_components", (1, 2, 31, 129))
def test_any_number_of_components_is_reduced(num_components):
    _rows_agree(*points(5, size=num_components * 8, dtype=torch.float64), MrnSettings(num_components, reduction="mean"))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_pairs_agree_with_the_reference_in_every_form(form, dtype):
    _pairs_agree(*pair_points(5, 7, 5 * form.num_components, dtype), form)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", (SUM, COMPONENTS), ids=("sum", "components"))
@pytest.mark.parametrize("size", SIZES)
def test_pairs_agree_with_the_reference_at_every_size(size, form, dtype):
    # One more than a tile on either side; the gradient of y is that of x with the sides exchanged.
    _pairs_agree(*pair_points(33, 65, 3 * size, dtype), form)


# One matrix has few blocks, so a block handles a slice of a component or, with many components, one component. With 100
# matrices it handles some of the seven components, with 256 all of them.
@pytest.mark.parametrize("batch, num_components, size", ((1, 1, 300), (1, 7, 40), (100, 7, 8), (256, 7, 8)))
@pytest.mark.parametrize("reduction", ("none", "mean"))
def test_pairs_agree_however_the_work_is_split_over_blocks(reduction, batch, num_components, size):
    x, y = points(batch, 3, size=num_components * size, dtype=torch.float32)
    _pairs_agree(x, y, MrnSettings(num_components, reduction=reduction))


# A goal against candidates, and the other way round. The gradient of the single row is one sum over three rows, or
# sums over groups of four or, for the largest, more.
@pytest.mark.parametrize("num_x, num_y", ((1, 3), (1, 41), (41, 1), (1, 1)))
@pytest.mark.parametrize("size, form, dtype", (
    (1, SUM, torch.float32), (5, COMPONENTS, torch.float64), (16, COMPONENTS, torch.float32),
    (33, FORMS["difference-1.5"], torch.float32), (150, SUM, torch.float64),
))  # fmt: skip
def test_pairs_with_a_single_row_agree_with_the_reference(size, form, dtype, num_x, num_y):
    _pairs_agree(*pair_points(num_x, num_y, size * form.num_components, dtype, batch=3), form)


def test_the_gradient_of_a_single_row_adds_up_over_large_groups():
    _pairs_agree(*pair_points(1, 1501, 128, torch.float32, batch=2), MrnSettings(128, "none"))


@pytest.mark.parametrize("size", (8, 40))
def test_gradients_add_up_over_tiles_where_the_work_is_not_split(size):
    _pairs_agree(*pair_points(2, 65, 3 * size, torch.float32, batch=86), SUM)


@pytest.mark.parametrize("size", (8, 72))
def test_tensors_off_a_boundary_of_16_bytes_are_taken_too(size):
    x, y = (off_a_boundary(tensor) for tensor in pair_points(5, 5, 3 * size, torch.float32))
    _rows_agree(x, y, SUM)
    _pairs_agree(x, y, SUM)
    _pairs_agree(x, off_a_boundary(y[:, :1]), SUM)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", (SUM, COMPONENTS), ids=("sum", "components"))
@pytest.mark.parametrize("size", (5, 16, 150))
def test_of_equal_largest_differences_the_first_has_the_gradient(size, form, dtype):
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randint(0, 3, (2, 2, 9, 3 * size), generator=generator).to(dtype)
    _rows_agree(x, y, form)
    _pairs_agree(x, y, form)


@pytest.mark.parametrize("name", EPS_FORMS)
@pytest.mark.parametrize("eps", (0.0, 1e-3))
def test_where_x_equals_y_the_gradient_is_finite(eps, name):
    form = MrnSettings(3, eps=eps, eps_form=name)
    x, _ = pair_points(5, 5, 3 * 16, torch.float64)
    _rows_agree(x, x.clone(), form)
    _pairs_agree(x, x.clone(), form)
    ones = torch.ones(2, 5, 5, dtype=torch.float64)
    assert all(grad.isfinite().all() for grad in native.mrn_pairwise_backward(ones, x, x, *form))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("place", (1, 13))
@pytest.mark.parametrize("value", (torch.nan, torch.inf, -torch.inf))
@pytest.mark.parametrize("side", ("x", "y"))
def test_nan_and_infinity_reach_what_they_reach_in_the_reference(side, value, place, dtype):
    x, y = pair_points(5, 7, 3 * 16, dtype)
    (x if side == "x" else y)[1, -1, 16 + place] = value  # in the last row of the tile
    for form in (SUM, COMPONENTS, SUM._replace(num_components=1), SUM._replace(exponent=2.0)):
        _rows_agree(x[:, :5].contiguous(), y[:, :5].contiguous(), form)
        _pairs_agree(x, y, form)
        _pairs_agree(x[:, -1:].contiguous(), y, form)
        _pairs_agree(x, y[:, -1:].contiguous(), form)


# Of the asymmetric half only the place of the largest difference has a finite derivative: 40 is one slice, and of 150
# each half takes several.
@pytest.mark.parametrize("size", (5, 40, 150))
@pytest.mark.parametrize("value", (torch.nan, torch.inf, -torch.inf))
@pytest.mark.parametrize("form", (SUM, COMPONENTS), ids=("sum", "components"))
def test_nan_and_infinity_in_grad_out_reach_what_they_reach_in_the_reference(form, value, size):
    x, y = pair_points(34, 66, 3 * size, torch.float32)
    grad_out = torch.randn_like(reference.mrn_pairwise_forward(x, y, *form))
    grad_out[0, 2, 5] = value
    grad_out[1, -1, -1] = value
    actual = native.mrn_pairwise_backward(grad_out, x, y, *form)
    assert_alike(actual, reference.mrn_pairwise_backward(grad_out, x, y, *form))


def test_two_runs_give_the_same_bits():
    x, y = pair_points(33, 65, 3 * 40, torch.float32)
    grad_out = torch.randn(2, 33, 65)
    runs = [native.mrn_pairwise_backward(grad_out, x, y, *SUM) for _ in range(2)]
    assert all(torch.equal(first, second) for first, second in zip(*runs, strict=True))


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("form", (SUM, COMPONENTS), ids=("sum", "components"))
@pytest.mark.parametrize("size", (1, 5, 8, 12, 33, 150))
def test_rows_in_half_precision_give_the_numbers_of_float32(size, form, dtype):
    x, y = with_special_values(*points(13, size=3 * size, dtype=dtype))
    out = native.mrn_forward(x, y, *form)
    assert_same((out,), (native.mrn_forward(x.float(), y.float(), *form),))
    grad_out = torch.randn_like(out)
    expected = native.mrn_backward(grad_out, x.float(), y.float(), *form)
    assert_same(native.mrn_backward(grad_out, x, y, *form), (grad.to(dtype) for grad in expected))


@pytest.mark.parametrize("dtype", HALF)
def test_every_number_in_half_precision_is_loaded_and_rounded_as_torch_does(dtype):
    # The largest difference of a component is that of its first place.
    form = MrnSettings(64, "first", reduction="none")
    numbers = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(dtype)
    rows = torch.zeros(1024, 64, 4, dtype=dtype)
    rows[..., 0] = numbers.view(1024, 64)
    others, rows = torch.zeros(1024, 256, dtype=dtype), rows.flatten(1)
    for x, y, sign in ((rows, others, 1), (others, rows, -1)):
        positive = (sign * numbers.float()).relu().view(1024, 64)
        assert_same((native.mrn_forward(x, y, *form),), (positive,))
    # Halfway between neighbours, where ties are to even, and a little beyond.
    halfway = (numbers.float() + (numbers.view(torch.int16) + 1).view(dtype).float()) / 2
    upstream = torch.where(torch.arange(2**16) % 3 == 0, halfway, halfway * (1 + 2**-20)).view(1024, 64)
    ones = (rows == rows).to(dtype)
    grad_x, grad_y = native.mrn_backward(upstream, ones, others, *form)
    rounded = upstream.to(dtype)
    assert_same((grad_x.view(1024, 64, 4)[..., 0], grad_y.view(1024, 64, 4)[..., 0]), (rounded, -rounded))


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("size", (8, 72))
def test_half_precision_off_a_boundary_is_taken_too(size, dtype):
    x, y = (off_a_boundary(tensor) for tensor in points(5, size=3 * size, dtype=dtype))
    out = reference.mrn_forward(x.float(), y.float(), *SUM)
    assert_alike((native.mrn_forward(x, y, *SUM),), (out,))
    assert_same(native.mrn_backward(0 * out, x, y, *SUM), (torch.zeros_like(x), torch.zeros_like(y)))


def test_tensors_of_one_call_have_one_dtype_which_is_half_only_where_a_kernel_loads_it():
    x, y = pair_points(5, 5, 6, torch.bfloat16)
    with pytest.raises(TypeError, match="y must be a tensor of bfloat16, got one of torch.float32"):
        native.mrn_forward(x, y.float(), *SUM)
    with pytest.raises(TypeError, match="y must be a tensor of float32, got one of torch.bfloat16"):
        native.mrn_forward(x.float(), y, *SUM)
    with pytest.raises(TypeError, match="x must be a tensor of float32, got one of torch.bfloat16"):
        native.mrn_pairwise_forward(x, y, *SUM)


@pytest.mark.parametrize("head", (qm.mrn, qm.nn.LatentMRN(24)), ids=("function", "module"))
def test_half_precision_reaches_the_kernels_without_a_copy(head, monkeypatch):
    x, y = points(5, size=24, dtype=torch.float32)
    check_half_without_a_copy(monkeypatch, lambda x, y: head(x, y).sum(), x=x, y=y)
