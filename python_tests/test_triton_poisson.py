"""The Triton functions of Poisson comparisons, on a GPU where there is one, else under the interpreter.

Against mpmath where the last digits count, and against backends/reference.
"""

from __future__ import annotations

import itertools
from functools import cache

import pytest
import torch
from backend_comparison import DTYPES, assert_alike
from triton_testing import DEVICE, import_kernels, interpreted

import qmkernels as qm
from qmkernels.backends.reference import poisson as reference
from qmkernels.definitions.poisson import COMPARISONS

kernels = import_kernels("poisson")
pytestmark = interpreted

RATES = (0.0, 1e-6, 3e-4, 0.02, 0.3, 1.0, 1.9999, 2.0001, 3.7, 11.9, 12.1, 17.0, 55.5, 300.0, 1111.0, 9999.0, 1e4)
# float64: the reference has 9 digits, like torch.special.gammainc; log_le of a probability near 1 is that small.
TOLERANCE = {torch.float32: {"rtol": 1e-6, "atol": 1e-12}, torch.float64: {"rtol": 2e-8, "atol": 1e-12}}
# Close to each other, and to where the method changes: at 2 sqrt(ab) = 24 and a = 2.
CLOSE = (
    (12.0, 12.0), (12.01, 12.0), (11.99, 12.0), (24.0, 6.0), (6.0, 24.1), (2.0, 1.0), (100.0, 100.1), (99.0, 101.0),
    (72.0, 2.0), (2.0, 73.0), (144.0, 1.0), (1e4, 9e3), (9e3, 1e4), (40.0, 3.7), (1e4, 1e4), (30.0, 25.0),
)  # fmt: skip


def _rates() -> list[tuple[float, float]]:
    return [*itertools.product(RATES, RATES), *CLOSE]


@cache
def _truth() -> dict[str, list[float]]:
    """Computes by mpmath, with 60 digits, both probabilities, the logarithm, and Pr[X = Y] and Pr[X = Y + 1]."""
    mpmath = pytest.importorskip("mpmath")
    result = {name: [] for name in (*COMPARISONS, "equal", "one_more")}
    with mpmath.workdps(60):
        for a, b in _rates():
            a, b = mpmath.mpf(a), mpmath.mpf(b)
            low, high = min(a, b), max(a, b)
            scale = mpmath.exp(-a - b)
            # sum_{m >= 1} (low / high)^(m/2) I_m(z), I_m by recurrence from far above.
            z, ratio = 2 * mpmath.sqrt(a * b), mpmath.sqrt(low / high) if high else mpmath.mpf(0)
            bessel_0, total = mpmath.besseli(0, z), mpmath.mpf(0)
            if z:
                below, here, sums = mpmath.mpf(0), mpmath.mpf(1), mpmath.mpf(0)
                for m in range(60 + int(14 * mpmath.sqrt(z)), 0, -1):
                    sums = ratio * (here + sums)
                    below, here = here, 2 * m / z * here + below
                total = sums * bessel_0 / here
            tail = scale * total
            le = 1 - tail if a <= b else scale * bessel_0 + tail
            gt = tail if a <= b else 1 - scale * bessel_0 - tail
            one_more = scale * (mpmath.sqrt(a / b) * mpmath.besseli(1, z) if b else a)
            log_le = mpmath.log1p(-tail) if a <= b else mpmath.log(le)
            for name, value in zip(result, (le, gt, log_le, scale * bessel_0, one_more), strict=True):
                result[name].append(value)
    return result


def _as_tensor(values: list) -> torch.Tensor:
    return torch.tensor([float(value) for value in values], dtype=torch.float64, device=DEVICE)


def _largest_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Returns the largest relative error where the truth is a normal number; below, both count as 0."""
    counts = expected.abs() > 1e-300
    assert (actual[~counts].abs() < 1.1e-300).all()
    return float(((actual - expected) / expected)[counts].abs().max())


@pytest.mark.parametrize("form", COMPARISONS)
def test_probabilities_are_accurate_to_12_digits(form):
    a, b = torch.tensor(_rates(), dtype=torch.float64, device=DEVICE).T
    actual = kernels.poisson_forward(a.contiguous(), b.contiguous(), form)
    assert _largest_error(actual, _as_tensor(_truth()[form])) < 1e-12


@pytest.mark.parametrize("form", COMPARISONS)
def test_derivatives_are_accurate_to_12_digits(form):
    a, b = torch.tensor(_rates(), dtype=torch.float64, device=DEVICE).T
    truth = _truth()
    signs = (1, -1) if form == "gt" else (-1, 1)
    divisor = truth["le"] if form == "log_le" else [1] * a.numel()
    actual = kernels.poisson_backward(torch.ones_like(a), a.contiguous(), b.contiguous(), form)
    for grad, name, sign in zip(actual, ("equal", "one_more"), signs, strict=True):
        expected = [sign * value / by for value, by in zip(truth[name], divisor, strict=True)]
        assert _largest_error(grad, _as_tensor(expected)) < 1e-12


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", COMPARISONS)
def test_values_and_gradients_are_those_of_the_reference(form, dtype):
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(2, 3, 67, generator=generator, dtype=torch.float64) * 40).to(DEVICE, dtype)
    grad_out = torch.randn(3, 67, generator=generator, dtype=torch.float64).to(DEVICE, dtype)
    actual = (kernels.poisson_forward(a, b, form), *kernels.poisson_backward(grad_out, a, b, form))
    expected = (reference.poisson_forward(a, b, form), *reference.poisson_backward(grad_out, a, b, form))
    for first, second in zip(actual, expected, strict=True):
        assert first.shape == second.shape
        torch.testing.assert_close(first, second, **TOLERANCE[dtype])


@pytest.mark.parametrize("rates", ((0.3, 2.0), (40.0, 50.0), (3.0, 70.0)))
def test_blocks_of_one_method_and_of_both_give_the_same_bits(rates):
    a = torch.full((kernels.BLOCK,), rates[0], dtype=torch.float64, device=DEVICE)
    b = torch.full_like(a, rates[1])
    alone = kernels.poisson_forward(a, b, "le")
    a[::2], b[::2] = 12.0, 13.0
    a[1::4], b[1::4] = 0.1, 0.2
    assert torch.equal(kernels.poisson_forward(a, b, "le")[3::4], alone[3::4])


@pytest.mark.parametrize("form", COMPARISONS)
def test_rates_without_meaning_give_nan_in_their_own_place_alone(form):
    bad = torch.tensor([-1.0, torch.nan, 1.0, 1.0, torch.inf, 1.0], dtype=torch.float64, device=DEVICE)
    also = torch.tensor([1.0, 1.0, -0.5, torch.nan, torch.inf, 1.0], dtype=torch.float64, device=DEVICE)
    results = kernels.poisson_forward(bad, also, form), *kernels.poisson_backward(torch.ones_like(bad), bad, also, form)
    for result in results:
        assert result.isnan().tolist() == [True] * 5 + [False]


def test_an_infinite_rate_decides():
    a = torch.tensor([torch.inf, 3.0, 1e300, 3.0], dtype=torch.float64, device=DEVICE)
    b = torch.tensor([3.0, torch.inf, 3.0, 1e300], dtype=torch.float64, device=DEVICE)
    assert kernels.poisson_forward(a, b, "le").tolist() == [0, 1, 0, 1]
    assert kernels.poisson_forward(a, b, "gt").tolist() == [1, 0, 1, 0]
    log_le = kernels.poisson_forward(a, b, "log_le")
    assert log_le[:2].tolist() == [-torch.inf, 0]
    assert log_le[2] == pytest.approx(-1e300)


@pytest.mark.parametrize("form", COMPARISONS)
def test_empty_tensors_give_empty_tensors(form):
    empty = torch.zeros(0, 3, device=DEVICE)
    assert_alike((kernels.poisson_forward(empty, empty, form),), (empty,))
    assert_alike(kernels.poisson_backward(empty, empty, empty, form), (empty, empty))


@pytest.mark.parametrize("function", (qm.poisson_le, qm.poisson_gt, qm.log_poisson_le))
def test_public_function_runs_on_this_backend(function):
    a = torch.tensor([0.5, 3.0, 40.0], dtype=torch.float64, device=DEVICE, requires_grad=True)
    b = torch.tensor([[1.0], [30.0]], dtype=torch.float64, device=DEVICE, requires_grad=True)
    results = []
    for backend in ("triton", "reference"):
        out = function(a, b, backend=backend)
        results.append((out.detach(), *torch.autograd.grad(out.square().sum(), (a, b))))
    for first, second in zip(*results, strict=True):
        torch.testing.assert_close(first, second, **TOLERANCE[torch.float64])
