"""MRN, the metric residual network, as modules: with torchqmet's projections, and directly on latents."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

from ..ops import mrn as op
from ..ops.mrn import MrnSettings, Parts
from .embedding_head import EmbeddingHead, FusedDistance, FusedRows


class MRNProjector(nn.Sequential):
    """The network of one part of an MRN: linear layers with ReLU between them.

    Args:
        input_size (int): Size of the latent vectors.
        output_size (int): Size of the projections. Default: ``16``.
        hidden_sizes (Sequence[int]): Sizes of the hidden layers. Default: ``(176,)``.
    """

    def __init__(self, input_size: int, *, output_size: int = 16, hidden_sizes: Sequence[int] = (176,)) -> None:
        layers: list[nn.Module] = []
        for size in hidden_sizes:
            layers += [nn.Linear(input_size, size), nn.ReLU()]
            input_size = size
        super().__init__(*layers, nn.Linear(input_size, output_size))


def _reduction_of_parts(head: EmbeddingHead) -> str | None:
    """Returns "sum" or "mean" if a head's distance is that of its symmetric and of its asymmetric parts, else None."""
    if head._own_components or head._own_forward or head.discount is not None:
        return None
    reduction = head._fused_reduction(("sum", "mean"))
    return None if reduction is None else reduction[0]


class MRN(EmbeddingHead):
    r"""Metric residual network (MRN), https://arxiv.org/abs/2208.08133.

    One-line usage::

        MRN(input_size: int, sym_p: float = 2, ...)

    Two networks, f and g, project the latents. The distance has a symmetric part from f and an asymmetric part from g::

        d(x, y) = (mean_i (f_i(x) - f_i(y))^2)^(sym_p / 2) + max_j relu(g_j(x) - g_j(y))

    The two parts are the two components, which the default reduction adds. Each row of x and y is projected once,
    before x and y are broadcast. With reduction ``"sum"`` or ``"mean"`` and without transforms, one kernel computes
    both parts and their reduction.

    As published, with ``sym_p=2``, the symmetric part is a square and the triangle inequality can fail; the constructor
    warns of this. `MRNFixed` has ``sym_p=1``, as arXiv 2211.15120 proposes. `LatentMRN` is the head without
    projections.

    Args:
        input_size (int): Size of the latent vectors.
        sym_p (float): Exponent of the symmetric part's Euclidean distance, above 0. Default: ``2``.
        proj_hidden_size (int): Hidden size of both networks. Default: ``176``.
        proj_output_size (int): Output size of both networks. Default: ``16``.

    Args of all quasimetrics (keyword-only; each has its own defaults):
        transforms (Collection[str]): Transforms applied to the components before the reduction:
            ``"concave_activation"``. Default: ``()``.
        reduction (str): How the components are combined, a name from ``qmkernels.nn.reductions.REDUCTIONS``.
            Default: ``"sum"``.
        discount (float, optional): If given, the module returns ``discount ** d``. Default: ``None``.
        warn_if_not_quasimetric (bool): Whether to warn if ``sym_p`` is above 1. Default: ``True``.

    Shape:
        - Input: x (from) and y (to), ``(..., input_size)``; leading dimensions broadcast
        - Output: ``(...)``
        - ``pairwise``: x ``(*b, N, input_size)``, y ``(*b, M, input_size)`` to ``(*b, N, M)``
        - ``bidirectional``, ``pairwise(..., bidirectional=True)``: a named tuple ``(x_to_y, y_to_x)``
        - ``parts``, with reduction ``"sum"`` or ``"mean"``, without transforms and discount: a named tuple
          ``(symmetric, asymmetric)`` of ``(...)``, which add up to the distance

    Attributes:
        input_size (int), sym_p (float), discount (float or None): As above.
        num_components (int): 2.
        guaranteed_quasimetric (bool): Whether ``sym_p`` is at most 1.
        sym_proj, asym_proj (MRNProjector): The networks f and g.
        transforms (nn.Sequential), reduction (ReductionBase): The transforms and the reduction.

    Gradient: finite everywhere. At x = y, where the published code gives NaN for ``sym_p`` below 2, the symmetric part
    has gradient 0. Of several equal largest differences, one gets the gradient.

    Raises:
        ValueError: For ``sym_p`` of 0 or less, sizes below one, unknown names, or a discount outside (0, 1].

    Examples::

        >>> import torch
        >>> import qmkernels as qm
        >>> mrn = qm.nn.MRN(8, sym_p=1)
        >>> print(mrn)
        MRN(
          guaranteed_quasimetric=True
          input_size=8, num_components=2, discount=None
          sym_p=1
          (transforms): Sequential()
          (reduction): Sum(input_num_components=2)
          (sym_proj): MRNProjector(
            (0): Linear(in_features=8, out_features=176, bias=True)
            (1): ReLU()
            (2): Linear(in_features=176, out_features=16, bias=True)
          )
          (asym_proj): MRNProjector(
            (0): Linear(in_features=8, out_features=176, bias=True)
            (1): ReLU()
            (2): Linear(in_features=176, out_features=16, bias=True)
          )
        )
        >>> x = torch.randn(5, 8)
        >>> mrn(x[:, None], x).shape, mrn.pairwise(x, x).shape
        (torch.Size([5, 5]), torch.Size([5, 5]))
        >>> print(mrn(x, x).detach())
        tensor([0., 0., 0., 0., 0.])

    Source: Liu et al. 2022; arguments, attributes, parameters and repr are those of the torchqmet class of this name.
    """

    sym_p: float
    _fused_op = "mrn"

    def __init__(
        self,
        input_size: int,
        sym_p: float = 2,
        proj_hidden_size: int = 176,
        proj_output_size: int = 16,
        *,
        transforms: Collection[str] = (),
        reduction: str = "sum",
        discount: float | None = None,
        warn_if_not_quasimetric: bool = True,
    ) -> None:
        name = type(self).__name__
        if not sym_p > 0:
            raise ValueError(f"{name}: sym_p must be positive, got {sym_p:g}.")
        if sym_p > 1 and warn_if_not_quasimetric:
            warnings.warn(
                f"{name} with sym_p={sym_p:g} may not be a quasimetric: the triangle inequality can fail "
                f"(arXiv 2211.15120, section C.2). sym_p=1, the default of MRNFixed, guarantees one.",
                stacklevel=2,
            )
        super().__init__(
            input_size,
            num_components=2,
            warn_if_not_quasimetric=warn_if_not_quasimetric,
            guaranteed_quasimetric=sym_p <= 1,
            transforms=transforms,
            reduction=reduction,
            discount=discount,
        )
        self.sym_p = sym_p
        self.sym_proj = MRNProjector(input_size, output_size=proj_output_size, hidden_sizes=[proj_hidden_size])
        self.asym_proj = MRNProjector(input_size, output_size=proj_output_size, hidden_sizes=[proj_hidden_size])

    def _embed(self, rows: Tensor) -> Tensor:
        symmetric, asymmetric = self.sym_proj(rows), self.asym_proj(rows)
        if symmetric.shape != asymmetric.shape:
            raise ValueError(
                f"{type(self).__name__}: sym_proj and asym_proj must have outputs of the same size, "
                f"got {symmetric.shape[-1]} and {asymmetric.shape[-1]}."
            )
        return torch.cat([symmetric, asymmetric], dim=-1)

    def _settings(self, **settings: object) -> MrnSettings:
        return MrnSettings(squares="mean", exponent=float(self.sym_p), **settings)

    def _compare(self, x: Tensor, y: Tensor) -> Tensor:
        (x_symmetric, x_asymmetric), (y_symmetric, y_asymmetric) = x.chunk(2, dim=-1), y.chunk(2, dim=-1)
        symmetric = op.with_settings(x_symmetric, y_symmetric, self._settings(asymmetric="none"))
        asymmetric = (x_asymmetric - y_asymmetric).max(dim=-1).values.relu()
        return torch.stack([symmetric, asymmetric.to(symmetric.dtype)], dim=-1)

    def _fused(self, x: Tensor) -> FusedDistance | None:
        reduction = self._fused_reduction(("sum", "mean"))
        if reduction is None:
            return None
        # To the kernel this is one component of two parts, which it adds: half the sum is their mean.
        name, _, _, finish = reduction
        settings = self._settings(asymmetric="second", scale=1.0 if name == "sum" else 0.5)
        return op.FORMS, (), settings, finish

    def parts(self, x: Tensor, y: Tensor) -> Parts:
        """Returns the distance's parts, ``(symmetric, asymmetric)``; leading dimensions broadcast."""
        reduction = _reduction_of_parts(self)
        if reduction is None:
            return super().parts(x, y)
        self._check_sizes(x, y)
        scale = 1.0 if reduction == "sum" else 0.5
        return Parts(*(scale * part for part in self.compute_components(x, y).unbind(dim=-1)))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}\nsym_p={self.sym_p:g}"


class MRNFixed(MRN):
    r"""MRN with ``sym_p=1``, a Euclidean distance instead of its square: a quasimetric for all parameters.

    One-line usage::

        MRNFixed(input_size: int, sym_p: float = 1, ...)

    All else is as for `MRN`.

    Examples::

        >>> import torch
        >>> import qmkernels as qm
        >>> head = qm.nn.MRNFixed(8)
        >>> head.guaranteed_quasimetric, head.sym_p
        (True, 1)

    Source: arXiv 2211.15120, section C.2; torchqmet's class of this name.
    """

    def __init__(
        self,
        input_size: int,
        sym_p: float = 1,
        proj_hidden_size: int = 176,
        proj_output_size: int = 16,
        *,
        transforms: Collection[str] = (),
        reduction: str = "sum",
        discount: float | None = None,
        warn_if_not_quasimetric: bool = True,
    ) -> None:
        super().__init__(
            input_size,
            sym_p,
            proj_hidden_size,
            proj_output_size,
            transforms=transforms,
            reduction=reduction,
            discount=discount,
            warn_if_not_quasimetric=warn_if_not_quasimetric,
        )


class LatentMRN(EmbeddingHead):
    r"""MRN directly on latents, without projections: the head of OGBench, TMD, MQE and ETD, and, behind a projection,
    of TD-JEPA and x-jepa.

    One-line usage::

        LatentMRN(input_size: int, num_components: int | None = None, *, preset: str | None = "tmd", ...)

    The latent is split into components, each with an asymmetric half A and a symmetric half B, and the reduction
    combines them::

        d_c(x, y) = max_{j in A} relu(x_cj - y_cj) + (sum_{i in B} (x_ci - y_ci)^2)^(exponent / 2)

    Its only parameters are those of transforms and reduction. Without transforms, and with reduction ``"sum"`` or
    ``"mean"``, one kernel computes components and reduction.

    Args:
        input_size (int): Size of the latent vectors.
        num_components (int, optional): Components; must divide ``input_size``. Default: the preset's.
        preset (str, optional): Published settings, which explicit ones override: ``"ogbench"``, ``"tmd"``, ``"mqe"``,
            ``"etd"``, ``"x_jepa"``, ``"torchqmet"`` or ``"torchqmet_fixed"``; `qmkernels.mrn` has the table. ``None``:
            one component, its first half asymmetric, and nothing else. Default: ``"tmd"``.
        asymmetric, squares, exponent, eps, eps_form, scale (optional): As for `qmkernels.mrn`. Default: the preset's.
        to_minus_from (bool): Whether the differences are y - x instead of x - y, as in heads whose residual is
            relu(to - from). Default: ``False``.

    Args of all quasimetrics (keyword-only; each has its own defaults):
        transforms (Collection[str]): Transforms applied to the components before the reduction:
            ``"concave_activation"``. Default: ``()``.
        reduction (str, optional): How the components are combined, a name from
            ``qmkernels.nn.reductions.REDUCTIONS``. Default: the preset's, ``"sum"`` or ``"mean"``.
        discount (float, optional): If given, the module returns ``discount ** d``. Default: ``None``.
        warn_if_not_quasimetric (bool): Whether to warn if ``exponent`` is above 1, so that the triangle inequality can
            fail. A positive ``eps``, as in the presets, only makes d(x, x) a small constant and gives no warning.
            Default: ``True``.

    Shape:
        - Input: x (from) and y (to), ``(..., input_size)``; leading dimensions broadcast. float64, float32, bfloat16
          or float16
        - Output: ``(...)``; float32 for bfloat16 and float16, otherwise the input's dtype
        - ``pairwise``: x ``(*b, N, input_size)``, y ``(*b, M, input_size)`` to ``(*b, N, M)``
        - ``bidirectional``, ``pairwise(..., bidirectional=True)``: a named tuple ``(x_to_y, y_to_x)``
        - ``parts``, with reduction ``"sum"`` or ``"mean"``, without transforms and discount: a named tuple
          ``(symmetric, asymmetric)`` of ``(...)``, which add up to the distance

    Attributes:
        input_size (int), num_components (int), discount (float or None): As above.
        preset (str or None), settings (MrnSettings), to_minus_from (bool): The preset, all resulting settings, and the
            direction of the differences.
        guaranteed_quasimetric (bool): Whether ``exponent`` is at most 1, ``eps`` 0 and ``scale`` not negative.
        transforms (nn.Sequential), reduction (ReductionBase): The transforms and the reduction.

    Gradient: finite everywhere; a symmetric part of 0 has gradient 0. Of several equal largest differences, one gets
    the gradient.

    Raises:
        ValueError: For sizes that do not fit, unknown names, settings out of range, or a discount outside (0, 1].

    Examples::

        >>> import torch
        >>> import qmkernels as qm
        >>> head = qm.nn.LatentMRN(4, 2, eps=0)
        >>> print(head)
        LatentMRN(
          guaranteed_quasimetric=True
          input_size=4, num_components=2, discount=None
          preset='tmd', asymmetric='first', squares='sum', exponent=1, eps=0, eps_form='add', scale=1
          (transforms): Sequential()
          (reduction): Mean(input_num_components=2)
        )
        >>> x, y = torch.tensor([1.0, 0.0, 5.0, 4.0]), torch.zeros(4)
        >>> head(x, y), head(y, x)
        (tensor(5.), tensor(2.))

    Source: as for `qmkernels.mrn`.
    """

    preset: str | None
    settings: MrnSettings
    to_minus_from: bool
    _fused_op = "mrn"

    def __init__(
        self,
        input_size: int,
        num_components: int | None = None,
        *,
        preset: str | None = "tmd",
        asymmetric: str | None = None,
        squares: str | None = None,
        exponent: float | None = None,
        eps: float | None = None,
        eps_form: str | None = None,
        scale: float | None = None,
        to_minus_from: bool = False,
        transforms: Collection[str] = (),
        reduction: str | None = None,
        discount: float | None = None,
        warn_if_not_quasimetric: bool = True,
    ) -> None:
        name = type(self).__name__
        if input_size < 1:
            raise ValueError(f"{name}: input_size must be at least 1, got {input_size}.")
        settings = dict(
            num_components=num_components, asymmetric=asymmetric, squares=squares, exponent=exponent, eps=eps,
            eps_form=eps_form, scale=scale,
        )  # fmt: skip
        settings = op.resolved_settings(name, input_size, preset, settings)
        if settings.exponent > 1 and warn_if_not_quasimetric:
            warnings.warn(
                f"{name} with exponent={settings.exponent:g} may not be a quasimetric: the triangle inequality can "
                f"fail. exponent=1 guarantees it.",
                stacklevel=2,
            )
        super().__init__(
            input_size,
            settings.num_components,
            warn_if_not_quasimetric=warn_if_not_quasimetric,
            guaranteed_quasimetric=settings.exponent <= 1 and settings.eps == 0 and settings.scale >= 0,
            transforms=transforms,
            reduction=settings.reduction if reduction is None else reduction,
            discount=discount,
        )
        self.preset = preset
        self.to_minus_from = to_minus_from
        self.settings = settings._replace(reduction="none")
        self._settings_of = {name: settings._replace(reduction=name) for name in ("sum", "mean")}

    def _compare(self, x: Tensor, y: Tensor) -> Tensor:
        return op.with_settings(x, y, self.settings, self.to_minus_from)

    def _fused(self, x: Tensor) -> FusedDistance | None:
        reduction = self._fused_reduction(("sum", "mean"))
        if reduction is None:
            return None
        name, _, _, finish = reduction
        return op.forms(self.to_minus_from), (), self._settings_of[name], finish

    def fused_rows(self, x: Tensor, y: Tensor) -> FusedRows | None:
        return super().fused_rows(y, x) if self.to_minus_from else super().fused_rows(x, y)

    def parts(self, x: Tensor, y: Tensor) -> Parts:
        """Returns the distance's parts, ``(symmetric, asymmetric)``; leading dimensions broadcast."""
        reduction = _reduction_of_parts(self)
        if reduction is None:
            return super().parts(x, y)
        self._check_sizes(x, y)
        return op.parts(x, y, self._settings_of[reduction], self.to_minus_from)

    def extra_repr(self) -> str:
        settings = self.settings
        return (
            f"{super().extra_repr()}\n"
            f"preset={self.preset!r}, asymmetric={settings.asymmetric!r}, squares={settings.squares!r}, "
            f"exponent={settings.exponent:g}, eps={settings.eps:g}, eps_form={settings.eps_form!r}, "
            f"scale={settings.scale:g}{', to_minus_from=True' if self.to_minus_from else ''}"
        )
