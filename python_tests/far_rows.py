"""A batch with one state and goal far from everything, and the exact results of softmaxes over its distances."""

from __future__ import annotations

import torch
from torch import Tensor

from qmkernels.arguments.pair_loss import SOFTMAXES, PairLossSettings
from qmkernels.definitions import pair_loss as definition

# From 1e9 on all logits of the far softmaxes are the same number, even where the product with the scale is rounded.
CASES = [
    (kind, far, scale) for kind in SOFTMAXES for far, scale in ((1e6, 0.125), (1e9, 0.125), (1e9, 0.3), (1e12, 0.3))
]
# For softmaxes: the error of a float32 gradient that subtracts a probability near 1 from 1.
TOLERANCE = {"rtol": 2e-6, "atol": 2e-9}


def points(far: float, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Returns x and y, (16, 3) float32 each."""
    x, y = torch.randn(2, 16, 3, generator=torch.Generator().manual_seed(0)).to(device)
    x[3, 0] -= far
    y[3, 1] += far
    return x.requires_grad_(), y.requires_grad_()


def head(x: Tensor, y: Tensor) -> Tensor:
    """Computes the largest difference of coordinates, which is the same number in any order of computation."""
    return (x - y).abs().amax(dim=-1)


def distances(x: Tensor, y: Tensor) -> Tensor:
    return head(x.unsqueeze(-2), y.unsqueeze(-3))


def exact(distance: Tensor, kind: str, scale: float) -> tuple[Tensor, Tensor]:
    """Computes the loss of float32 distances, and its gradient by them, in float64."""
    leaf = distance.detach().double().requires_grad_()
    loss, *_ = definition.pair_loss(leaf, None, None, PairLossSettings(kind, scale))
    return loss.detach(), *torch.autograd.grad(loss, leaf)


def check_loss(loss: Tensor, x: Tensor, y: Tensor, kind: str, scale: float) -> None:
    """Checks a loss of `points` and its gradients."""
    distance = distances(x, y)
    expected, by_distance = exact(distance, kind, scale)
    assert expected < 4  # so that digits lost to the far row show
    torch.testing.assert_close(loss.detach().double(), expected, **TOLERANCE)
    actual = torch.autograd.grad(loss, (x, y))
    torch.testing.assert_close(actual, torch.autograd.grad(distance, (x, y), by_distance.float()), **TOLERANCE)


def check_kernels(module, kind: str, far: float, scale: float, device: str = "cpu") -> None:
    """Checks a backend's two functions on the distances of `points`."""
    distance = distances(*points(far, device)).detach().unsqueeze(0)
    expected, by_distance = exact(distance, kind, scale)
    settings = PairLossSettings(kind, scale)
    loss, _, *sums = module.pair_loss_forward(distance, None, None, None, *settings)
    torch.testing.assert_close(loss.double(), expected, **TOLERANCE)
    grad = module.pair_loss_backward(torch.ones_like(loss), distance, None, None, None, *sums, *settings)
    torch.testing.assert_close(grad.double(), by_distance, **TOLERANCE)
