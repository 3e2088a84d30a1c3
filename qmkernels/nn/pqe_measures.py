"""PQE's measures of sets: the lengths of intervals, or their weight under learned Gaussians."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .deep_linear_net import DeepLinearNet


class MeasureBase(nn.Module):
    """One measure for each of ``(num_components, dim_per_component)`` Poisson processes.

    Args:
        shape (torch.Size): ``(num_components, dim_per_component)``.
    """

    shape: torch.Size

    def __init__(self, shape: torch.Size) -> None:
        super().__init__()
        if len(shape) != 2:
            raise ValueError(
                f"{type(self).__name__}: shape must be (num_components, dim_per_component), got {tuple(shape)}."
            )
        self.shape = shape


class LebesgueMeasure(MeasureBase):
    """The length of an interval; no parameters."""


class GaussianBasedMeasure(MeasureBase):
    """A learned mixture of Gaussians around 0.

    Args:
        shape (torch.Size): ``(num_components, dim_per_component)``.
        init_sigma2 (float): The initial variance. Default: ``1``.

    Attributes:
        log_sigma2 (nn.Parameter): The logarithms of the variances, of ``shape``.
        scales_net (DeepLinearNet): The non-negative matrix that mixes the measures of all processes.
    """

    def __init__(self, shape: torch.Size, *, init_sigma2: float = 1) -> None:
        super().__init__(shape)
        self.log_sigma2 = nn.Parameter(torch.full(shape, float(init_sigma2)).log())
        self.scales_net = DeepLinearNet(shape.numel(), shape.numel(), non_negative=True)

    @property
    def sigma2(self) -> Tensor:
        """The variances, of ``shape``."""
        return self.log_sigma2.exp()

    @property
    def sigma(self) -> Tensor:
        """The standard deviations, of ``shape``."""
        return (self.log_sigma2 / 2).exp()

    def scale(self, x: Tensor, scales: Tensor | None = None) -> Tensor:
        """Applies `scale_multiple` to one tensor."""
        return self.scale_multiple(x, scales=scales)[0]

    def scale_multiple(self, *xs: Tensor, scales: Tensor | None = None) -> tuple[Tensor, ...]:
        """Mixes the unit measures of all processes; each tensor ``(..., *shape)`` keeps its shape.

        ``scales`` is ``scales_net.collapse()``, if the caller already has it.
        """
        matrix = (self.scales_net.collapse() if scales is None else scales).T
        return tuple((x.flatten(-2) @ matrix.to(x.dtype)).unflatten(-1, self.shape) for x in xs)
