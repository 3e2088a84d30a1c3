"""The base class of every quasimetric head: components, then transforms, then one reduction."""

from __future__ import annotations

import abc
from collections.abc import Callable, Collection

import torch
from torch import Tensor, nn

from ..ops import arguments, broadcasting
from ..ops.broadcasting import BothWays, DistanceForms, Distances
from ..ops.mrn import Parts
from .reductions import ReductionBase, make_reduction
from .row_blocks import in_row_blocks
from .transforms import TransformBase, make_transform


class QuasimetricBase(nn.Module, metaclass=abc.ABCMeta):
    r"""A distance from x to y that may differ from the distance back; to be subclassed.

    A subclass computes several component distances in `compute_components`; the base class does the rest::

        d(x, y) = reduction(transforms(compute_components(x, y)))          discount ** d  if a discount is given

    Args:
        input_size (int): Size of the last dimension of x and y.
        num_components (int): Size of the last dimension of what `compute_components` returns.
        warn_if_not_quasimetric (bool): For subclasses, which warn in their own words; ignored by the base class.
            Default: ``True``.
        guaranteed_quasimetric (bool): Whether d(x, x) = 0, d >= 0 and the triangle inequality hold for all parameters.
        transforms (Collection[str]): Names from ``qmkernels.nn.transforms.TRANSFORMS``, applied in this order.
        reduction (str): A name from ``qmkernels.nn.reductions.REDUCTIONS``.
        discount (float, optional): If given, the module returns ``discount ** d``. Default: ``None``.

    Shape:
        - Input: x and y, ``(..., input_size)``; leading dimensions broadcast
        - Output: ``(...)``
        - ``pairwise``: x ``(*b, N, input_size)``, y ``(*b, M, input_size)`` to ``(*b, N, M)``
        - ``bidirectional``, ``pairwise(..., bidirectional=True)``: a named tuple ``(x_to_y, y_to_x)``

    Attributes:
        input_size (int), num_components (int), discount (float or None), guaranteed_quasimetric (bool): As above.
        transforms (nn.Sequential): The transforms, modules of `TransformBase`.
        reduction (ReductionBase): The reduction.

    Raises:
        ValueError: For sizes below one, unknown names, a discount outside (0, 1], or inputs of another last size.

    Examples::

        >>> import torch
        >>> import qmkernels as qm
        >>> class Euclidean(qm.nn.QuasimetricBase):
        ...     def __init__(self, input_size):
        ...         super().__init__(
        ...             input_size, num_components=1, guaranteed_quasimetric=True, transforms=[], reduction="sum")
        ...     def compute_components(self, x, y):
        ...         return (x - y).norm(dim=-1, keepdim=True)
        >>> head = Euclidean(2)
        >>> print(head)
        Euclidean(
          guaranteed_quasimetric=True
          input_size=2, num_components=1, discount=None
          (transforms): Sequential()
          (reduction): Sum(input_num_components=1)
        )
        >>> head(torch.tensor([0.0, 0.0]), torch.tensor([3.0, 4.0]))
        tensor(5.)
        >>> head.pairwise(torch.zeros(2, 2), torch.tensor([[3.0, 4.0], [0.0, 1.0], [0.0, 0.0]]))
        tensor([[5., 1., 0.],
                [5., 1., 0.]])

    Source: the class of this name in torchqmet (https://github.com/quasimetric-learning/torch-quasimetric), which has
    no ``pairwise`` or ``bidirectional`` and asserts instead of raising.
    """

    input_size: int
    num_components: int
    discount: float | None
    guaranteed_quasimetric: bool
    transforms: nn.Sequential
    reduction: ReductionBase

    def __init__(
        self,
        input_size: int,
        num_components: int,
        *,
        warn_if_not_quasimetric: bool = True,
        guaranteed_quasimetric: bool,
        transforms: Collection[str],
        reduction: str,
        discount: float | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        for argument, value in (("input_size", input_size), ("num_components", num_components)):
            if value < 1:
                raise ValueError(f"{name}: {argument} must be at least 1, got {value}.")
        if isinstance(transforms, str):
            raise TypeError(f"{name}: transforms must be a collection of names, got a string; pass [{transforms!r}].")
        self.input_size = input_size
        self.num_components = num_components
        self.guaranteed_quasimetric = guaranteed_quasimetric
        self.discount = discount

        stages: list[TransformBase] = []
        for kind in transforms:
            stages.append(make_transform(kind, num_components))
            num_components = stages[-1].output_num_components
        self.transforms = nn.Sequential(*stages)
        self.reduction = make_reduction(reduction, num_components, discount)

    def __prepare_scriptable__(self) -> nn.Module:
        raise RuntimeError(
            f"{type(self).__name__}: TorchScript cannot compile the kernels; export the module with "
            "torch.export.export, and import qmkernels before torch.export.load."
        )

    @abc.abstractmethod
    def compute_components(self, x: Tensor, y: Tensor) -> Tensor:
        """Returns the components of the distance, ``(..., num_components)``, from x to y, ``(..., input_size)``."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Returns the distance from x to y, ``(...)``; leading dimensions broadcast."""
        self._check_sizes(x, y)
        return self._reduced(self.compute_components(x, y))

    def bidirectional(self, x: Tensor, y: Tensor) -> BothWays:
        """Returns the distances in both directions, a named tuple ``(x_to_y, y_to_x)`` of ``(...)``."""
        return BothWays(self(x, y), self(y, x))

    def pairwise(self, x: Tensor, y: Tensor, bidirectional: bool = False) -> Distances:
        """Returns distances from every row of x, ``(*b, N, D)``, to every row of y, ``(*b, M, D)``: ``(*b, N, M)``.

        With ``bidirectional``, both directions in that shape. It works on a few rows of x at a time, so that nothing of
        size N x M x D is stored, not even for backward.
        """
        self._check_rows(x, y)

        def pairs(rows: tuple[Tensor, Tensor], *_) -> Tensor:
            return self._in_row_blocks(lambda x, y: self(x.unsqueeze(-2), y.unsqueeze(-3)), *rows, self.input_size)

        forms = DistanceForms(lambda rows, *_: self(*rows), pairs)
        return broadcasting.pairwise(type(self).__name__, forms, x, y, (), (), "", bidirectional)

    def parts(self, x: Tensor, y: Tensor) -> Parts:
        """Returns a distance's parts, which add up to it: a named tuple ``(symmetric, asymmetric)`` of ``(...)``.

        Heads of the MRN family have them, with reduction "sum" or "mean", without transforms and discount. For all
        others it is a TypeError.
        """
        raise TypeError(
            f"{type(self).__name__}: this head has no symmetric and asymmetric part; MRN, MRNFixed and LatentMRN have, "
            "with reduction 'sum' or 'mean', without transforms and discount."
        )

    def _reduced(self, components: Tensor) -> Tensor:
        return self.reduction(self.transforms(components))

    def _in_row_blocks(
        self, pairs: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor, values_per_pair: int
    ) -> Tensor:
        inputs = (x, y, *self.parameters())
        records_gradient = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
        return in_row_blocks(pairs, x, y, values_per_pair, records_gradient)

    def _check_sizes(self, x: Tensor, y: Tensor) -> None:
        size = self.input_size
        if not (isinstance(x, Tensor) and isinstance(y, Tensor)) or x.is_nested or y.is_nested:
            arguments.check_floats(type(self).__name__, x=x, y=y)
        if x.ndim == 0 or y.ndim == 0 or x.shape[-1] != size or y.shape[-1] != size:
            raise ValueError(
                f"{type(self).__name__}: x and y must have last size input_size={size}, "
                f"got x {tuple(x.shape)} and y {tuple(y.shape)}."
            )

    def _check_rows(self, x: Tensor, y: Tensor) -> None:
        if not (isinstance(x, Tensor) and isinstance(y, Tensor)):
            arguments.check_floats(f"{type(self).__name__}.pairwise", x=x, y=y)
        if x.ndim < 2 or y.ndim < 2:
            raise ValueError(
                f"{type(self).__name__}.pairwise: x must be (..., N, {self.input_size}) and y (..., M, "
                f"{self.input_size}), got x {tuple(x.shape)} and y {tuple(y.shape)}; "
                f"give a single row as x.unsqueeze(0)."
            )
        self._check_sizes(x, y)

    def extra_repr(self) -> str:
        discount = "None" if self.discount is None else f"{self.discount:g}"
        return (
            f"guaranteed_quasimetric={self.guaranteed_quasimetric}\n"
            f"input_size={self.input_size}, num_components={self.num_components}, discount={discount}"
        )
