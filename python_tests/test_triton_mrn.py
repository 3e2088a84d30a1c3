"""The Triton functions of MRN against backends/reference, on a GPU where there is one, else under the interpreter."""

from __future__ import annotations

import pytest
import torch
from backend_comparison import DTYPES, HALF, assert_alike, assert_same, with_special_values
from triton_testing import DEVICE, assert_rounded, import_kernels, interpreted, pair_points, points

import qmkernels as qm
from qmkernels.arguments.mrn import ASYMMETRIC, EPS_FORMS, PRESETS, REDUCTIONS, SQUARES, MrnSettings
from qmkernels.backends.reference import mrn as reference

kernels = import_kernels("mrn")
pytestmark = interpreted

FORMS = {
    **PRESETS,
    "mqe": PRESETS["mqe"]._replace(scale=0.125),
    **{f"{half}-{squares}": MrnSettings(3, half, squares) for half in ASYMMETRIC for squares in SQUARES},
    **{f"{name}-1.5": MrnSettings(3, "first", "mean", 1.5, 0.3, name, "none", 0.7) for name in EPS_FORMS},
    **{f"{name}-2": MrnSettings(2, "second", "sum", 2.0, 0.3, name, "mean") for name in EPS_FORMS},
    "exponent 0.5": MrnSettings(2, "none", "sum", 0.5, 0.0, "add", "sum"),
}
SIZES = (1, 2, 5, 16, 33)  # values per component


def _rows_agree(x: torch.Tensor, y: torch.Tensor, form: MrnSettings) -> None:
    out = reference.mrn_forward(x, y, *form)
    assert_alike((kernels.mrn_forward(x, y, *form),), (out,))
    grad_out = torch.randn_like(out)
    assert_alike(kernels.mrn_backward(grad_out, x, y, *form), reference.mrn_backward(grad_out, x, y, *form))


def _pairs_agree(x: torch.Tensor, y: torch.Tensor, form: MrnSettings) -> None:
    out = reference.mrn_pairwise_forward(x, y, *form)
    assert_alike((kernels.mrn_pairwise_forward(x, y, *form),), (out,))
    grad_out = torch.randn_like(out)
    expected = reference.mrn_pairwise_backward(grad_out, x, y, *form)
    assert_alike(kernels.mrn_pairwise_backward(grad_out, x, y, *form), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", FORMS)
def test_rows_are_those_of_the_reference(name, size, dtype):
    form = FORMS[name]
    _rows_agree(*points(7, size=form.num_components * size, dtype=dtype), form)


# In float64 at one size: what a form does with a dtype does not depend on the size.
@pytest.mark.parametrize(
    "size, dtype", [(1, torch.float32), (5, torch.float32), (5, torch.float64), (16, torch.float32)]
)
@pytest.mark.parametrize("name", FORMS)
def test_pairs_are_those_of_the_reference(name, size, dtype):
    form = FORMS[name]
    _pairs_agree(*pair_points(3, 5, form.num_components * size, dtype), form)


# The single row's gradient is a sum of parts, of 16 rows or of a tile.
@pytest.mark.parametrize("num_x, num_y", ((1, 3), (1, 37), (37, 1), (1, 1)))
@pytest.mark.parametrize(
    "name, size, dtype",
    [("tmd", 16, torch.float32), ("first-sum", 5, torch.float64), ("difference-1.5", 33, torch.float32)],
)
def test_pairs_with_a_single_row_are_those_of_the_reference(name, size, dtype, num_x, num_y):
    form = FORMS[name]
    x, y = pair_points(num_x, num_y, form.num_components * size, dtype, batch=3)
    x[1, -1, 0], y[2, -1, -1] = torch.nan, torch.inf
    _pairs_agree(x, y, form)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("size", (1, 5, 16))
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_rows_in_half_precision_give_the_numbers_of_float32(reduction, size, dtype):
    form = MrnSettings(3, reduction=reduction)
    x, y = with_special_values(*points(8, size=3 * size, dtype=dtype))
    out = kernels.mrn_forward(x, y, *form)
    assert_same((out,), (kernels.mrn_forward(x.float(), y.float(), *form),))
    grad_out = torch.randn_like(out)
    expected = kernels.mrn_backward(grad_out, x.float(), y.float(), *form)
    assert_rounded(kernels.mrn_backward(grad_out, x, y, *form), expected, dtype)


@pytest.mark.parametrize("num_components, size", ((1, 1), (1, 1500), (129, 3), (1100, 1), (3, 507)))
def test_any_size_is_computed(num_components, size):
    form = MrnSettings(num_components, eps=1e-6, reduction="mean")
    _rows_agree(*points(3, size=num_components * size, dtype=torch.float64), form)
    _pairs_agree(*(side[None] for side in points(2, size=num_components * size, dtype=torch.float64)), form)


@pytest.mark.parametrize("num_x, num_y", ((1, 1), (1, 33), (33, 1), (17, 131)))
def test_pairs_hold_where_points_pass_a_tile(num_x, num_y):
    _pairs_agree(*pair_points(num_x, num_y, 2 * 3, torch.float64), MrnSettings(2))


@pytest.mark.parametrize("name", ("torchqmet", "torchqmet_fixed", "tmd", "ogbench", "first-sum", "max-1.5"))
def test_equal_and_tied_values_have_the_reference_gradient(name):
    form = FORMS[name]
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randint(0, 2, (2, 57, form.num_components * 5), generator=generator).to(DEVICE, torch.float64)
    y[:9] = x[:9]
    y[9:18] = x[9:18] + 1.0
    _rows_agree(x, y, form)
    _pairs_agree(x[None, 5:14], y[None, 5:14], form)


@pytest.mark.parametrize("value", (torch.nan, torch.inf, -torch.inf))
@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("name", ("first-sum", "second-mean", "none-sum", "max-1.5", "add-2", "torchqmet"))
def test_nan_and_infinity_give_what_the_reference_gives(name, place, value):
    form = FORMS[name]
    x, y = points(5, size=form.num_components * 4, dtype=torch.float32)
    x[1, place] = value
    y[3, place] = value
    _rows_agree(x, y, form)
    _pairs_agree(x[None], y[None], form)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("value", (torch.nan, torch.inf))
def test_nan_and_infinity_in_grad_out_reach_what_they_reach_in_the_reference(value, reduction):
    form = MrnSettings(2, reduction=reduction)
    x, y = points(5, size=8, dtype=torch.float64)
    grad_out = torch.ones_like(reference.mrn_forward(x, y, *form))
    grad_out[2] = value
    assert_alike(kernels.mrn_backward(grad_out, x, y, *form), reference.mrn_backward(grad_out, x, y, *form))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_empty_batch_returns_empty_tensors_of_the_right_shape(reduction):
    _rows_agree(*points(0, size=8, dtype=torch.float32), MrnSettings(2, reduction=reduction))
    _rows_agree(*points(3, 0, size=8, dtype=torch.float32), MrnSettings(2, reduction=reduction))


@pytest.mark.parametrize("shape_x, shape_y", (((0, 3, 8), (0, 2, 8)), ((2, 0, 8), (2, 3, 8)), ((2, 3, 8), (2, 0, 8))))
def test_pairwise_with_an_empty_side_returns_zero_gradients(shape_x, shape_y):
    _pairs_agree(torch.ones(shape_x, device=DEVICE), torch.ones(shape_y, device=DEVICE), MrnSettings(2))


def test_two_runs_of_the_pairwise_gradient_give_the_same_bits():
    x, y = pair_points(9, 35, 3 * 8, torch.float32)
    form = MrnSettings(3)
    grad_out = torch.randn_like(reference.mrn_pairwise_forward(x, y, *form))
    once, again = (kernels.mrn_pairwise_backward(grad_out, x, y, *form) for _ in range(2))
    assert all(torch.equal(first, second) for first, second in zip(once, again, strict=True))


@pytest.mark.parametrize("function", (qm.mrn, qm.mrn_pairwise))
def test_public_function_runs_on_this_backend(function):
    x, y = (side.requires_grad_() for side in points(9, size=24, dtype=torch.float64))
    results = []
    for backend in ("triton", "reference"):
        out = function(x, y, preset="tmd", backend=backend)
        results.append((out.detach(), *torch.autograd.grad(out.square().sum(), (x, y))))
    assert_alike(*results)
