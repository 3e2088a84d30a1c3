"""IQE, the interval quasimetric embedding, as a module."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from ..ops import arguments
from ..ops.iqe import FORMS, iqe
from .embedding_head import EmbeddingHead, FusedDistance

_REDUCTIONS = ("sum", "mean", "max", "maxmean")


# An IQE for a fused loss: the fields of its `IqeSettings`, and the parameter behind the maximum's weight.
FusedIqe = tuple[tuple[int, str, str], Tensor | None]


class IQE(EmbeddingHead):
    r"""Interval quasimetric embedding (IQE), https://arxiv.org/abs/2211.15120.

    One-line usage::

        IQE(input_size: int, dim_per_component: int = 16, ...)

    The latent is split into components of K = ``dim_per_component`` values. Each component is the length of a union of
    K intervals, and the reduction combines the components::

        d_c(x, y) = | union_k [x_ck, max(x_ck, y_ck)] |,    d(x, y) = reduction_c d_c(x, y)

    The default is IQE-maxmean; ``reduction="sum"`` is IQE-sum. Without transforms, and with any reduction but
    ``deep_linear_net_weighted_sum``, one kernel computes components and reduction and never stores the components.

    Args:
        input_size (int): Size of the latent vectors.
        dim_per_component (int): K, values per component; must divide ``input_size``. The paper recommends at least 8.
            Default: ``16``.

    Args of all quasimetrics (keyword-only; each has its own defaults):
        transforms (Collection[str]): Transforms applied to the components before the reduction:
            ``"concave_activation"``. Default: ``()``.
        reduction (str): How the components are combined. Default: ``"maxmean"``.
            ``"sum"``, ``"mean"``, ``"max"``;
            ``"maxmean"``: ``(1 - a) mean + a max``, a = sigmoid of a parameter that starts at -1 (torchqmet's);
            ``"maxmean_ogbench"``: ``a mean + (1 - a) max``, the parameter starts at 0 (OGBench's and TMD's);
            ``"maxmean_mad"``: ``0.1 mean + 0.9 max``, without a parameter (that of `Simple`);
            ``"deep_linear_net_weighted_sum"``: a sum with learned weights, designed for PQE.
        discount (float, optional): If given, the module returns ``discount ** d``. Default: ``None``.
        warn_if_not_quasimetric (bool): Accepted for uniformity; an IQE always is one. Default: ``True``.

    Shape:
        - Input: x (from) and y (to), ``(..., input_size)``; leading dimensions broadcast. float64, float32, bfloat16
          or float16
        - Output: ``(...)``; float32 for bfloat16 and float16, otherwise the input's dtype
        - ``pairwise``: x ``(*b, N, input_size)``, y ``(*b, M, input_size)`` to ``(*b, N, M)``
        - ``bidirectional``, ``pairwise(..., bidirectional=True)``: a named tuple ``(x_to_y, y_to_x)``

    Attributes:
        input_size (int), discount (float or None): As above.
        guaranteed_quasimetric (bool): Always ``True``.
        num_components (int): ``input_size // dim_per_component``.
        latent_2d_shape (torch.Size): ``(num_components, dim_per_component)``.
        transforms (nn.Sequential): The transforms.
        reduction (ReductionBase): The reduction; its parameter is ``reduction.raw_alpha`` for the two maxmeans.

    Gradient of a component: 1 by y_k where y_k is a right end of the union, -1 by x_k where x_k is a left end,
        otherwise
    0. If several coordinates tie at an end, one of them gets the gradient. An empty interval gets none.

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

    Source: Wang & Isola 2022; arguments, attributes, parameters and repr are those of the torchqmet class of this name.
    """

    latent_2d_shape: torch.Size
    _fused_op = "iqe"

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
        num_components = self._num_components(input_size, dim_per_component)
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

    def _compare(self, x: Tensor, y: Tensor) -> Tensor:
        return iqe(x, y, self.latent_2d_shape[1], reduction="none")

    def _fused(self, x: Tensor) -> FusedDistance | None:
        fused = self._fused_reduction(_REDUCTIONS)
        if fused is None:
            return None
        name, weight, link, finish = fused
        if weight is not None:
            weight = arguments.tensor_like("IQE", "max_weight", weight, x)
        return FORMS, (weight,), (self.latent_2d_shape[1], name, link), finish

    def fused_iqe(self, x: Tensor) -> FusedIqe | None:
        """Returns what a fused loss needs to compute this distance for rows of x's size, or None if no single kernel
        computes it, so that losses must call this module."""
        if x.shape[-1] != self.input_size:
            self._check_sizes(x, x)
        if self._own_components or self._own_forward or self.discount is not None:
            return None
        fused = self._fused_reduction(_REDUCTIONS)
        if fused is None:
            return None
        name, weight, link, _ = fused
        if weight is not None and weight.dim():
            return None
        return (self.latent_2d_shape[1], name, link), weight
