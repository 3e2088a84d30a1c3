"""Shared by the tests of a backend's IQE functions: compares their gradients with the definition's."""

from __future__ import annotations

from types import ModuleType

import torch
from backend_comparison import assert_alike

from qmkernels.backends.reference import iqe as reference
from qmkernels.definitions import iqe as definition


def _differentiated(function, *inputs: torch.Tensor, grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
    inputs = tuple(value.detach().requires_grad_() for value in inputs)
    return torch.autograd.grad(function(*inputs), inputs, grad)


def _two_weights(like: torch.Tensor, reduction: str) -> torch.Tensor | None:
    """Returns weights of two equal runs of rows, or of two matrices; None if the reduction has none."""
    return like.new_tensor([0.3, -0.9]) if reduction == "maxmean" else None


def check_rows(kernels: ModuleType, x: torch.Tensor, y: torch.Tensor, dim_per_component: int, reduction: str) -> None:
    """Checks an even number of matching rows."""
    max_weight, settings = _two_weights(x, reduction), (dim_per_component, reduction, "sigmoid")
    out, *kept = reference.iqe_forward(x, y, max_weight, *settings, True)
    grad_out, learned = torch.randn_like(out), reduction == "maxmean"
    actual = kernels.iqe_backward(grad_out, *kept, max_weight, *settings, learned)

    def distance(x, y, max_weight=None):
        weights = definition.weights_of_rows(max_weight, "sigmoid", x.shape[:-1])
        return definition.iqe(x, y, dim_per_component, reduction=reduction, max_weight=weights)

    inputs = (x, y, max_weight) if learned else (x, y)
    assert_alike(actual[: len(inputs)], _differentiated(distance, *inputs, grad=grad_out))
    assert learned or actual[2] is None


def check_infinite_upstream(kernels: ModuleType, x: torch.Tensor, y: torch.Tensor, dim_per_component: int) -> None:
    """Checks that an infinite gradient of a maximum reaches what a gradient of 1 reaches, and other components get 0;
    takes x and y (B, N, D) as rows and as matrices."""
    settings = dim_per_component, "max", "identity"
    out, *kept = reference.iqe_forward(x, y, None, *settings, True)
    pairs, largest = reference.iqe_pairwise_forward(x, y, None, *settings, True)
    calls = (
        (out, lambda grad: kernels.iqe_backward(grad, *kept, None, *settings, False)),
        (pairs, lambda grad: kernels.iqe_pairwise_backward(grad, x, y, largest, None, *settings, False)),
    )
    for like, backward in calls:
        of_one, of_infinity = backward(torch.ones_like(like)), backward(torch.full_like(like, torch.inf))
        for finite, infinite in zip(of_one[:2], of_infinity[:2], strict=True):
            assert (finite != 0).any() and (finite == 0).any()
            assert torch.equal(infinite, torch.where(finite == 0, 0.0, finite * torch.inf))


def check_pairs(kernels: ModuleType, x: torch.Tensor, y: torch.Tensor, dim_per_component: int, reduction: str) -> None:
    """Checks two matrices of pairs."""
    max_weight, settings = _two_weights(x, reduction), (dim_per_component, reduction, "sigmoid")
    out, largest = reference.iqe_pairwise_forward(x, y, max_weight, *settings, True)
    grad_out, learned = torch.randn_like(out), reduction == "maxmean"
    grad_x, grad_y, grad_max_weight = kernels.iqe_pairwise_backward(
        grad_out, x, y, largest, max_weight, *settings, learned
    )

    def distance(x, y, max_weight=None):
        weights = definition.weights_of_rows(max_weight, "sigmoid", (2, 1, 1))
        x, y = x.unsqueeze(-2), y.unsqueeze(-3)
        return definition.iqe(x, y, dim_per_component, reduction=reduction, max_weight=weights)

    inputs = (x, y, max_weight) if learned else (x, y)
    of_x, of_y, *of_weight = _differentiated(distance, *inputs, grad=grad_out)
    assert_alike((grad_x, grad_y), (of_x, of_y))
    if learned:  # a sum over all pairs, of both signs, has the error of its largest terms
        torch.testing.assert_close(grad_max_weight, of_weight[0], rtol=1e-5, atol=1e-4)
    else:
        assert grad_max_weight is None
