"""IQE, the interval quasimetric embedding, as a module."""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from torch import Tensor

from ..ops.iqe import iqe, iqe_pairwise
from .quasimetric_base import QuasimetricBase
from .reductions import fused_form


class IQE(QuasimetricBase):
    r"""Interval quasimetric embedding (IQE), https://arxiv.org/abs/2211.15120.

    One-line usage::

        IQE(input_size: int, dim_per_component: int = 16, ...)

    The latent is split into components of ``dim_per_component`` values, K. Each component is the length of a union of
    K intervals, and the reduction combines the components::

        d_c(x, y) = | union_k [x_ck, max(x_ck, y_ck)] |,    d(x, y) = reduction_c d_c(x, y)

    The default is IQE-maxmean; ``reduction="sum"`` is IQE-sum. Without transforms, and with any reduction but
    ``deep_linear_net_weighted_sum``, components and reduction are one kernel and the components are never stored.

    Args:
        input_size (int): Size of the latent vectors.
        dim_per_component (int): Values in a component, K; must divide ``input_size``. The paper recommends at least 8.
            Default: ``16``.

    Args of all quasimetrics (keyword-only; each has its own defaults):
        transforms (Collection[str]): Transforms of the components before they are reduced:
            ``"concave_activation"``. Default: ``()``.
        reduction (str): How components become one distance. Default: ``"maxmean"``.
            ``"sum"``, ``"mean"``, ``"max"``;
            ``"maxmean"``: ``(1 - a) mean + a max``, a = sigmoid of a parameter that starts at -1 (torchqmet's);
            ``"maxmean_ogbench"``: ``a mean + (1 - a) max``, the parameter starts at 0 (OGBench's and TMD's);
            ``"deep_linear_net_weighted_sum"``: a sum with learned weights, made for PQE.
        discount (float, optional): Where given, the module returns ``discount ** d``. Default: ``None``.
        warn_if_not_quasimetric (bool): Accepted as all quasimetrics do; an IQE always is one. Default: ``True``.

    Shape:
        - Input: x (from) and y (to), ``(..., input_size)``; leading dimensions broadcast. float64, float32, bfloat16
          or float16
        - Output: ``(...)``; float32 for bfloat16 and float16, otherwise the input's dtype
        - ``pairwise``: x ``(*b, N, input_size)``, y ``(*b, M, input_size)`` to ``(*b, N, M)``

    Attributes:
        input_size (int), discount (float or None), guaranteed_quasimetric (bool): As above; always ``True``.
        num_components (int): ``input_size // dim_per_component``.
        latent_2d_shape (torch.Size): ``(num_components, dim_per_component)``.
        transforms (nn.Sequential): The transforms.
        reduction (ReductionBase): The reduction; its parameter is ``reduction.raw_alpha`` for the two maxmeans.

    Gradient: of a component by y_k one where y_k is a right end of the union, by x_k minus one where it is a left end,
    otherwise zero; where several coordinates tie at an end, one of them has it. An empty interval has none.

    Raises:
        ValueError: For sizes that do not fit, unknown names, or a discount outside (0, 1].

    NaN in a component gives NaN; infinite coordinates count as the largest finite number.

    Examples::

        >>> import torch
        >>> import qmkernels as qm
        >>> iqe = qm.nn.IQE(128, dim_per_component=16)
        >>> print(iqe)
        IQE(
          guaranteed_quasimetric=True
          input_size=128, num_components=8, discount=None
          (transforms): Sequential()
          (reduction): MaxMean(input_num_components=8)
        )
        >>> x = torch.zeros(3, 128)
        >>> y = torch.tensor([[0.0], [1.0], [2.5]]).expand(3, 128)
        >>> print(iqe(x, y).detach())
        tensor([0.0000, 1.0000, 2.5000])
        >>> print(iqe(y, x).detach())
        tensor([0., 0., 0.])
        >>> print(iqe.pairwise(y, y).detach())
        tensor([[0.0000, 1.0000, 2.5000],
                [0.0000, 0.0000, 1.5000],
                [0.0000, 0.0000, 0.0000]])

    Source: Wang & Isola 2022; arguments, attributes, parameters and repr are those of torchqmet's class of this name.
    """

    latent_2d_shape: torch.Size

    def __init__(
        self,
        input_size: int,
        dim_per_component: int = 16,
        *,
        transforms: Collection[str] = (),
        reduction: str = "maxmean",
        discount: float | None = None,
        warn_if_not_quasimetric: bool = True,
    ) -> None:
        if dim_per_component < 1:
            raise ValueError(f"IQE: dim_per_component must be at least 1, got {dim_per_component}.")
        if input_size % dim_per_component != 0:
            raise ValueError(
                f"IQE: input_size must be a multiple of dim_per_component, "
                f"got input_size={input_size} and dim_per_component={dim_per_component}."
            )
        num_components = input_size // dim_per_component
        super().__init__(
            input_size,
            num_components,
            warn_if_not_quasimetric=warn_if_not_quasimetric,
            guaranteed_quasimetric=True,
            transforms=transforms,
            reduction=reduction,
            discount=discount,
        )
        self.latent_2d_shape = torch.Size([num_components, dim_per_component])

    def compute_components(self, x: Tensor, y: Tensor) -> Tensor:
        """The lengths of the unions, ``(..., num_components)``."""
        return iqe(x, y, self.latent_2d_shape[1], reduction="none")

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The distance from x to y, ``(...)``; leading dimensions broadcast."""
        form = self._fused_form()
        if form is None:
            return super().forward(x, y)
        self._check_sizes(x, y)
        return self._reduced_by_kernel(iqe, x, y, *form)

    def pairwise(self, x: Tensor, y: Tensor) -> Tensor:
        """The distance from every row of x to every row of y: ``(*b, N, D)`` and ``(*b, M, D)`` to ``(*b, N, M)``.

        Each x is sorted once, and nothing of size N x M x D is stored.
        """
        form = self._fused_form() if type(self).forward is IQE.forward else None
        if form is None:
            return super().pairwise(x, y)
        self._check_rows(x, y)
        return self._reduced_by_kernel(iqe_pairwise, x, y, *form)

    def _fused_form(self) -> tuple[str, Tensor | None] | None:
        """The kernel's reduction and weight; None where components, transforms or reduction are not the kernel's."""
        if type(self).compute_components is not IQE.compute_components or len(self.transforms) > 0:
            return None
        return fused_form(self.reduction)

    def _reduced_by_kernel(
        self, op: Callable[..., Tensor], x: Tensor, y: Tensor, reduction: str, max_weight: Tensor | None
    ) -> Tensor:
        distance = op(x, y, self.latent_2d_shape[1], reduction=reduction, max_weight=max_weight)
        discount = self.reduction.discount
        return distance if discount is None else discount**distance
