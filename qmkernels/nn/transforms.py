"""Transforms of components, applied before they are reduced to one distance."""

from __future__ import annotations

import abc

import torch
from torch import Tensor, nn
from torch.nn import functional


class TransformBase(nn.Module, metaclass=abc.ABCMeta):
    """Maps components ``(..., input_num_components)`` to ``(..., output_num_components)``; to be subclassed."""

    input_num_components: int
    output_num_components: int

    def __init__(self, input_num_components: int, output_num_components: int) -> None:
        super().__init__()
        self.input_num_components = input_num_components
        self.output_num_components = output_num_components

    @abc.abstractmethod
    def forward(self, d: Tensor) -> Tensor:
        """Returns the transformed components."""

    def extra_repr(self) -> str:
        return f"input_num_components={self.input_num_components}, output_num_components={self.output_num_components}"


class ConcaveActivation(TransformBase):
    r"""A learned concave function of each component, which keeps a quasimetric a quasimetric.

    It is the minimum of several rising lines, the first of which passes through zero::

        f_c(d) = min_u (2 sigmoid(raw_ms[c, u]) d + b[c, u]),    b[c, 0] = 0,    b[c, u] = softplus(raw_bs_after_first)

    Args:
        input_num_components (int): Number of components; the output has as many.
        num_units_per_input (int): Lines per component. Default: ``5``.

    Shape:
        - Input: ``(..., input_num_components)``
        - Output: the same

    If lines tie for the minimum, the first of them gets the gradient.

    Examples::

        >>> import torch
        >>> from qmkernels.nn.transforms import ConcaveActivation
        >>> concave = ConcaveActivation(3)
        >>> print(concave)
        ConcaveActivation(
          input_num_components=3, output_num_components=3
          num_units_per_input=5
        )
        >>> concave(torch.zeros(2, 3))
        tensor([[0., 0., 0.],
                [0., 0., 0.]], grad_fn=<WhereBackward0>)

    Source: Pitis et al. 2020, arXiv 2002.05825; initial values as in torchqmet.
    """

    bs_first_constant: Tensor

    def __init__(self, input_num_components: int, num_units_per_input: int = 5) -> None:
        super().__init__(input_num_components, input_num_components)
        if num_units_per_input < 1:
            raise ValueError(f"ConcaveActivation: num_units_per_input must be at least 1, got {num_units_per_input}.")
        self.num_units_per_input = num_units_per_input
        self.register_buffer("bs_first_constant", torch.zeros(input_num_components, 1))
        self.raw_bs_after_first = nn.Parameter(1e-3 * torch.randn(input_num_components, num_units_per_input - 1) - 1)
        self.raw_ms = nn.Parameter(1e-3 * torch.randn(input_num_components, num_units_per_input))

    def forward(self, d: Tensor) -> Tensor:
        offsets = torch.cat([self.bs_first_constant, functional.softplus(self.raw_bs_after_first)], dim=-1)
        slopes = 2 * torch.sigmoid(self.raw_ms)
        # One line at a time, so that backward keeps a mask per line instead of all lines.
        first, *others = zip(slopes.unbind(-1), offsets.unbind(-1), strict=True)
        least = d * first[0] + first[1]
        for slope, offset in others:
            line = d * slope + offset
            least = torch.where(line < least, line, least)
        return least

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}\nnum_units_per_input={self.num_units_per_input}"


TRANSFORMS: dict[str, type[TransformBase]] = {"concave_activation": ConcaveActivation}


def make_transform(kind: str, input_num_components: int) -> TransformBase:
    """Makes the transform named ``kind`` for that many components; ValueError for a name not in `TRANSFORMS`."""
    if kind not in TRANSFORMS:
        raise ValueError(f"transform must be one of {', '.join(map(repr, TRANSFORMS))}, got {kind!r}.")
    return TRANSFORMS[kind](input_num_components)
