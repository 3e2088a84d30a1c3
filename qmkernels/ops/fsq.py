"""Finite scalar quantisation for users: checks, autograd, and codes from indices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..arguments.checks import wrong_dtype
from ..arguments.fsq import check_size, checked_levels
from ..backends import dispatch
from ..definitions import fsq as definition
from .autograd import Op
from .registration import Kernel
from .torch_internals import in_function_transform

_FLOAT_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class Fsq(NamedTuple):
    """Codes ``(..., G * n)`` and the groups' indices ``(..., G)``."""

    codes: Tensor
    indices: Tensor


def _plain(z: Tensor, levels: Sequence[int]) -> tuple[Tensor, Tensor]:
    codes, indices = definition.fsq(z, levels)
    smooth = definition.straight_through(z, levels)
    return codes.detach() + (smooth - smooth.detach()), indices


# Each code depends only on its own value.
_fsq = Op(
    "Fsq",
    Kernel(
        "fsq", "fsq_forward(Tensor z, int[] levels, str backend) -> (Tensor, Tensor)", definition.fsq_forward_outputs
    ),
    Kernel(
        "fsq",
        "fsq_backward(Tensor grad_codes, Tensor z, int[] levels, str backend) -> Tensor",
        definition.fsq_backward_outputs,
    ),
    gradient=lambda grad_codes, z, levels: (definition.gradient(grad_codes, z, levels),),
    plain=_plain,
    backward=lambda run, grad_codes, saved, settings, needs: (run(grad_codes, *saved, *settings),),
    num_results=2,
)

# --- The public functions.


def fsq(z: Tensor, levels: Sequence[int], *, backend: str | None = None) -> Fsq:
    r"""Finite scalar quantisation: rounds every value to one of a few levels, with a straight-through gradient.

    The last dimension is G groups of n = ``len(levels)`` values. A value z with L levels becomes

    .. math:: \mathrm{code} = \frac{\mathrm{round}(\tanh(z + s) h - o)}{\lfloor L / 2 \rfloor} \in [-1, 1],\quad
              h = 1.001 \tfrac{L - 1}{2},\quad o = \tfrac12 [L \text{ even}],\quad s = \mathrm{artanh}(o / h)

    where halves round to even. The rounded numbers, shifted to start at 0, are the digits of the group's index, the
    first digit least significant: index = sum_j (rounded_j + L_j // 2) prod_{i < j} L_i. `fsq_codes` inverts it.

    Args:
        z: ``(..., G * n)``; float32, float64, bfloat16 or float16.
        levels: n ints from 2 to 1000 (with more, h would round to a level that does not exist); their product must be
            below 2^63.
        backend: "cuda", "triton", "cpu", "reference" or "auto"; None: what `use_backend` says.

    Returns:
        A named tuple: ``codes`` (..., G * n), without unit, float32 for half inputs, else z's dtype; and ``indices``
        (..., G), int64.

    The gradient treats the rounding as the identity: d code / d z = (1 - tanh(z + s)^2) h / (L // 2). Indices have
    none. Backward keeps only z.

    NaN gives the code NaN and its group the index -1. Infinities give the outermost levels.

    Raises:
        ValueError: levels that are empty, out of range or too large in product, or a last size that is not a multiple
            of n.
        TypeError: z that is not a float tensor, or levels that are not a list or tuple of ints.
        RuntimeError: a backend that cannot run here.

    Source: Mentzer et al. 2023, arXiv 2309.15505, with the constants of the PyTorch code that iQRL, arXiv 2406.02696,
    uses; that code leaves indices of groups with NaN undefined.

    Example:
        >>> codes, indices = qm.fsq(torch.tensor([0.1, -0.7, 9.0, -9.0]), levels=[5, 8])
        >>> codes
        tensor([ 0.0000, -0.5000,  1.0000, -1.0000])
        >>> indices
        tensor([12,  4])
        >>> qm.fsq_codes(indices, levels=[5, 8])
        tensor([ 0.0000, -0.5000,  1.0000, -1.0000])
    """
    levels = checked_levels("fsq", levels)
    if not isinstance(z, Tensor):
        raise TypeError(f"fsq: z must be a tensor, got {type(z).__name__}.")
    if z.dtype not in _FLOAT_DTYPES:
        raise wrong_dtype("fsq", "z", z.dtype, "float()")
    check_size(z.shape, levels)
    return Fsq(*_fsq((z,), (levels,), dispatch.requested(backend)))


def fsq_codes(indices: Tensor, levels: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
    """Returns the codes of indices: inverts `fsq`, bit for bit if ``dtype`` is that of its codes.

    Args:
        indices: ``(..., G)``, of any integer dtype.
        levels: the same as for `fsq`.
        dtype: of the codes; a floating point dtype.

    Returns:
        ``(..., G * n)``; NaN for an index of -1. No gradient.

    Raises:
        ValueError: levels as for `fsq`; on a CPU, outside torch.compile and torch.func, an index that is neither -1 nor
            from 0 to the product of levels - 1. Elsewhere, where checking would wait for the device or is impossible,
            its codes are NaN.
        TypeError: indices that are not integers of shape (..., G), levels that are not ints, or a dtype that is not
            floating point.

    Example:
        >>> qm.fsq_codes(torch.tensor([0, 39]), levels=[5, 8])
        tensor([-1.0000, -1.0000,  1.0000,  0.7500])
    """
    levels = checked_levels("fsq_codes", levels)
    if not isinstance(indices, Tensor) or indices.dtype.is_floating_point or indices.dtype.is_complex:
        kind = indices.dtype if isinstance(indices, Tensor) else type(indices).__name__
        raise TypeError(f"fsq_codes: indices must be a tensor of integers, got {kind}.")
    if indices.dtype == torch.bool or indices.dim() == 0:
        raise TypeError(
            f"fsq_codes: indices must be integers of shape (..., G), got {indices.dtype} {tuple(indices.shape)}."
        )
    if not dtype.is_floating_point:
        raise TypeError(f"fsq_codes: dtype must be a floating point dtype, got {dtype}.")
    indices = indices.to(torch.int64)
    can_look = indices.device.type == "cpu" and not torch.compiler.is_compiling() and not in_function_transform()
    if can_look and ((indices < -1) | (indices >= math.prod(levels))).any():
        raise ValueError(
            f"fsq_codes: indices must be -1 or from 0 to {math.prod(levels) - 1}, "
            f"got {indices.min().item()} to {indices.max().item()}."
        )
    computed = dtype if dtype in (torch.float32, torch.float64) else torch.float32
    return definition.codes(indices, levels, computed).to(dtype)
