"""The functions of ``torchqmet.pqe.cdf_ops``, without an extension to compile at first use."""

from __future__ import annotations

import torch
from torch import Tensor

from ..nn.pqe_shapes import ndtr
from ..ops.poisson import poisson_gt, poisson_le

__all__ = [
    "chndtr",
    "i0",
    "i0e",
    "i1",
    "i1e",
    "log_ndtr",
    "ndtr",
    "prob_two_poisson_gt",
    "prob_two_poisson_le",
    "prod_ndtr",
]

i0, i0e, i1, i1e = torch.special.i0, torch.special.i0e, torch.special.i1, torch.special.i1e
log_ndtr = torch.special.log_ndtr


def prob_two_poisson_le(mu1: Tensor, mu2: Tensor) -> Tensor:
    """Computes Pr[Poisson(mu1) <= Poisson(mu2)], elementwise."""
    return poisson_le(mu1, mu2)


def prob_two_poisson_gt(mu1: Tensor, mu2: Tensor) -> Tensor:
    """Computes Pr[Poisson(mu1) > Poisson(mu2)], elementwise."""
    return poisson_gt(mu1, mu2)


def prod_ndtr(x: Tensor, *, dim: int = -1) -> Tensor:
    """Computes the product over ``dim`` of the standard normal distribution function."""
    return log_ndtr(x).sum(dim=dim).exp()


def chndtr(x: Tensor, df: Tensor | float, nc: Tensor) -> Tensor:
    """Computes the non-central chi-square distribution function for ``df=2``, which is all that PQE needs.

    Raises NotImplementedError for other degrees of freedom.
    """
    if isinstance(df, Tensor) or df != 2:
        raise NotImplementedError(
            f"chndtr: df must be the number 2, got {df}; scipy.special.chndtr supports other degrees of freedom."
        )
    return poisson_gt(x / 2, nc / 2)
