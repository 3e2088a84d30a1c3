"""A matrix stored as a product of several, for which gradient descent favours few effective dimensions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def _power_of_two_from(size: int) -> int:
    return 1 << (size - 1).bit_length()


class DeepLinearNet(nn.Module):
    r"""An ``output_dim x input_dim`` matrix as a product of matrices, plus a bias of the same shape.

    ::

        A = (M_0 M_1 ... M_n + bias),    squared elementwise if non_negative;    forward(x) = x A^T

    Args:
        input_dim (int): Columns of the matrix.
        output_dim (int): Rows of the matrix.
        hidden_dims (Sequence[int], optional): Inner sizes of the product, from the input side. Default: three times
            the smallest power of two that is at least 64, ``input_dim`` and ``output_dim``.
        non_negative (bool): Whether to square the entries. Default: ``False``.
        bias (bool): Whether to add a learned matrix, initially zero. Default: ``True``.

    Shape:
        - Input: one or several tensors ``(..., input_dim)``
        - Output: as many tensors ``(..., output_dim)``, in a tuple if there are several

    Attributes:
        mats (nn.ParameterList): The factors, from the output side.
        bias (Tensor or None): ``(output_dim, input_dim)``.

    Source: Wang & Isola 2022, arXiv 2206.15478, section C.4.3; initial values as in torchqmet.
    """

    bias: Tensor | None

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        *,
        hidden_dims: Sequence[int] | None = None,
        non_negative: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if hidden_dims is None:
            hidden_dims = [max(64, _power_of_two_from(input_dim), _power_of_two_from(output_dim))] * 3
        elif not bias and len(hidden_dims) > 0 and min(hidden_dims) < min(input_dim, output_dim):
            raise ValueError(
                f"DeepLinearNet: without a bias hidden_dims must be at least min(input_dim, output_dim)="
                f"{min(input_dim, output_dim)} so that every matrix can be reached, got {list(hidden_dims)}."
            )
        self.input_dim = input_dim
        self.output_dim = output_dim
        self.hidden_dims = list(hidden_dims)
        self.non_negative = non_negative

        sizes = [input_dim, *hidden_dims, output_dim]
        factors = []
        for columns, rows in zip(sizes[:-1], sizes[1:], strict=True):
            # nn.Linear draws its own random numbers first, so that a seed gives the same parameters as in torchqmet.
            factor = nn.Linear(columns, rows, bias=False).weight
            nn.init.kaiming_normal_(factor, a=1)
            factors.insert(0, factor)
        self.mats = nn.ParameterList(factors)
        self.register_parameter("bias", nn.Parameter(torch.zeros(output_dim, input_dim)) if bias else None)

    def collapse(self) -> Tensor:
        """Returns the matrix, ``(output_dim, input_dim)``."""
        factors = list(self.mats)
        matrix = factors[0] if len(factors) == 1 else torch.linalg.multi_dot(factors)
        if self.bias is not None:
            matrix = matrix + self.bias
        return matrix.square() if self.non_negative else matrix

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        matrix = self.collapse().T
        outputs = tuple(x @ matrix.to(x.dtype) for x in inputs)
        return outputs[0] if len(outputs) == 1 else outputs

    def extra_repr(self) -> str:
        return f"bias={self.bias is not None}, non_negative={self.non_negative}"

    def get_num_effective_nparameters(self) -> int:
        """Returns the number of entries of the product, regardless of its factors."""
        return self.input_dim * self.output_dim


def get_num_effective_parameters(module: nn.Module) -> int:
    """Returns the number of parameters of ``module``, with each `DeepLinearNet` counted as one matrix."""
    if isinstance(module, DeepLinearNet):
        return module.get_num_effective_nparameters()
    count = sum(parameter.numel() for parameter in module.parameters(recurse=False))
    return count + sum(get_num_effective_parameters(child) for child in module.children())
