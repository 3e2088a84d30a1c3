"""The CUDA kernels of the Poisson comparisons on a CPU (cuda_on_cpu.py) against backends/reference."""

from __future__ import annotations

import pytest
import torch
from backend_comparison import DTYPES
from cuda_on_cpu import kernels, needs_compiler

from qmkernels.backends.native import poisson as native
from qmkernels.backends.reference import poisson as reference
from qmkernels.definitions.poisson import COMPARISONS

pytestmark = needs_compiler
poisson_kernels = kernels("poisson")

# The reference's incomplete gamma functions lose digits, but small probabilities stay small.
TOLERANCE = {torch.float32: {"rtol": 1e-6, "atol": 1e-37}, torch.float64: {"rtol": 1e-9, "atol": 1e-300}}
# Near 0 the reference takes the logarithm of a sum close to 1, which is rounded.
LOGARITHM_ERROR = 1e-13


def _rates(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Every pair of small, moderate and large rates, zero among them; not a multiple of the block's threads."""
    rates = torch.tensor([0.0, 1e-8, 1e-3, 0.1, 0.5, 1.0, 1.99, 2.01, 5.0, 14.9, 15.1, 30.0, 60.0], dtype=dtype)
    a, b = torch.meshgrid(rates, rates, indexing="ij")
    return a.flatten().contiguous(), b.flatten().contiguous()


def _forward_agrees(a: torch.Tensor, b: torch.Tensor, form: str) -> None:
    tolerance = TOLERANCE[a.dtype] | ({"atol": LOGARITHM_ERROR} if form == "log_le" else {})
    actual, expected = (module.poisson_forward(a, b, form) for module in (native, reference))
    torch.testing.assert_close(actual, expected, equal_nan=True, **tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", COMPARISONS)
def test_forward_returns_what_the_reference_returns(form, dtype):
    _forward_agrees(*_rates(dtype), form)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", COMPARISONS)
def test_backward_returns_what_the_reference_returns(form, dtype):
    a, b = _rates(dtype)
    grad_out = torch.randn(a.shape, generator=torch.Generator().manual_seed(0), dtype=dtype)
    actual, expected = (module.poisson_backward(grad_out, a, b, form) for module in (native, reference))
    for first, second in zip(actual, expected, strict=True):
        torch.testing.assert_close(first, second, equal_nan=True, **TOLERANCE[dtype])


@pytest.mark.parametrize("form", COMPARISONS)
def test_more_elements_than_a_grid_has_threads(form):
    # Three blocks of 128 threads: a thread handles several elements.
    a, b = 10 * torch.rand(2, 1001, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    _forward_agrees(a, b, form)


@pytest.mark.parametrize("form", COMPARISONS)
def test_nan_stays_in_its_element(form):
    a, b = torch.rand(2, 7, dtype=torch.float64)
    a[2] = b[5] = torch.nan
    out = native.poisson_forward(a, b, form)
    grads = native.poisson_backward(torch.ones_like(a), a, b, form)
    for tensor in (out, *grads):
        assert tensor.isnan().nonzero().flatten().tolist() == [2, 5]
