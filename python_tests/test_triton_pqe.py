"""The Triton functions of PQE-LH against backends/reference, on a GPU or else under the interpreter."""

from __future__ import annotations

import math

import pytest
import torch
from backend_comparison import DTYPES, HALF, assert_alike, assert_same, with_special_values
from triton_testing import DEVICE, assert_rounded, import_kernels, interpreted, pair_points, points

import qmkernels as qm
from qmkernels.backends.reference import pqe as reference

kernels = import_kernels("pqe")
pytestmark = interpreted

DIM_PER_COMPONENT = (1, 4, 5, 33)


def _weights(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    """(C,), or (runs, C)."""
    return torch.linspace(-0.5, 1.5, math.prod(shape), device=DEVICE, dtype=dtype).reshape(shape)


def _agree(form: str, x: torch.Tensor, y: torch.Tensor, weights: torch.Tensor | None, dim_per_component: int) -> None:
    """``form``: pqe or pqe_pairwise."""
    arguments = x, y, weights, dim_per_component
    out = getattr(reference, f"{form}_forward")(*arguments)
    assert_alike((getattr(kernels, f"{form}_forward")(*arguments),), (out,))
    grad_out = torch.randn_like(out)
    for need_weights in (False, True) if weights is not None else (False,):
        actual, expected = (
            getattr(backend, f"{form}_backward")(grad_out, *arguments, need_weights) for backend in (kernels, reference)
        )
        assert_alike(actual, expected)


@pytest.mark.parametrize("with_weights", (False, True))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim_per_component", DIM_PER_COMPONENT)
def test_rows_are_those_of_the_reference(dim_per_component, dtype, with_weights):
    x, y = points(7, size=3 * dim_per_component, dtype=dtype)
    _agree("pqe", x, y, _weights(3, dtype=dtype) if with_weights else None, dim_per_component)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("dim_per_component", (1, 5, 16))
def test_rows_in_half_precision_give_the_numbers_of_float32(dim_per_component, dtype):
    x, y = with_special_values(*points(8, size=3 * dim_per_component, dtype=dtype))
    settings = _weights(3, dtype=torch.float32), dim_per_component
    out = kernels.pqe_forward(x, y, *settings)
    assert_same((out,), (kernels.pqe_forward(x.float(), y.float(), *settings),))
    grad_out = torch.randn_like(out)
    *grads, of_weights = kernels.pqe_backward(grad_out, x, y, *settings, True)
    *expected, expected_of_weights = kernels.pqe_backward(grad_out, x.float(), y.float(), *settings, True)
    assert_rounded(grads, expected, dtype)
    assert_same((of_weights,), (expected_of_weights,))


@pytest.mark.parametrize("with_weights", (False, True))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim_per_component", DIM_PER_COMPONENT)
def test_pairs_are_those_of_the_reference(dim_per_component, dtype, with_weights):
    x, y = pair_points(3, 5, 3 * dim_per_component, dtype)
    _agree("pqe_pairwise", x, y, _weights(3, dtype=dtype) if with_weights else None, dim_per_component)


@pytest.mark.parametrize("num_components, dim_per_component", ((1, 1), (1, 1500), (129, 3), (1100, 1), (3, 507)))
def test_any_size_is_computed(num_components, dim_per_component):
    x, y = points(3, size=num_components * dim_per_component, dtype=torch.float64)
    weights = _weights(num_components, dtype=torch.float64)
    _agree("pqe", x, y, weights, dim_per_component)
    _agree("pqe_pairwise", x[None, :2], y[None, :2], weights, dim_per_component)


@pytest.mark.parametrize("num_x, num_y", ((1, 1), (1, 33), (33, 1), (17, 131)))
def test_pairs_hold_where_points_pass_a_tile(num_x, num_y):
    _agree("pqe_pairwise", *pair_points(num_x, num_y, 2 * 3, torch.float64), _weights(2, dtype=torch.float64), 3)


@pytest.mark.parametrize("num_runs, rows_per_run", ((1, 3), (5, 1), (2, 7), (3, 517)))
def test_a_run_of_rows_has_its_own_weights(num_runs, rows_per_run):
    x, y = points(num_runs * rows_per_run, size=6, dtype=torch.float64)
    _agree("pqe", x, y, _weights(num_runs, 3, dtype=torch.float64), 2)


@pytest.mark.parametrize("num_runs, batch", ((1, 2), (2, 2), (2, 6)))
def test_a_run_of_matrices_has_its_own_weights(num_runs, batch):
    x, y = pair_points(9, 17, 6, torch.float64, batch=batch)
    _agree("pqe_pairwise", x, y, _weights(num_runs, 3, dtype=torch.float64), 2)


def test_rows_hold_where_they_pass_a_tile():
    _agree("pqe", *points(1025, size=3, dtype=torch.float64), _weights(3, dtype=torch.float64), 1)


@pytest.mark.parametrize("scale", (1e-30, 1e-6, 1e-3, 0.1, 1.0, 30.0))
@pytest.mark.parametrize("dtype", DTYPES)
def test_small_distances_lose_no_digits(dtype, scale):
    x, y = points(65, size=4, dtype=dtype)
    actual, expected = (backend.pqe_forward(x * scale, y * scale, None, 4) for backend in (kernels, reference))
    torch.testing.assert_close(actual, expected, rtol=8 * torch.finfo(dtype).eps, atol=0)
    assert (kernels.pqe_forward(x, x, None, 4) == 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_values_have_the_reference_gradient(dtype):
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randint(0, 2, (2, 57, 15), generator=generator).to(DEVICE, dtype)
    _agree("pqe", x, y, _weights(3, dtype=dtype), 5)
    _agree("pqe_pairwise", x[None, :9], y[None, :9], None, 5)


@pytest.mark.parametrize("with_weights", (False, True))
@pytest.mark.parametrize("value", (torch.nan, torch.inf, -torch.inf))
@pytest.mark.parametrize("side", ("x", "y"))
def test_nan_and_infinity_give_what_the_reference_gives(side, value, with_weights):
    x, y = points(5, size=12, dtype=torch.float32)
    (x if side == "x" else y)[2, 5] = value
    weights = _weights(3, dtype=torch.float32) if with_weights else None
    _agree("pqe", x, y, weights, 4)
    _agree("pqe_pairwise", x[None], y[None], weights, 4)


@pytest.mark.parametrize("with_weights", (False, True))
def test_empty_batch_returns_empty_tensors_of_the_right_shape(with_weights):
    weights = _weights(3, dtype=torch.float32) if with_weights else None
    _agree("pqe", *points(0, size=12, dtype=torch.float32), weights, 4)
    _agree("pqe", *points(3, 0, size=12, dtype=torch.float32), weights, 4)


@pytest.mark.parametrize("shape_x, shape_y", (((0, 3, 8), (0, 2, 8)), ((2, 0, 8), (2, 3, 8)), ((2, 3, 8), (2, 0, 8))))
def test_pairwise_with_an_empty_side_returns_zero_gradients(shape_x, shape_y):
    x, y = torch.ones(shape_x, device=DEVICE), torch.ones(shape_y, device=DEVICE)
    _agree("pqe_pairwise", x, y, _weights(2, dtype=torch.float32), 4)


def test_two_runs_of_the_pairwise_gradient_give_the_same_bits():
    x, y = pair_points(9, 35, 3 * 4, torch.float32)
    weights = _weights(3, dtype=torch.float32)
    grad_out = torch.randn_like(reference.pqe_pairwise_forward(x, y, weights, 4))
    once, again = (kernels.pqe_pairwise_backward(grad_out, x, y, weights, 4, True) for _ in range(2))
    assert all(torch.equal(first, second) for first, second in zip(once, again, strict=True))


@pytest.mark.parametrize("function", (qm.pqe, qm.pqe_pairwise))
def test_public_function_runs_on_this_backend(function):
    x, y = (side.requires_grad_() for side in points(9, size=12, dtype=torch.float64))
    weights = _weights(3, dtype=torch.float64).requires_grad_()
    results = []
    for backend in ("triton", "reference"):
        out = function(x, y, weights=weights, backend=backend)
        results.append((out.detach(), *torch.autograd.grad(out.square().sum(), (x, y, weights))))
    assert_alike(*results)
