"""Which of two independent Poisson counts is larger: the special function that PQE-GG is made of, for users."""

from __future__ import annotations

import torch
from torch import Tensor

from ..backends import dispatch
from ..definitions import poisson as definition
from . import arguments
from .autograd import Op
from .registration import Kernel

_poisson = Op(
    "Poisson",
    Kernel(
        "poisson",
        "poisson_forward(Tensor a, Tensor b, str comparison, str backend) -> Tensor",
        definition.poisson_forward_outputs,
    ),
    Kernel(
        "poisson",
        "poisson_backward(Tensor grad_out, Tensor a, Tensor b, str comparison, str backend) -> (Tensor, Tensor)",
        definition.poisson_backward_outputs,
    ),
    gradient=definition.gradient,
)


def _run(op: str, a: Tensor, b: Tensor, comparison: str, backend: str | None) -> Tensor:
    arguments.check_floats(op, a=a, b=b)
    a, b = arguments.in_compute_dtype(a), arguments.in_compute_dtype(b)
    try:
        a, b = torch.broadcast_tensors(a, b)
    except RuntimeError:
        raise ValueError(f"{op}: a and b must broadcast, got {tuple(a.shape)} and {tuple(b.shape)}.") from None
    return _poisson((a, b), (comparison,), dispatch.requested(backend))


def poisson_le(a: Tensor, b: Tensor, *, backend: str | None = None) -> Tensor:
    r"""Pr[Poisson(a) <= Poisson(b)] of two independent counts, elementwise.

    Marcum's function :math:`Q_1(\sqrt{2b}, \sqrt{2a})`, a non-central chi-square distribution function. Relative error
    at most 1e-12 in float64 and 2e-7 in float32 for rates from 1e-6 to 1e4, small probabilities included; of the
    gradients too.

    Args:
        a: rates, at least 0; float32, float64, bfloat16 or float16. A negative or NaN rate gives NaN, an infinite one
            the limit: probability 0 (a) or 1 (b) and gradient 0; two infinite ones give NaN.
        b: rates, of a's dtype and device; broadcasts against a.
        backend: "cuda", "triton", "cpu", "reference" or "auto"; None: what `use_backend` says.

    Returns:
        Probabilities of the broadcast shape; float32 for half inputs, else a's dtype.

    The gradient is -Pr[Poisson(a) = Poisson(b)] by a and Pr[Poisson(a) = Poisson(b) + 1] by b.

    Raises:
        ValueError: shapes that do not broadcast. TypeError: not float tensors of one dtype. RuntimeError: different
        devices, or a backend that cannot run here.

    Source: Wang & Isola 2022, arXiv 2206.15478, section C.2. Method: csrc/math/poisson.h.

    Example:
        >>> qm.poisson_le(torch.tensor([0.0, 1.0, 5.0]), torch.tensor([3.0, 1.0, 1.0]))
        tensor([1.0000, 0.6543, 0.0656])
    """
    return _run("poisson_le", a, b, "le", backend)


def poisson_gt(a: Tensor, b: Tensor, *, backend: str | None = None) -> Tensor:
    """Pr[Poisson(a) > Poisson(b)], the complement of `poisson_le`, as accurate where it is small.

    Arguments, result and errors are those of `poisson_le`.
    """
    return _run("poisson_gt", a, b, "gt", backend)


def log_poisson_le(a: Tensor, b: Tensor, *, backend: str | None = None) -> Tensor:
    """The logarithm of `poisson_le`; neither it nor its gradient underflows or loses digits near probability 1.

    Where a is infinite it is -infinity, its gradient -1 by a and infinity by b. All else is as for `poisson_le`.
    """
    return _run("log_poisson_le", a, b, "log_le", backend)
