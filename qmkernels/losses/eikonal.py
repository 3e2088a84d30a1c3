"""The eikonal loss of QRL: the distance grows by at most one per unit of the state."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..ops.arguments import check_float
from ..ops.torch_internals import in_function_transform


class Eikonal(NamedTuple):
    """``loss`` is the scalar to minimise; the others are detached. All are 0-d.

    distance  mean distance.
    slope     mean norm of the gradient, or mean derivative along ``direction``.
    steep     share of the rows whose slope is above 1.
    """

    loss: Tensor
    distance: Tensor
    slope: Tensor
    steep: Tensor


def eikonal(
    distance_of: Callable[[Tensor, Tensor], Tensor], state: Tensor, goal: Tensor, *, direction: Tensor | None = None
) -> Eikonal:
    r"""Holds the slope of the distance in the state to at most 1, in place of QRL's constraint on transitions.

    .. math:: \overline{\mathrm{relu}(\lVert \nabla_s d(s, g) \rVert - 1)^2}
              \quad\text{or}\quad
              \overline{\mathrm{relu}(\nabla_s d(s, g) \cdot v - 1)^2}

    over the rows, without and with a ``direction`` v. It needs states and goals only, no transitions; the second form,
    with v = s' - s, holds the distance to a step of cost 1 to first order.

    Args:
        distance_of: the distance from states to goals, encoder included, for example
            ``lambda state, goal: head(encoder(state), encoder(goal))``; a row's distance depends on no other state.
            Parameters inside take part in autograd, through the gradient by the state.
        state: ``(..., *sizes)``, such as (B, S) or, images, (B, C, H, W); a float dtype.
        goal: what ``distance_of`` takes with it.
        direction: v, of state's shape and dtype, or None.

    Returns:
        `Eikonal`, in the dtype of the gradient, state's.

    The gradient of the norm is 0 where the norm is. IQE and MRN have second derivatives as plain PyTorch has: those of
    an IQE by x and y are 0, so that the loss trains what comes before the head. NaN in a row gives NaN. The call works
    under torch.func's transforms, and under torch.compile, which then compiles the head's formula in plain PyTorch.

    Raises:
        ValueError: distances that are not one per row of the state, a direction of another shape, no rows.
        TypeError: a ``distance_of`` that cannot be called, a state or direction that is not float or of another dtype.
        RuntimeError: distances that do not depend on the state (from autograd).

    Source: Giammarino and Qureshi 2025 (Eik-QRL, arXiv 2512.12046), beside ``100 * softplus(5 - d / 100)`` over random
    pairs; the norm is of the gradient by the input of the encoder.

    Example:
        >>> encoder, head = torch.nn.Linear(3, 16), qm.nn.IQE(16, 8)
        >>> state, goal = torch.randn(2, 5, 3)
        >>> result = qm.losses.eikonal(lambda s, g: head(encoder(s), encoder(g)), state, goal)
        >>> result.loss.backward()
    """
    if not callable(distance_of):
        raise TypeError(f"eikonal: distance_of must be a function of state and goal, got {type(distance_of).__name__}.")
    check_float("eikonal", "state", state)
    if direction is not None:
        check_float("eikonal", "direction", direction)
        if direction.shape != state.shape:
            raise ValueError(
                f"eikonal: direction must have state's shape, got {tuple(direction.shape)} and {tuple(state.shape)}."
            )
        if direction.dtype != state.dtype:
            raise TypeError(f"eikonal: direction must have state's dtype, got {direction.dtype} and {state.dtype}.")
    distance, gradient = _with_gradient(distance_of, state, goal)
    rows = distance.dim()
    if direction is None:
        slope = torch.linalg.vector_norm(gradient.flatten(rows), dim=-1)
    else:
        slope = (gradient * direction).flatten(rows).sum(dim=-1)
    loss = (slope - 1).relu().square().mean()
    with torch.no_grad():
        return Eikonal(loss, distance.mean(), slope.mean(), (slope > 1).to(slope.dtype).mean())


def _with_gradient(distance_of: Callable, state: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the distances and their gradients by the state, both differentiable."""
    if in_function_transform() or torch.compiler.is_compiling():
        distance, pulled_back = torch.func.vjp(lambda state: _checked(distance_of(state, goal), state), state)
        return distance, pulled_back(torch.ones_like(distance))[0]
    # In eager mode encoders may do what torch.func refuses, such as update the statistics of a batch norm.
    records = torch.is_grad_enabled()
    with torch.enable_grad():
        state = state if state.requires_grad else state.detach().requires_grad_()
        distance = _checked(distance_of(state, goal), state)
        (gradient,) = torch.autograd.grad(distance.sum(), state, create_graph=records)
    return distance, gradient


def _checked(distance: Tensor, state: Tensor) -> Tensor:
    rows = distance.dim() if isinstance(distance, Tensor) else -1
    if not 0 <= rows < state.dim() or distance.shape != state.shape[:rows] or distance.numel() == 0:
        got = tuple(distance.shape) if rows >= 0 else type(distance).__name__
        raise ValueError(
            f"eikonal: distance_of must return one distance per row of the state {tuple(state.shape)}, and at least "
            f"one, got {got}."
        )
    return distance
