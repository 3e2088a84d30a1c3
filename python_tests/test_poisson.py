"""Poisson comparisons: accuracy against sums over all counts with 50 digits, agreement of backends, edges, errors."""

import math
from typing import NamedTuple

import mpmath
import pytest
import torch

import qmkernels as qm
from qmkernels.backends import dispatch

FUNCTIONS = {"le": qm.poisson_le, "gt": qm.poisson_gt, "log_le": qm.log_poisson_le}
RATES = (1e-6, 1e-3, 0.1, 1.0, 1.999, 2.001, 14.9, 15.1, 130.0, 1100.0, 1e4)
# The promises of poisson_le's docstring.
RELATIVE_ERROR = {torch.float64: 1e-12, torch.float32: 2e-7}


def rates():
    """Returns pairs that float32 represents: a grid, and both sides of where the kernels switch methods."""
    pairs = [(a, b) for a in RATES for b in RATES]
    for a in (0.03, 3.0, 15.0, 225.0, 5000.0):
        for step in (0.999, 1.001):
            for product in (225 * step, 3600 * step):  # the series ends at ab = 225, in lanes at 3600
                pairs += [(a, product / a), (product / a, a)]
            for w in (1.5, 28.0):  # the asymptotic terms' recurrence reverses at (sqrt a - sqrt b)^2 = 28
                far = (math.sqrt(a) + math.sqrt(w * step)) ** 2
                pairs += [(a, far), (far, a)]
        pairs += [(a, a * (1 + 1e-6)), (a, a * (1 - 1e-6))]
    return torch.tensor(pairs).double().unbind(1)


class Exact(NamedTuple):
    le: mpmath.mpf
    gt: mpmath.mpf
    log_le: mpmath.mpf
    equal: mpmath.mpf
    one_more: mpmath.mpf

    @classmethod
    def of(cls, a, b):
        """Sums products over the counts n where they matter, around their maximum at n = sqrt(ab).

        It sums the smaller of Pr[X <= Y] and Pr[X > Y].
        """
        a, b = mpmath.mpf(a), mpmath.mpf(b)
        n = max(0, int(min(a, b) - 15 * mpmath.sqrt(min(a, b)) - 60))
        x_is_n, y_is_n = (mpmath.exp(n * mpmath.log(rate) - rate - mpmath.loggamma(n + 1)) for rate in (a, b))
        tail = equal = one_more = y_below_n = mpmath.mpf(0)
        x_at_most_n, term = x_is_n, tail
        while n < 2 or n * n < a * b or term > 1e-40 * tail:
            term = x_is_n * y_below_n if a <= b else y_is_n * x_at_most_n
            tail += term
            equal += x_is_n * y_is_n
            y_below_n += y_is_n
            n += 1
            x_is_n *= a / n
            one_more += x_is_n * y_is_n
            x_at_most_n += x_is_n
            y_is_n *= b / n
        le, gt = (1 - tail, tail) if a <= b else (tail, 1 - tail)
        return cls(le, gt, mpmath.log1p(-gt) if gt < 0.5 else mpmath.log(le), equal, one_more)

    def results(self, form):
        """Returns the value of a form and its derivatives by a and by b."""
        sign, scale = (-1 if form == "gt" else 1), (self.le if form == "log_le" else 1)
        return getattr(self, form), -sign * self.equal / scale, sign * self.one_more / scale


@pytest.fixture(scope="module")
def exact():
    with mpmath.workdps(50):
        return [Exact.of(a, b) for a, b in zip(*(rate.tolist() for rate in rates()), strict=True)]


def values_and_derivatives(form, a, b, **keywords):
    leaves = a.clone().requires_grad_(), b.clone().requires_grad_()
    out = FUNCTIONS[form](*leaves, **keywords)
    return out.detach(), *torch.autograd.grad(out.sum(), leaves)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("dtype", RELATIVE_ERROR)
@pytest.mark.parametrize("form", FUNCTIONS)
def test_values_and_derivatives_are_relatively_accurate_however_small(form, dtype, backend, exact):
    if reason := dispatch.why_not(backend, "poisson", "cpu"):
        pytest.skip(reason)
    results = values_and_derivatives(form, *(rate.to(dtype) for rate in rates()), backend=backend)
    smallest = torch.finfo(dtype).tiny
    with mpmath.workdps(50):
        for name, actual, number in zip(("value", "by a", "by b"), results, range(3), strict=True):
            for i, value in enumerate(actual.tolist()):
                true = exact[i].results(form)[number]
                error, allowed = abs(mpmath.mpf(value) - true), RELATIVE_ERROR[dtype] * abs(true)
                where = f"{name} at {[rate[i].item() for rate in rates()]}: {value}, not {mpmath.nstr(true, 17)}"
                assert error <= (allowed if abs(true) >= 2 * smallest else smallest), where


@pytest.mark.parametrize("form", FUNCTIONS)
def test_backends_agree_on_a_vector_of_mixed_rates(form):
    if reason := dispatch.why_not("cpu", "poisson", "cpu"):
        pytest.skip(reason)
    generator = torch.Generator().manual_seed(0)
    a, b = (10 ** (5 * torch.rand(2, 1003, dtype=torch.float64, generator=generator) - 3)).unbind(0)
    ours, reference = (values_and_derivatives(form, a, b, backend=name) for name in ("cpu", "reference"))
    torch.testing.assert_close(ours, reference, rtol=1e-12, atol=0)


@pytest.mark.parametrize("form", FUNCTIONS)
def test_a_result_does_not_depend_on_its_neighbours(form):
    a, b = rates()
    together = FUNCTIONS[form](a, b)
    alone = torch.cat([FUNCTIONS[form](a[i : i + 1], b[i : i + 1]) for i in range(len(a))])
    torch.testing.assert_close(together, alone, rtol=1e-13, atol=0)


def test_le_and_gt_add_up_to_one_and_broadcast():
    a, b = torch.linspace(0, 40, 9)[:, None], torch.linspace(0, 30, 7)
    total = qm.poisson_le(a, b) + qm.poisson_gt(a, b)
    torch.testing.assert_close(total, torch.ones(9, 7))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_rates_of_zero(backend):
    if reason := dispatch.why_not(backend, "poisson", "cpu"):
        pytest.skip(reason)
    a, b = torch.tensor([0.0, 0.0, 3.0]).double(), torch.tensor([0.0, 2.0, 0.0]).double()
    value, by_a, by_b = values_and_derivatives("le", a, b, backend=backend)
    torch.testing.assert_close(value, torch.tensor([1.0, 1.0, math.exp(-3)]).double())
    torch.testing.assert_close(by_a, -torch.tensor([1.0, math.exp(-2), math.exp(-3)]).double())
    torch.testing.assert_close(by_b, torch.tensor([0.0, 0.0, 3 * math.exp(-3)]).double())


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("form", FUNCTIONS)
def test_very_large_rates_and_rates_far_apart_have_their_limits(form, backend):
    if reason := dispatch.why_not(backend, "poisson", "cpu"):
        pytest.skip(reason)
    a = torch.tensor([5000.0, 1e8, 1e15, 1e8, 1e12, 1e-300, 3e5, 1e200], dtype=torch.float64)
    b = torch.tensor([1e-6, 1e8, 1e15, 1e12, 1e8, 1e300, 1e-300, 1e200], dtype=torch.float64)
    value, *grads = values_and_derivatives(form, a, b, backend=backend)
    assert not any(grad.isnan().any() or grad.isinf().any() for grad in grads)
    # (1 + Pr[X = Y]) / 2 at equal rates, where Pr[X = Y] is 1 / sqrt(4 pi rate).
    half = 0.5 + 0.25 / (math.pi * a[[1, 2, 7]]).sqrt()
    le = torch.tensor([0.0, *half[:2], 1.0, 0.0, 1.0, 0.0, half[2]]).double()
    if form == "log_le":
        far = -((a.sqrt() - b.sqrt()) ** 2)
        expected = torch.where(le == 0, far, le.log())
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=0)
        torch.testing.assert_close(value[0], torch.tensor(-5000.0).double() + 5000 * 1e-6, rtol=1e-6, atol=0)
    else:
        torch.testing.assert_close(value, 1 - le if form == "gt" else le, rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_negative_and_nan_rates_give_nan_in_their_place_alone_and_infinite_ones_the_limit(backend):
    if reason := dispatch.why_not(backend, "poisson", "cpu"):
        pytest.skip(reason)
    inf, nan = math.inf, math.nan
    a = torch.tensor([1.0, -1.0, 2.0, nan, 1.0, inf, 3.0, inf, -inf])
    b = torch.tensor([2.0, 1.0, -2.0, 1.0, nan, 3.0, inf, inf, 1.0])
    undefined = torch.tensor([False, True, True, True, True, False, False, True, True])
    limits = {"le": (0.0, 1.0), "gt": (1.0, 0.0), "log_le": (-inf, 0.0)}
    for form, (at_infinite_a, at_infinite_b) in limits.items():
        value, *grads = values_and_derivatives(form, a, b, backend=backend)
        assert all(torch.equal(part.isnan(), undefined) for part in (value, *grads))
        assert value[5] == at_infinite_a and value[6] == at_infinite_b
        assert grads[0][6] == grads[1][6] == 0
        assert [grad[5].item() for grad in grads] == ([-1.0, inf] if form == "log_le" else [0.0, 0.0])


@pytest.mark.parametrize("form", FUNCTIONS)
def test_numbers_do_not_depend_on_the_number_of_threads_where_there_is_work_for_several(form):
    threads, runs = torch.get_num_threads(), []
    a, b = (10 ** torch.linspace(-3, 3, 7919)), 5 * torch.rand(7919)
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            runs.append(values_and_derivatives(form, a, b))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(first, second) for run in runs[1:] for first, second in zip(runs[0], run, strict=True))


@pytest.mark.parametrize(
    "a, b, error, message",
    [
        (torch.ones(3), torch.ones(4), ValueError, r"a and b must broadcast, got \(3,\) and \(4,\)"),
        (torch.ones(3), torch.ones(3).double(), TypeError, "same dtype"),
        (torch.ones(3).long(), torch.ones(3).long(), TypeError, "float"),
        (torch.ones(3), 1.0, TypeError, "b must be a tensor, got float"),
        (torch.ones(3), torch.ones(3, device="meta"), RuntimeError, "same device"),
    ],
)
@pytest.mark.parametrize("form", FUNCTIONS)
def test_wrong_arguments_are_refused_with_what_was_wanted(form, a, b, error, message):
    with pytest.raises(error, match=message):
        FUNCTIONS[form](a, b)
