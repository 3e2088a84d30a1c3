"""The modules PQE, PQELH and PQEGG: which are fused, and accuracy where rates and probabilities are small."""

from __future__ import annotations

from functools import partial

import mpmath
import pytest
import torch

import qmkernels as qm
from qmkernels.nn.pqe_shapes import GaussianShape, ndtr


def points(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("discount", [None, 0.9])
@pytest.mark.parametrize("reduction", ["deep_linear_net_weighted_sum", "sum", "mean"])
def test_pqe_lh_with_its_reduction_is_one_kernel_call(reduction, discount, monkeypatch):
    head = qm.nn.PQELH(12, 3, reduction=reduction, discount=discount).double()
    x, y = points(5, 12), points(9, 12, seed=1)
    expected = head.reduction(head.compute_components(x[:, None], y))
    monkeypatch.setattr(type(head), "_compare", None)  # without it nothing can be composed
    torch.testing.assert_close(head.pairwise(x, y), expected)
    torch.testing.assert_close(head(x, y[:5]), expected[:, :5].diagonal())


def test_weights_of_a_discounted_sum_have_gradients():
    head = qm.nn.PQELH(12, 3, discount=0.9).double()
    head(points(5, 12), points(5, 12, seed=1)).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in head.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ndtr_has_its_digits_in_the_tails(dtype):
    x = torch.linspace(-12, 8, 401, dtype=dtype)
    with mpmath.workdps(40):
        exact = [mpmath.ncdf(value) for value in x.tolist()]
        errors = [abs(mpmath.mpf(ours) - truth) / truth for ours, truth in zip(ndtr(x).tolist(), exact, strict=True)]
    assert max(errors) < (1e-6 if dtype == torch.float32 else 1e-13)


def measure_under_first_alone(a, b, deviation, t):
    return (mpmath.npdf(t, a) - mpmath.npdf(t, b)) * mpmath.npdf(t, 0, deviation)


@pytest.mark.parametrize("gap", [1e-6, 1e-3, 0.1, 3.0])
def test_rates_of_near_points_have_all_digits_of_float32(gap):
    u = torch.linspace(-4, 4, 9).view(-1, 1, 1)
    v = u + gap
    sigma2 = torch.full((1, 1), 1.3)
    with mpmath.workdps(40):
        for rates, sign in zip(GaussianShape.rates(u, v, sigma2), (1, -1), strict=True):
            for a, b, rate in zip(u.flatten().tolist(), v.flatten().tolist(), rates.flatten().tolist(), strict=True):
                ends = (-mpmath.inf, (mpmath.mpf(a) + b) / 2)
                ends = ends if sign == 1 else (ends[1], mpmath.inf)
                exact = mpmath.quad(partial(measure_under_first_alone, a, b, mpmath.sqrt(sigma2.item())), ends)
                assert abs(rate - sign * exact) <= 2e-7 * abs(exact)


def test_rates_of_equal_points_are_zero_and_never_below():
    u = points(1000, 3, 4).float()
    sigma2 = torch.rand(3, 4) + 0.5
    for rate in GaussianShape.rates(u, u, sigma2):
        assert (rate == 0).all()
    near = torch.nextafter(u, torch.tensor(10.0))
    for rate in (*GaussianShape.rates(u, near, sigma2), *GaussianShape.rates(near, u, sigma2)):
        assert (rate >= 0).all()


def test_a_component_near_one_keeps_its_gradient():
    """The product of probabilities underflows in float32 here; its logarithm does not."""
    head = qm.nn.PQEGG(64, 64, reduction="sum")
    with torch.no_grad():
        for factor in head.measure.scales_net.mats:
            factor.zero_()
        head.measure.scales_net.bias.copy_(40.0 * torch.eye(64))
    x = torch.zeros(1, 64, requires_grad=True)
    distance = head(x, torch.full((1, 64), 6.0))
    assert distance.item() == pytest.approx(1.0)
    assert torch.isfinite(torch.autograd.grad(distance.sum(), x)[0]).all()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: qm.nn.PQE(12, 5), "PQE: input_size must be a multiple of dim_per_component"),
        (lambda: qm.nn.PQEGG(12, 0), "PQEGG: dim_per_component must be at least 1, got 0"),
        (lambda: qm.nn.PQE(12, measure="counting"), "measure must be one of 'lebesgue', 'gaussian', got 'counting'"),
        (lambda: qm.nn.PQE(12, shape="disc"), "shape must be one of 'halfline', 'gaussian', got 'disc'"),
    ],
)
def test_bad_constructor_arguments_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_gaussian_shapes_under_the_lebesgue_measure_are_refused():
    head = qm.nn.PQE(12, shape="gaussian")
    with pytest.raises(RuntimeError, match="use GaussianBasedMeasure"):
        head(torch.zeros(3, 12), torch.zeros(3, 12))


def test_the_measures_attributes_are_torchqmets():
    measure = qm.nn.PQEGG(12, 3).measure
    torch.testing.assert_close(measure.sigma2, torch.ones(4, 3))
    torch.testing.assert_close(measure.sigma, torch.ones(4, 3))
    x = torch.rand(5, 4, 3)
    (alone,), several = measure.scale_multiple(x), measure.scale_multiple(x, x)
    torch.testing.assert_close(several, (alone, measure.scale(x)))


def test_a_users_shape_is_asked_for_the_components():
    class Everything(qm.nn.pqe.ShapeBase):
        def expected_quasipartiton(self, u, v, *, measure):
            return (u - v).clamp(min=0).mean(-1)

    head = qm.nn.PQELH(12, 3, reduction="sum").double()
    head.shape = Everything()
    x, y = points(5, 12), points(5, 12, seed=1)
    expected = (x - y).clamp(min=0).unflatten(-1, (4, 3)).mean(-1).sum(-1)
    torch.testing.assert_close(head(x, y), expected)
    torch.testing.assert_close(head.pairwise(x, y).diagonal(), expected)
