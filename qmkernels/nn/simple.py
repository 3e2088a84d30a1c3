"""MAD's simple quasimetric, as a module."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor

from ..ops import arguments
from ..ops.iqe import FORMS, iqe
from .embedding_head import EmbeddingHead, FusedDistance

_BACKWARDS = FORMS.backwards()


class Simple(EmbeddingHead):
    r"""The simple quasimetric of minimum action distances (MAD), https://arxiv.org/abs/2506.09276.

    One-line usage::

        Simple(input_size: int, ...)

    Every coordinate is a component, how far x lies above y in it, and the reduction combines them::

        d(x, y) = 0.9 max_j relu(x_j - y_j) + 0.1 mean_j relu(x_j - y_j)

    That is the IQE from y to x with components of one value, whose kernels it takes: they do not sort.

    Args:
        input_size (int): Size of the latent vectors.

    Args of all quasimetrics (keyword-only; each has its own defaults):
        transforms (Collection[str]): Transforms applied to the components before the reduction:
            ``"concave_activation"``. Default: ``()``.
        reduction (str): How the components are combined, as for `IQE`. Default: ``"maxmean_mad"``, the fixed weights
            above.
        discount (float, optional): If given, the module returns ``discount ** d``. Default: ``None``.
        warn_if_not_quasimetric (bool): Accepted for uniformity; it always is one. Default: ``True``.

    Shape:
        - Input: x (from) and y (to), ``(..., input_size)``; leading dimensions broadcast. float64, float32, bfloat16
          or float16
        - Output: ``(...)``; float32 for bfloat16 and float16, otherwise the input's dtype
        - ``pairwise``: x ``(*b, N, input_size)``, y ``(*b, M, input_size)`` to ``(*b, N, M)``
        - ``bidirectional``, ``pairwise(..., bidirectional=True)``: a named tuple ``(x_to_y, y_to_x)``

    Attributes:
        input_size (int), discount (float or None): As above.
        num_components (int): ``input_size``.
        guaranteed_quasimetric (bool): Always ``True``.
        transforms (nn.Sequential), reduction (ReductionBase): The transforms and the reduction.

    Gradient: at a tie for the maximum, one component gets it; a coordinate with x_j <= y_j has none.

    Raises:
        ValueError: For a size below one, unknown names, or a discount outside (0, 1].

    NaN in a coordinate gives NaN; infinite coordinates count as the largest finite number.

    Examples::

        >>> import torch
        >>> import qmkernels as qm
        >>> head = qm.nn.Simple(4)
        >>> head(torch.tensor([3.0, 1.0, 0.0, 0.0]), torch.zeros(4)), head(torch.zeros(4), torch.ones(4))
        (tensor(2.8000), tensor(0.))

    Source: Steccanella et al., arXiv 2506.09276.
    """

    def __init__(
        self,
        input_size: int,
        *,
        transforms: Collection[str] = (),
        reduction: str = "maxmean_mad",
        discount: float | None = None,
        warn_if_not_quasimetric: bool = True,
    ) -> None:
        super().__init__(
            input_size,
            num_components=input_size,
            warn_if_not_quasimetric=warn_if_not_quasimetric,
            guaranteed_quasimetric=True,
            transforms=transforms,
            reduction=reduction,
            discount=discount,
        )

    def _compare(self, x: Tensor, y: Tensor) -> Tensor:
        return iqe(y, x, 1, reduction="none")

    def _fused(self, x: Tensor) -> FusedDistance | None:
        fused = self._fused_reduction(("sum", "mean", "max", "maxmean"))
        if fused is None:
            return None
        name, weight, link, finish = fused
        if weight is not None:
            weight = arguments.tensor_like("Simple", "max_weight", weight, x)
        return _BACKWARDS, (weight,), (1, name, link), finish
