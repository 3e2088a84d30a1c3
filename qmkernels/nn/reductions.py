"""Reductions of components ``(..., C)`` to one distance ``(...)``, or to ``discount ** distance``."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Collection

import torch
from torch import Tensor, nn
from torch.nn import functional

from .deep_linear_net import DeepLinearNet


class ReductionBase(nn.Module, metaclass=abc.ABCMeta):
    r"""Reduces components to a distance; to be subclassed.

    A subclass overrides `reduce_distance` or, if its parameters make sense only with a discount,
    `reduce_discounted_distance`: by default each is computed from the other, ``discounted = discount ** distance``.

    Args:
        input_num_components (int): Number of components.
        discount (float, optional): In (0, 1]; if given, the module returns the discounted distance.

    Shape:
        - Input: ``(..., input_num_components)``
        - Output: ``(...)``
    """

    input_num_components: int
    discount: float | None

    def __init__(self, input_num_components: int, discount: float | None = None) -> None:
        super().__init__()
        if discount is not None and not 0 < discount <= 1:
            raise ValueError(f"{type(self).__name__}: discount must be in (0, 1] or None, got {discount}.")
        self.input_num_components = input_num_components
        self.discount = discount

    def reduce_distance(self, d: Tensor) -> Tensor:
        """Returns the distance itself, with or without a discount."""
        if self.discount is None or type(self).reduce_discounted_distance is ReductionBase.reduce_discounted_distance:
            raise RuntimeError(
                f"{type(self).__name__}: the distance follows only from the discounted distance, which needs discount= "
                f"and the class's own reduce_discounted_distance; got discount={self.discount}."
            )
        return self.reduce_discounted_distance(d).log() / math.log(self.discount)

    def reduce_discounted_distance(self, d: Tensor) -> Tensor:
        """Returns ``discount ** distance``; needs a discount."""
        return self.discount ** self.reduce_distance(d)

    def forward(self, d: Tensor) -> Tensor:
        return self.reduce_distance(d) if self.discount is None else self.reduce_discounted_distance(d)

    def extra_repr(self) -> str:
        discount = "" if self.discount is None else f", discount={self.discount:g}"
        return f"input_num_components={self.input_num_components}{discount}"


class Max(ReductionBase):
    """The largest component. At a tie one of the largest gets the gradient."""

    def reduce_distance(self, d: Tensor) -> Tensor:
        return d.max(dim=-1).values


class Sum(ReductionBase):
    """The sum of the components."""

    def reduce_distance(self, d: Tensor) -> Tensor:
        return d.sum(dim=-1)


class Mean(ReductionBase):
    """The mean of the components."""

    def reduce_distance(self, d: Tensor) -> Tensor:
        return d.mean(dim=-1)


class MaxMean(ReductionBase):
    r"""A learned mixture of the largest component and the mean, in torchqmet's convention.

    ::

        d = (1 - a) mean + a max,    a = sigmoid(raw_alpha),    initially raw_alpha = -1, so a = 0.2689

    Note that `MaxMeanOGBench` gives ``a`` to the mean. Source: Pitis et al. 2020, arXiv 2002.05825.
    """

    initial_raw_alpha = -1.0

    def __init__(self, input_num_components: int, discount: float | None = None) -> None:
        super().__init__(input_num_components, discount)
        self.raw_alpha = nn.Parameter(torch.tensor(self.initial_raw_alpha))

    def max_weight(self) -> Tensor:
        """Returns the weight of the largest component, 0-d; the mean has the rest."""
        return self.raw_alpha.sigmoid()

    def reduce_distance(self, d: Tensor) -> Tensor:
        mean = d.mean(dim=-1)
        return mean + self.max_weight() * (d.max(dim=-1).values - mean)


class MaxMeanOGBench(MaxMean):
    r"""A learned mixture of the largest component and the mean, in the convention of the OGBench and TMD code.

    ::

        d = a mean + (1 - a) max,    a = sigmoid(raw_alpha),    initially raw_alpha = 0, so a = 0.5

    Source: the IQE value network of OGBench (Park et al. 2024, arXiv 2410.20092).
    """

    initial_raw_alpha = 0.0

    def max_weight(self) -> Tensor:
        return torch.sigmoid(-self.raw_alpha)


class MaxMeanMAD(ReductionBase):
    """The fixed mixture of MAD's simple distance, ``0.9 max + 0.1 mean``. Source: arXiv 2506.09276."""

    def __init__(self, input_num_components: int, discount: float | None = None) -> None:
        super().__init__(input_num_components, discount)
        self.register_buffer("_max_weight", torch.tensor(0.9), persistent=False)

    def max_weight(self) -> Tensor:
        """Returns the weight of the largest component, 0-d; the mean has the rest."""
        return self._max_weight

    def reduce_distance(self, d: Tensor) -> Tensor:
        mean = d.mean(dim=-1)
        return mean + self.max_weight() * (d.max(dim=-1).values - mean)


class DeepLinearNetWeightedSum(ReductionBase):
    r"""A sum with learned non-negative weights, each from a product of matrices.

    ::

        d = sum_c alpha_c d_c                                 without a discount
        discount ** d = prod_c sigmoid(beta_c) ** d_c         with a discount: the weights are learned as discounts

    With a discount, components of 0.5 initially give between 0.5 and 0.75.

    Attributes:
        alpha_net (DeepLinearNet): Without a discount: the weights alpha, ``(1, C)``.
        beta_net (DeepLinearNet): With a discount: the logits beta, ``(C, 1)``.

    Source: Wang & Isola 2022, arXiv 2206.15478, sections C.4.2 and C.4.3. The product over components is computed as
    the exponential of a sum, which does not underflow midway.
    """

    def __init__(self, input_num_components: int, discount: float | None = None) -> None:
        super().__init__(input_num_components, discount)
        if discount is None:
            self.alpha_net = DeepLinearNet(input_dim=input_num_components, output_dim=1, non_negative=True)
        else:
            self.beta_net = DeepLinearNet(input_dim=1, output_dim=input_num_components)
            self._start_between(0.5, 0.75)

    @torch.no_grad()
    def _start_between(self, least: float, most: float) -> None:
        """Draws logits for which components of 0.5 give a discounted distance in [least, most]."""
        size = self.input_num_components
        # prod_c sigmoid(beta) ** 0.5 = q  where  beta = -log(q ** (-2 / C) - 1)
        lowest, highest = (-math.log(math.expm1(-2 / size * math.log(value))) for value in (least, most))
        logits = torch.empty(size, 1).uniform_(lowest, highest)
        last, *rest = self.beta_net.mats
        column = torch.linalg.multi_dot(rest)
        # The smallest change of the last factor that gives the product these logits.
        last += (logits - last @ column) @ column.T / column.square().sum()

    def weights(self) -> Tensor:
        """Returns the weights of the components without a discount, ``(C,)``."""
        return self.alpha_net.collapse().squeeze(0)

    def log_discounts(self) -> Tensor:
        """Returns, with a discount, the logarithms of the components' own discounts, ``(C,)``."""
        return functional.logsigmoid(self.beta_net.collapse().squeeze(1))

    def reduce_distance(self, d: Tensor) -> Tensor:
        return self.alpha_net(d).squeeze(-1) if self.discount is None else super().reduce_distance(d)

    def reduce_discounted_distance(self, d: Tensor) -> Tensor:
        if self.discount is None:
            return super().reduce_discounted_distance(d)
        return (self.log_discounts() * d).sum(dim=-1).exp()


REDUCTIONS: dict[str, type[ReductionBase]] = {
    "sum": Sum,
    "mean": Mean,
    "maxmean": MaxMean,
    "maxmean_ogbench": MaxMeanOGBench,
    "maxmean_mad": MaxMeanMAD,
    "max": Max,
    "deep_linear_net_weighted_sum": DeepLinearNetWeightedSum,
}


def make_reduction(kind: str, input_num_components: int, discount: float | None = None) -> ReductionBase:
    """Makes the reduction named ``kind`` for that many components; ValueError for a name not in `REDUCTIONS`."""
    if kind not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(map(repr, REDUCTIONS))}, got {kind!r}.")
    return REDUCTIONS[kind](input_num_components, discount)


# A reduction for a kernel: its name, its parameter, the link from that to a weight, and a function from the kernel's
# result to the module's, or None. A plain tuple, because every call makes one.
FusedReduction = tuple[str, Tensor | None, str, Callable[[Tensor], Tensor] | None]


# Exact classes: a subclass may reduce differently.
_FUSED: dict[type[ReductionBase], tuple[str, str]] = {
    Sum: ("sum", "identity"),
    Mean: ("mean", "identity"),
    Max: ("max", "identity"),
    MaxMean: ("maxmean", "sigmoid"),
    MaxMeanOGBench: ("maxmean", "one_minus_sigmoid"),
    MaxMeanMAD: ("maxmean", "identity"),
    DeepLinearNetWeightedSum: ("weighted_sum", "identity"),
}


def fused_reduction(reduction: ReductionBase, supported: Collection[str]) -> FusedReduction | None:
    """Returns this reduction for a kernel that supports the reductions ``supported``, or None.

    The parameter is, for "maxmean", what the link, one of ``definitions.iqe.WEIGHT_LINKS``, turns into the maximum's
    weight; for "weighted_sum", the components' weights; else None.
    """
    name, link = _FUSED.get(type(reduction), (None, "identity"))
    if name not in supported:
        return None
    discount = reduction.discount
    if name == "weighted_sum" and discount is not None:
        return name, reduction.log_discounts(), link, torch.exp
    parameter = None
    if type(reduction) is MaxMeanMAD:
        parameter = reduction.max_weight()
    elif name == "maxmean":
        # Looking it up as an attribute takes as long as a small kernel. It is missing here if it is parametrised.
        parameter = reduction._parameters.get("raw_alpha")
        parameter = reduction.raw_alpha if parameter is None else parameter
    elif name == "weighted_sum":
        parameter = reduction.weights()
    return name, parameter, link, None if discount is None else (lambda distance: discount**distance)
