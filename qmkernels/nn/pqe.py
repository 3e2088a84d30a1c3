"""PQE, the Poisson quasimetric embedding, as modules."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

import torch
from torch import Tensor

from ..definitions.dtypes import compute_dtype
from ..ops.pqe import FORMS, equal_weights, pqe
from .embedding_head import EmbeddingHead, FusedDistance, Pairs
from .pqe_measures import GaussianBasedMeasure, LebesgueMeasure, MeasureBase
from .pqe_shapes import GaussianShape, HalfLineShape, ShapeBase

_MEASURES: dict[str, type[MeasureBase]] = {"lebesgue": LebesgueMeasure, "gaussian": GaussianBasedMeasure}
_SHAPES: dict[str, type[ShapeBase]] = {"halfline": HalfLineShape, "gaussian": GaussianShape}


class PQE(EmbeddingHead):
    r"""Poisson quasimetric embedding (PQE), https://arxiv.org/abs/2206.15478.

    One-line usage::

        PQE(input_size: int, dim_per_component: int = 4, measure: str = "lebesgue", shape: str = "halfline", ...)

    Every coordinate stands for a set. A Poisson process counts points in x's set but not y's, at rate a, and in y's set
    but not x's, at rate b. The latent is split into components of K = ``dim_per_component`` values; a component is the
    probability that some pair of counts violates the order::

        d_c(x, y) = 1 - prod_k Pr[ Poisson(a_ck / K) <= Poisson(b_ck / K) ]

    in [0, 1). The default reduction is a sum with learned weights. Two variants are in use:

    * PQE-LH (`PQELH`, the default): half-lines and their lengths; ``d_c = 1 - exp(mean_k min(y_ck - x_ck, 0))``.
      Without transforms, and with reductions ``"deep_linear_net_weighted_sum"``, ``"sum"`` or ``"mean"``, one kernel
      computes all of it, even with a discount.
    * PQE-GG (`PQEGG`): Gaussian bumps and a learned measure, with a kernel for the probabilities; pairs are computed in
      blocks, which the backward pass computes again.

    Args:
        input_size (int): Size of the latent vectors.
        dim_per_component (int): K, values per component; must divide ``input_size``. Default: ``4``.
        measure (str): ``"lebesgue"`` or ``"gaussian"``. Default: ``"lebesgue"``.
        shape (str): ``"halfline"`` or ``"gaussian"``, which needs the measure ``"gaussian"``. Default: ``"halfline"``.

    Args of all quasimetrics (keyword-only; each has its own defaults):
        transforms (Collection[str]): Transforms applied to the components before the reduction:
            ``"concave_activation"``. Default: ``()``.
        reduction (str): How the components are combined, a name from ``qmkernels.nn.reductions.REDUCTIONS``.
            Default: ``"deep_linear_net_weighted_sum"``.
        discount (float, optional): If given, the module returns ``discount ** d``, which the paper recommends; the
            weighted sum then learns one discount per component. Default: ``None``.
        warn_if_not_quasimetric (bool): Accepted for uniformity; a PQE always is one. Default: ``True``.

    Shape:
        - Input: x (from) and y (to), ``(..., input_size)``; leading dimensions broadcast
        - Output: ``(...)``
        - ``pairwise``: x ``(*b, N, input_size)``, y ``(*b, M, input_size)`` to ``(*b, N, M)``
        - ``bidirectional``, ``pairwise(..., bidirectional=True)``: a named tuple ``(x_to_y, y_to_x)``

    Attributes:
        input_size (int), discount (float or None): As above.
        guaranteed_quasimetric (bool): Always ``True``.
        num_components (int): ``input_size // dim_per_component``.
        latent_2d_shape (torch.Size): ``(num_components, dim_per_component)``.
        measure (MeasureBase): The measure; its parameters are ``log_sigma2`` and ``scales_net`` for ``"gaussian"``.
        shape (ShapeBase): The shape.
        transforms (nn.Sequential), reduction (ReductionBase): The transforms and the reduction.

    Gradient: finite everywhere; at x = y it is the one from x > y.

    Raises:
        ValueError: For sizes that do not fit, unknown names, or a discount outside (0, 1].
        RuntimeError: For a Gaussian shape under the Lebesgue measure, when called.

    Examples::

        >>> import torch
        >>> import qmkernels as qm
        >>> pqe = qm.nn.PQE(12, 4, reduction="sum")
        >>> print(pqe)
        PQE(
          guaranteed_quasimetric=True
          input_size=12, num_components=3, discount=None
          (transforms): Sequential()
          (reduction): Sum(input_num_components=3)
          (measure): LebesgueMeasure()
          (shape): HalfLineShape()
        )
        >>> x = torch.tensor([0.0, 1.0, 4.0])[:, None].expand(3, 12)
        >>> print(pqe.pairwise(x, x))
        tensor([[0.0000, 0.0000, 0.0000],
                [1.8964, 0.0000, 0.0000],
                [2.9451, 2.8506, 0.0000]])

    Source: Wang & Isola 2022; arguments, attributes, parameters and repr are those of the torchqmet class of this name.
    The probability is computed through a logarithm that neither underflows nor cancels.
    """

    latent_2d_shape: torch.Size
    measure: MeasureBase
    shape: ShapeBase

    def __init__(
        self,
        input_size: int,
        dim_per_component: int = 4,
        measure: str = "lebesgue",
        shape: str = "halfline",
        *,
        transforms: Collection[str] = (),
        reduction: str = "deep_linear_net_weighted_sum",
        discount: float | None = None,
        warn_if_not_quasimetric: bool = True,
    ) -> None:
        name = type(self).__name__
        num_components = self._num_components(input_size, dim_per_component)
        for argument, value, choices in (("measure", measure, _MEASURES), ("shape", shape, _SHAPES)):
            if value not in choices:
                raise ValueError(f"{name}: {argument} must be one of {', '.join(map(repr, choices))}, got {value!r}.")
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
        self.measure = _MEASURES[measure](self.latent_2d_shape)
        self.shape = _SHAPES[shape]()

    def _is_half_line(self) -> bool:
        return type(self.measure) is LebesgueMeasure and type(self.shape) is HalfLineShape

    def _compare(self, x: Tensor, y: Tensor, **computed: Tensor) -> Tensor:
        if self._is_half_line():
            return pqe(x, y, self.latent_2d_shape[1], reduction="none")
        u, v = x.unflatten(-1, self.latent_2d_shape), y.unflatten(-1, self.latent_2d_shape)
        return self.shape.expected_quasipartiton(u, v, measure=self.measure, **computed)

    def _pairs(self, x: Tensor, y: Tensor) -> Pairs:
        if type(self.measure) is not GaussianBasedMeasure:
            return super()._pairs(x, y)
        # All blocks share the mixing matrix. Each coordinate needs about four float64 values.
        compare = partial(self._compare, scales=self.measure.scales_net.collapse())
        return Pairs(x, y, compare, 8 * self.input_size)

    def _fused(self, x: Tensor) -> FusedDistance | None:
        if not self._is_half_line():
            return None
        fused = self._fused_reduction(("sum", "mean", "weighted_sum"))
        if fused is None:
            return None
        num_components, size = self.latent_2d_shape
        name, weights, _, finish = fused
        weights = equal_weights(x, num_components, name) if weights is None else weights
        return FORMS, (weights.to(compute_dtype(x)),), (size,), finish


class PQELH(PQE):
    r"""PQE-LH: `PQE` with half-lines and the Lebesgue measure.

    One-line usage::

        PQELH(input_size: int, dim_per_component: int = 4, ...)

    All else is as for `PQE`.

    Examples::

        >>> import torch
        >>> import qmkernels as qm
        >>> head = qm.nn.PQELH(12, 4, reduction="mean", discount=0.5)
        >>> print(head(torch.full((12,), 40.0), torch.zeros(12)))
        tensor(0.5000)

    Source: as for `PQE`.
    """

    def __init__(
        self,
        input_size: int,
        dim_per_component: int = 4,
        *,
        transforms: Collection[str] = (),
        reduction: str = "deep_linear_net_weighted_sum",
        discount: float | None = None,
        warn_if_not_quasimetric: bool = True,
    ) -> None:
        super().__init__(
            input_size,
            dim_per_component,
            measure="lebesgue",
            shape="halfline",
            transforms=transforms,
            reduction=reduction,
            discount=discount,
            warn_if_not_quasimetric=warn_if_not_quasimetric,
        )


class PQEGG(PQE):
    r"""PQE-GG: `PQE` with Gaussian shapes and the Gaussian-based measure.

    One-line usage::

        PQEGG(input_size: int, dim_per_component: int = 4, ...)

    The rates are computed without cancellation, the product of probabilities as a sum of logarithms; nothing is
    compiled at first use. All else is as for `PQE`.

    Examples::

        >>> import torch
        >>> import qmkernels as qm
        >>> head = qm.nn.PQEGG(12, 4, discount=0.9)
        >>> x = torch.randn(5, 12)
        >>> print(head(x, x).detach())
        tensor([1., 1., 1., 1., 1.])

    Source: as for `PQE`.
    """

    def __init__(
        self,
        input_size: int,
        dim_per_component: int = 4,
        *,
        transforms: Collection[str] = (),
        reduction: str = "deep_linear_net_weighted_sum",
        discount: float | None = None,
        warn_if_not_quasimetric: bool = True,
    ) -> None:
        super().__init__(
            input_size,
            dim_per_component,
            measure="gaussian",
            shape="gaussian",
            transforms=transforms,
            reduction=reduction,
            discount=discount,
            warn_if_not_quasimetric=warn_if_not_quasimetric,
        )
