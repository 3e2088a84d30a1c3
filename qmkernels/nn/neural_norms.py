"""DeepNorm and WideNorm: norms of the difference of two latents, computed by networks with non-negative weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..ops import mrn
from ..ops.mrn import MrnSettings
from ..ops.torch_internals import is_exporting
from .embedding_head import EmbeddingHead, Pairs


class ConstrainedLinear(nn.Linear):
    """A linear layer that puts its weight back into its range, in place, if the weight changed since the last call.

    Args:
        in_features (int), out_features (int), bias (bool): As for ``nn.Linear``.
        weight_constraint_ (Callable, optional): Changes the weight in place, for example ``torch.relu_``; must be
            idempotent. Default: ``None``.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool,
        weight_constraint_: Callable[[Tensor], object] | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias=bias)
        self.weight_constraint_ = weight_constraint_
        self.last_constrained_weight_version = -100

    def forward(self, input: Tensor) -> Tensor:
        if self.weight_constraint_ is not None:
            if is_exporting():  # the program must not change its parameters
                weight = self.weight.clone()
                self.weight_constraint_(weight)
                return functional.linear(input, weight, self.bias)
            self._constrain()
        return super().forward(input)

    @torch.no_grad()
    def _constrain(self) -> None:
        if torch.compiler.is_compiling():
            # Versions are not traced. A second call in a graph changes nothing, and must not look like a change.
            self.weight_constraint_(self.weight.data)
        elif self.weight._version != self.last_constrained_weight_version:
            self.weight_constraint_(self.weight)
            self.last_constrained_weight_version = self.weight._version

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, weight_constraint_={self.weight_constraint_}"


def max_relu(x: Tensor, weights: Tensor) -> Tensor:
    """Returns, for pairs of features ``(..., F)``, their maxima, then the weighted means of the rectified, ``(...,
    F)``.

    ``weights`` is (F / 2, 2) and non-negative.
    """
    pairs = x.unflatten(-1, (-1, 2))
    return torch.cat([pairs.max(dim=-1).values, (pairs * weights).relu().mean(dim=-1)], dim=-1)


class MaxReLU(nn.Module):
    """The activation of Deep Norms: half of its outputs are maxima of two features, half means of two rectified ones.

    Args:
        num_features (int): Number of features, even; the output has as many.

    Source: Pitis et al. 2020, arXiv 2002.05825; weights are softplus of ``raw_weights``, which start at 0.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        if num_features < 2 or num_features % 2 != 0:
            raise ValueError(f"MaxReLU: num_features must be even and positive, got {num_features}.")
        self.num_features = num_features
        self.raw_weights = nn.Parameter(torch.zeros(num_features // 2, 2))

    def forward(self, x: Tensor) -> Tensor:
        return max_relu(x, functional.softplus(self.raw_weights))

    def extra_repr(self) -> str:
        return f"num_features={self.num_features}"


def make_activation(kind: str, num_features: int) -> nn.Module:
    """Makes ``"relu"`` or ``"maxrelu"`` for that many features; ValueError for another name."""
    if kind == "relu":
        return nn.ReLU()
    if kind == "maxrelu":
        return MaxReLU(num_features)
    raise ValueError(f"activation must be 'relu' or 'maxrelu', got {kind!r}.")


class NormHead(EmbeddingHead):
    """A norm of the difference of two latents. The first layer is linear, so that pairs need it only once per row."""

    def _linear(self, rows: Tensor) -> Tensor:
        """Applies the linear first layer, which has no bias, to (..., size)."""
        raise NotImplementedError

    def _norm(self, x: Tensor, y: Tensor) -> Tensor:
        """Returns the components, (..., num_components), from the first layer's output; leading sizes broadcast."""
        raise NotImplementedError

    def norm(self, x: Tensor) -> Tensor:
        """Returns the components of the norm of x, ``(..., input_size)`` to ``(..., num_components)``."""
        rows = self._linear(x)
        return self._norm(rows, torch.zeros_like(rows))

    def _compare(self, x: Tensor, y: Tensor) -> Tensor:
        return self.norm(x - y)

    def _pairs(self, x: Tensor, y: Tensor) -> Pairs:
        if type(self).norm is not NormHead.norm:
            return super()._pairs(x, y)
        # One product for both, so that equal rows give equal results.
        of_x, of_y = self._linear(torch.cat([x, y], dim=1)).split([x.shape[1], y.shape[1]], dim=1)
        return Pairs(of_x, of_y, self._norm, of_x.shape[-1])


class DeepNorm(NormHead):
    r"""Deep Norm, https://arxiv.org/abs/2002.05825.

    One-line usage::

        DeepNorm(input_size: int, num_components: int, num_layers: int = 3, ...)

    The components are a convex, positively homogeneous network of the difference z = x - y, whose matrices W are
    non-negative::

        h_1 = act(U_0 z),    h_(i+1) = act(W_i h_i + U_i z),    d_c(x, y) = (h_last)_c

    ``symmetric=True`` adds the components of -z, which makes it a metric. In pairs, U x and U y are computed once per
    row; the other layers work on blocks of pairs, which the backward pass computes again.

    Args:
        input_size (int): Size of the latent vectors.
        num_components (int): Components, and size of the hidden layers.
        num_layers (int): Layers. Default: ``3``.
        activation (str): ``"relu"`` or ``"maxrelu"``. Default: ``"relu"``.
        final_activation (str, optional): Activation of the last of several layers; ``None``: the same. With
            ``"maxrelu"`` components can be negative; the constructor warns of this. Default: ``None``.
        symmetric (bool): Whether d(x, y) = d(y, x). Default: ``False``.

    Args of all quasimetrics (keyword-only; each has its own defaults):
        transforms (Collection[str]): Transforms applied to the components before the reduction. Default:
            ``("concave_activation",)``.
        reduction (str): How the components are combined, a name from ``qmkernels.nn.reductions.REDUCTIONS``.
            Default: ``"maxmean"``.
        discount (float, optional): If given, the module returns ``discount ** d``. Default: ``None``.
        warn_if_not_quasimetric (bool): Whether to warn if the last activation is not ``"relu"``. Default: ``True``.

    Shape:
        - Input: x (from) and y (to), ``(..., input_size)``; leading dimensions broadcast
        - Output: ``(...)``
        - ``pairwise``: x ``(*b, N, input_size)``, y ``(*b, M, input_size)`` to ``(*b, N, M)``
        - ``bidirectional``, ``pairwise(..., bidirectional=True)``: a named tuple ``(x_to_y, y_to_x)``

    Attributes:
        input_size (int), num_components (int), num_layers (int), symmetric (bool), discount (float or None): As above.
        guaranteed_quasimetric (bool): Whether the last activation is ``"relu"``.
        u0, us_after_first (ConstrainedLinear), ws_after_first (ConstrainedLinear): U_0, the other U and W; a changed W
            is made non-negative again, in place, when it is next used.
        activations (nn.ModuleList): The activations.
        transforms (nn.Sequential), reduction (ReductionBase): The transforms and the reduction.

    In pairs the difference is taken after the first layer: there d(x, x) of two equal rows is 0 up to rounding, while
    elementwise it is exactly 0.

    Raises:
        ValueError: For sizes below one, an odd number of components with ``"maxrelu"``, unknown names, or a discount
        outside (0, 1].

    Examples::

        >>> import torch
        >>> import qmkernels as qm
        >>> head = qm.nn.DeepNorm(8, num_components=4, num_layers=2, transforms=[])
        >>> x = torch.randn(5, 8)
        >>> head(x[:, None], x).shape, head.pairwise(x, x).shape
        (torch.Size([5, 5]), torch.Size([5, 5]))
        >>> print(head(x, x).detach())
        tensor([0., 0., 0., 0., 0.])
        >>> [name for name, _ in head.named_parameters()]
        ['reduction.raw_alpha', 'u0.weight', 'ws_after_first.0.weight', 'us_after_first.0.weight']

    Source: Pitis et al. 2020; arguments, attributes, parameters and repr are those of the torchqmet class of this name.
    """

    symmetric: bool
    num_layers: int

    def __init__(
        self,
        input_size: int,
        num_components: int,
        num_layers: int = 3,
        activation: str = "relu",
        final_activation: str | None = None,
        symmetric: bool = False,
        *,
        transforms: Collection[str] = ("concave_activation",),
        reduction: str = "maxmean",
        discount: float | None = None,
        warn_if_not_quasimetric: bool = True,
    ) -> None:
        name = type(self).__name__
        if num_layers < 1:
            raise ValueError(f"{name}: num_layers must be at least 1, got {num_layers}.")
        kinds = [activation] * num_layers
        if num_layers > 1 and final_activation is not None:
            kinds[-1] = final_activation
        guaranteed_quasimetric = kinds[-1] == "relu"
        if not guaranteed_quasimetric and warn_if_not_quasimetric:
            warnings.warn(
                f"{name} with {kinds[-1]!r} as its last activation may not be a quasimetric: components can be "
                f"negative (arXiv 2211.15120, section C.1). final_activation='relu' guarantees one.",
                stacklevel=2,
            )
        super().__init__(
            input_size,
            num_components,
            warn_if_not_quasimetric=warn_if_not_quasimetric,
            guaranteed_quasimetric=guaranteed_quasimetric,
            transforms=transforms,
            reduction=reduction,
            discount=discount,
        )
        self.symmetric = symmetric
        self.num_layers = num_layers
        self.u0 = ConstrainedLinear(input_size, num_components, bias=False)
        self.activations = nn.ModuleList(make_activation(kind, num_components) for kind in kinds)
        self.ws_after_first = nn.ModuleList()
        self.us_after_first = nn.ModuleList()
        for _ in range(1, num_layers):
            self.ws_after_first.append(ConstrainedLinear(num_components, num_components, False, torch.relu_))
            self.us_after_first.append(ConstrainedLinear(input_size, num_components, False))

    def norm_asym(self, x: Tensor) -> Tensor:
        """Returns the asymmetric norm's components, ``(..., input_size)`` to ``(..., num_components)``."""
        return self._one_way(self._linear(x))

    def _linear(self, rows: Tensor) -> Tensor:
        return torch.cat([layer(rows) for layer in (self.u0, *self.us_after_first)], dim=-1)

    def _norm(self, x: Tensor, y: Tensor) -> Tensor:
        difference = x - y
        return self._one_way(difference) + self._one_way(-difference) if self.symmetric else self._one_way(difference)

    def _one_way(self, z: Tensor) -> Tensor:
        first, *others = z.split(self.num_components, dim=-1)
        h = self.activations[0](first)
        for activation, layer, of_z in zip(self.activations[1:], self.ws_after_first, others, strict=True):
            h = activation(layer(h) + of_z)
        return h

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}\nsymmetric={self.symmetric}"


class WideNorm(NormHead):
    r"""Wide Norm, https://arxiv.org/abs/2002.05825.

    One-line usage::

        WideNorm(input_size: int, num_components: int, output_component_size: int = 32, ...)

    A component is the Euclidean norm of a linear image of the difference z = x - y, split by sign unless symmetric::

        d_c(x, y) = || W_c relu([z, -z]) ||,  W non-negative          symmetric=True:  d_c(x, y) = || W_c z ||

    In pairs, the symmetric form computes W x and W y once per row, and one kernel computes the components. The other
    form, which splits first, works on blocks of pairs, which the backward pass computes again.

    Args:
        input_size (int): Size of the latent vectors.
        num_components (int): Components.
        output_component_size (int): Rows of each W_c; large values mean many parameters. Default: ``32``.
        symmetric (bool): Whether d(x, y) = d(y, x). Default: ``False``.

    Args of all quasimetrics (keyword-only; each has its own defaults):
        transforms (Collection[str]): Transforms applied to the components before the reduction. Default:
            ``("concave_activation",)``.
        reduction (str): How the components are combined, a name from ``qmkernels.nn.reductions.REDUCTIONS``.
            Default: ``"maxmean"``.
        discount (float, optional): If given, the module returns ``discount ** d``. Default: ``None``.
        warn_if_not_quasimetric (bool): Accepted for uniformity; a Wide Norm always is one. Default: ``True``.

    Shape:
        - Input: x (from) and y (to), ``(..., input_size)``; leading dimensions broadcast
        - Output: ``(...)``
        - ``pairwise``: x ``(*b, N, input_size)``, y ``(*b, M, input_size)`` to ``(*b, N, M)``
        - ``bidirectional``, ``pairwise(..., bidirectional=True)``: a named tuple ``(x_to_y, y_to_x)``

    Attributes:
        input_size (int), num_components (int), output_component_size (int), symmetric (bool), discount (float or None):
            As above.
        guaranteed_quasimetric (bool): Always ``True``.
        w (ConstrainedLinear): All W_c; unless symmetric, made non-negative again, in place, when next used after a
            change.
        transforms (nn.Sequential), reduction (ReductionBase): The transforms and the reduction.

    Gradient: finite everywhere; a component of 0 has gradient 0. In pairs, the symmetric form takes the difference
        after
    the linear map: there d(x, x) of two equal rows is 0 up to rounding, while elementwise it is exactly 0.

    Raises:
        ValueError: For sizes below one, unknown names, or a discount outside (0, 1].

    Examples::

        >>> import torch
        >>> import qmkernels as qm
        >>> head = qm.nn.WideNorm(8, num_components=4, output_component_size=3, transforms=[])
        >>> head.w.weight.shape
        torch.Size([12, 16])
        >>> x = torch.randn(5, 8)
        >>> head.pairwise(x, x).shape
        torch.Size([5, 5])
        >>> print(head(x, x).detach())
        tensor([0., 0., 0., 0., 0.])

    Source: Pitis et al. 2020; arguments, attributes, parameters and repr are those of the torchqmet class of this name.
    """

    symmetric: bool
    output_component_size: int

    def __init__(
        self,
        input_size: int,
        num_components: int,
        output_component_size: int = 32,
        symmetric: bool = False,
        *,
        transforms: Collection[str] = ("concave_activation",),
        reduction: str = "maxmean",
        discount: float | None = None,
        warn_if_not_quasimetric: bool = True,
    ) -> None:
        if output_component_size < 1:
            raise ValueError(
                f"{type(self).__name__}: output_component_size must be at least 1, got {output_component_size}."
            )
        super().__init__(
            input_size,
            num_components,
            warn_if_not_quasimetric=warn_if_not_quasimetric,
            guaranteed_quasimetric=True,
            transforms=transforms,
            reduction=reduction,
            discount=discount,
        )
        self.symmetric = symmetric
        self.output_component_size = output_component_size
        columns = input_size if symmetric else 2 * input_size
        constraint = None if symmetric else torch.relu_
        self.w = ConstrainedLinear(columns, num_components * output_component_size, False, constraint)
        # The initial values are those of one layer per component.
        layers = [nn.Linear(columns, output_component_size, bias=False).weight for _ in range(num_components)]
        with torch.no_grad():
            self.w.weight.copy_(torch.cat(layers))

    def _linear(self, rows: Tensor) -> Tensor:
        return self.w(rows) if self.symmetric else rows

    def _norm(self, x: Tensor, y: Tensor) -> Tensor:
        if not self.symmetric:
            difference = x - y
            x = self.w(torch.cat([difference, -difference], dim=-1).relu())
            return torch.linalg.vector_norm(x.unflatten(-1, (self.num_components, -1)), dim=-1)
        settings = MrnSettings(num_components=self.num_components, asymmetric="none", reduction="none")
        return mrn.with_settings(x, y, settings)

    def _pairs(self, x: Tensor, y: Tensor) -> Pairs:
        # Not by _replace, which torch.compile of torch 2.6 does not trace.
        x, y, compare, _ = super()._pairs(x, y)
        return Pairs(x, y, compare, max(2 * self.input_size, len(self.w.weight)))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}\nsymmetric={self.symmetric}"
