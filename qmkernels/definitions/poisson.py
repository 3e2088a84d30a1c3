"""Pr[Poisson(a) <= Poisson(b)], in plain PyTorch: the definition of the op ``poisson``, which PQE-GG is made of.

X and Y are independent, of rates a, b >= 0. By total probability Pr[X <= Y] = sum_n Pr[Y = n] Pr[X <= n].
The derivatives are Pr[X = Y + 1] by b and -Pr[X = Y] by a.
"""

from __future__ import annotations

import torch
from torch import Tensor

COMPARISONS = ("le", "gt", "log_le")


def _counts(b: Tensor) -> Tensor:
    """Every count that Poisson(b) takes with a probability that matters."""
    most = float(b.detach().nan_to_num(0).clamp(max=1e6).max()) if b.numel() else 0.0
    return torch.arange(int(most + 12 * most**0.5 + 40), dtype=b.dtype, device=b.device)


def _log_probability(rate: Tensor, n: Tensor) -> Tensor:
    """log Pr[Poisson(rate) = n]."""
    return torch.special.xlogy(n, rate) - rate - torch.lgamma(n + 1)


def poisson(a: Tensor, b: Tensor, comparison: str) -> Tensor:
    """ "le": Pr[X <= Y], "gt": Pr[X > Y], "log_le": the logarithm of the first; (...)."""
    a, b = (tensor.unsqueeze(-1) for tensor in torch.broadcast_tensors(a, b))
    n = _counts(b)
    of_y, other = _log_probability(b, n), a.expand(*a.shape[:-1], n.numel())
    above = (n + 1).expand_as(other)
    if comparison == "gt":
        return (of_y.exp() * torch.special.gammainc(above, other)).sum(dim=-1)
    at_most = torch.special.gammaincc(above, other)
    if comparison == "le":
        return (of_y.exp() * at_most).sum(dim=-1)
    return torch.logsumexp(of_y + at_most.log(), dim=-1)


def gradient(grad_out: Tensor, a: Tensor, b: Tensor, comparison: str) -> tuple[Tensor, Tensor]:
    """The derivatives of (grad_out * poisson(a, b)).sum() by a and by b."""
    n = _counts(torch.maximum(a, b))
    wide_a, wide_b = a.unsqueeze(-1), b.unsqueeze(-1)
    of_y = _log_probability(wide_b, n)
    equal = torch.logsumexp(_log_probability(wide_a, n) + of_y, dim=-1)
    one_more = torch.logsumexp(_log_probability(wide_a, n + 1) + of_y, dim=-1)
    if comparison == "log_le":
        log_le = poisson(a, b, comparison)
        equal, one_more = equal - log_le, one_more - log_le
    sign = -1.0 if comparison == "gt" else 1.0
    return -sign * grad_out * equal.exp(), sign * grad_out * one_more.exp()


def poisson_forward_outputs(a: Tensor, b: Tensor, comparison: str) -> Tensor:
    return torch.empty_like(a)


def poisson_backward_outputs(grad_out: Tensor, a: Tensor, b: Tensor, comparison: str) -> tuple[Tensor, Tensor]:
    return torch.empty_like(a), torch.empty_like(b)
