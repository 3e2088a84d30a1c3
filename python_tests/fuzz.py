"""Random cases of every public op, head and loss, forward and gradients, against the reference backend.

    python python_tests/fuzz.py --cases 100000 --seed 0 [--isa avx2]
    python python_tests/fuzz.py --threads 8 --seconds 60

The first prints its counts per op, and for a failure the line that repeats that case alone; the second compares the
results of many threads at once with those of one. A case is made from its seed and number alone. It draws sizes around
those of tiles and registers, settings, batch dimensions, dtypes, how inputs and upstream gradients lie in memory, the
number of threads, and numbers: normal ones, small integers that tie, equal rows, denormal numbers, infinities, NaN.
Under AddressSanitizer (.ci/sanitize) it also shows that nothing is read or written outside its memory.
"""

from __future__ import annotations

import argparse
import collections
import math
import os
import random
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import op_cases
import torch
from torch import Tensor

import qmkernels as qm

ROWS = (0, 1, 2, 7, 48, 49, 100, 129, 257)
SIZES = (1, 2, 3, 4, 4, 5, 7, 8, 8, 8, 9, 15, 16, 16, 17, 31, 32, 33, 64, 65, 100, 127, 128, 129, 257, 1024, 1025)
COMPONENTS = (1, 1, 2, 3, 4, 5, 7, 8, 13, 16, 17, 31, 33, 64, 100)
CONTENTS = {"normal": 8, "ties": 3, "equal rows": 2, "denormal": 1, "infinite": 1, "nan": 1}
MOST_VALUES = 150_000  # of a case's differences: all pairs times all values of a row

# How far a result may be from the reference's in the same dtype, in units of the computation's last place and of the
# largest number of the tensor: (forward, gradients). Both sides add up in their own order, so sums of n terms differ
# by about sqrt(n) units of the largest term, and by more of the result where terms cancel.
TOLERANCE = {
    "iqe": (64, 512),
    "mrn": (64, 2048),  # gradients divide by a root that has its own errors
    "pqe": (128, 512),
    "poisson": (1e8, 1e8),  # known: in float64 the reference's own errors are up to 1e-9
    "nearest": (64, 2048),
    "fsq": (16, 512),  # a slope is up to 500 half-widths of a digit
    "head": (512, 16384),  # projections and norms are matrix products, whose errors the norm's slope amplifies
    "loss": (1024, 16384),  # exponentials of distances: a unit of a distance of 100 is 100 units of its exponential
    "temporal_consistency": (1024, 64),  # of a row's gradient in units of its own terms
}


@dataclass
class Case:
    """A call of tensors, of which those that a gradient flows to come first, and what is defined of its results."""

    call: Callable[..., Any]
    inputs: list[Tensor]
    settings: dict[str, Any]
    tolerance: tuple[float, float]
    constants: list[Tensor] = field(default_factory=list)
    sum_over: int | None = None  # at ties only a gradient's sums over so many neighbouring values are defined
    terms: Tensor | None = None  # how large what cancels in the first gradient is, for an upstream gradient of 1
    check: Callable[[tuple, tuple], None] | None = None  # of the outputs, in place of nearness


class Draw:
    """The random choices of a case."""

    def __init__(self, seed: int, number: int) -> None:
        self.chance = random.Random(f"{seed} {number}")
        self.generator = torch.Generator().manual_seed(self.chance.randrange(2**31))
        self.dtype = self.choice((torch.float32, torch.float32, torch.float64, torch.bfloat16, torch.float16))
        self.content = self.chance.choices(list(CONTENTS), list(CONTENTS.values()))[0]
        self.scale = self.choice((1.0, 1.0, 1e-3, 30.0))
        self.threads = self.choice((1, 1, 2, 3))

    def choice(self, choices):
        return choices[self.chance.randrange(len(choices))]

    def chosen(self, **choices: tuple) -> dict[str, Any]:
        """Of each setting one of its choices, and sometimes none at all."""
        return {name: self.choice(values) for name, values in choices.items() if self.chance.random() < 0.7}

    def randn(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def batch(self) -> list[int]:
        return self.choice(([], [], [], [1], [2], [3, 2]))

    def rows(self, budget: int, least: int = 0) -> int:
        return self.choice([rows for rows in ROWS if least <= rows <= max(budget, least, 2)])

    def dim(self, budget: int) -> tuple[int, int]:
        """The size of a component and the number of components of a row of at most ``budget`` values."""
        size = self.choice([size for size in SIZES if size <= max(budget, 1)])
        return size, self.choice([count for count in COMPONENTS if count * size <= max(budget, size)])

    def values(self, *shape: int) -> Tensor:
        values = self.randn(*shape)
        if self.content == "ties":
            values = values.mul(1.5).round()
        elif self.content == "denormal":
            compute = self.dtype if self.dtype == torch.float64 else torch.float32
            values = values * torch.finfo(compute).tiny
        else:
            values = values * self.scale
        values = values.to(self.dtype)
        if self.content in ("nan", "infinite") and values.numel():
            for _ in range(self.choice((1, 1, 3))):
                special = math.nan if self.content == "nan" else self.choice((math.inf, -math.inf))
                values.view(-1)[self.chance.randrange(values.numel())] = special
        return values

    def layout(self, tensor: Tensor) -> Tensor:
        """The same numbers laid out otherwise in memory."""
        kind = self.choice(("plain", "plain", "transposed", "strided", "offset", "sliced"))
        if kind == "transposed" and tensor.dim() > 1:
            return tensor.transpose(0, -1).contiguous().transpose(0, -1)
        if kind == "strided":
            return torch.stack([tensor, tensor + 1], dim=-1)[..., 0]
        if kind == "offset":
            return torch.cat([tensor.new_zeros(3), tensor.flatten()])[3:].view(tensor.shape)
        if kind == "sliced":
            return torch.cat([tensor, tensor], dim=-1)[..., : tensor.shape[-1]]
        return tensor

    def rows_of(self, *shape: int) -> Tensor:
        """Values in some layout; sometimes all rows are one that is expanded."""
        if len(shape) > 1 and shape[-2] > 1 and self.chance.random() < 0.06:
            return self.values(*shape[:-2], 1, shape[-1]).expand(shape)
        return self.layout(self.values(*shape))

    def two(self, x_shape: tuple, y_shape: tuple) -> list[Tensor]:
        x, y = self.rows_of(*x_shape), self.rows_of(*y_shape)
        if self.content == "equal rows" and x.numel() and y.numel():
            x = x.contiguous()
            count = min(x.shape[-2], y.shape[-2]) if x.dim() > 1 and y.dim() > 1 else 0
            if count and x.shape[:-2] == y.shape[:-2]:
                x[..., :count:2, :] = y[..., :count:2, :]
        return [x, y]

    def upstream(self, like: Tensor) -> Tensor:
        """A gradient of ``like``'s shape and dtype: in order, expanded with strides of 0, sliced or transposed."""
        kind = self.choice(("plain", "expanded", "row", "sliced", "transposed"))
        if kind == "expanded" or like.dim() == 0:
            grad = self.randn().to(like.dtype).expand(like.shape)
        elif kind == "row":
            grad = self.randn(*like.shape[1:]).to(like.dtype).expand(like.shape)
        elif kind == "sliced":
            grad = self.randn(*like.shape, 2).to(like.dtype)[..., 1]
        elif kind == "transposed":
            grad = self.randn(*reversed(like.shape)).to(like.dtype).permute(*reversed(range(like.dim())))
        else:
            grad = self.randn(*like.shape).to(like.dtype)
        return grad


# --- Ops.


def _elementwise_shapes(draw: Draw, size: int) -> tuple[tuple, tuple]:
    rows = draw.rows(MOST_VALUES // size)
    batch = draw.choice(([], [], [2], [3, 1]))
    form = draw.choice(("alike", "alike", "row", "matrix"))
    if form == "alike":
        return (*batch, rows, size), (*batch, rows, size)
    if form == "row":
        return (rows, size), (size,)
    others = draw.rows(MOST_VALUES // size // max(rows, 1))
    return (rows, 1, size), (others, size)


def _pairwise_shapes(draw: Draw, least: int = 0) -> tuple[tuple, tuple, tuple[int, int]]:
    """Of x and y, and the size and number of components."""
    batch = draw.batch()
    budget = MOST_VALUES // max(1, math.prod(batch))
    num_x = draw.rows(budget, least)
    num_y = draw.rows(budget // max(num_x, 1), least)
    size, count = draw.dim(min(1100, budget // max(num_x * num_y, num_x + num_y, 1)))
    return (*batch, num_x, size * count), (*batch, num_y, size * count), (size, count)


def _weights_shape(draw: Draw, inputs: list[Tensor], pairwise: bool) -> tuple[int, ...]:
    """Of weights for all distances, or for those of each member of an ensemble, or for each row."""
    x, y = inputs
    if draw.chance.random() < 0.5 or (not pairwise and x.shape != y.shape):
        return ()
    sizes = x.shape[:-2] if pairwise else x.shape[:-1]
    kept = draw.chance.randint(0, len(sizes))
    return (*sizes[:kept], *[1] * (len(sizes) - kept + 2 * pairwise))


def _iqe_settings(draw: Draw, size: int) -> dict[str, Any]:
    return {"dim_per_component": size, "reduction": draw.choice(("none", "sum", "mean", "max", "maxmean"))}


def _iqe_case(draw: Draw, op: Callable, inputs: list[Tensor], size: int) -> Case:
    settings = _iqe_settings(draw, size)
    if settings["reduction"] == "maxmean" and draw.chance.random() < 0.5:
        compute = draw.dtype if draw.dtype == torch.float64 else torch.float32
        shape = _weights_shape(draw, inputs, op is qm.iqe_pairwise)
        weight = torch.rand(shape, generator=draw.generator).to(compute)
        return Case(
            lambda x, y, weight: op(x, y, max_weight=weight, **settings),
            [*inputs, weight], {**settings, "max_weight": shape}, TOLERANCE["iqe"], sum_over=size,
        )  # fmt: skip
    return Case(lambda x, y: op(x, y, **settings), inputs, settings, TOLERANCE["iqe"], sum_over=size)


def iqe(draw: Draw) -> Case:
    size, count = draw.dim(1100)
    return _iqe_case(draw, qm.iqe, draw.two(*_elementwise_shapes(draw, size * count)), size)


def iqe_pairwise(draw: Draw) -> Case:
    x_shape, y_shape, (size, _) = _pairwise_shapes(draw)
    return _iqe_case(draw, qm.iqe_pairwise, draw.two(x_shape, y_shape), size)


def _mrn_settings(draw: Draw, count: int) -> dict[str, Any]:
    presets = ("torchqmet", "torchqmet_fixed", "ogbench", "tmd", "mqe", "etd")
    if draw.chance.random() < 0.4:
        return {"preset": draw.choice(presets), "num_components": count}
    settings = draw.chosen(
        asymmetric=("first", "second", "none"), squares=("sum", "mean"), exponent=(1.0, 1.0, 2.0, 1.5, 0.5),
        eps=(0.0, 1e-6, 1e-2), eps_form=("add", "max", "difference"), reduction=("none", "sum", "mean"),
        scale=(1.0, 0.3),
    )  # fmt: skip
    return {"num_components": count, **settings}


def _mrn_case(draw: Draw, op: Callable, inputs: list[Tensor], size: int, count: int) -> Case:
    settings = _mrn_settings(draw, count)
    return Case(lambda x, y: op(x, y, **settings), inputs, settings, TOLERANCE["mrn"], sum_over=size)


def mrn(draw: Draw) -> Case:
    size, count = draw.dim(1100)
    return _mrn_case(draw, qm.mrn, draw.two(*_elementwise_shapes(draw, size * count)), size, count)


def mrn_pairwise(draw: Draw) -> Case:
    x_shape, y_shape, (size, count) = _pairwise_shapes(draw)
    return _mrn_case(draw, qm.mrn_pairwise, draw.two(x_shape, y_shape), size, count)


def euclidean_pairwise(draw: Draw) -> Case:
    x_shape, y_shape, _ = _pairwise_shapes(draw)
    return Case(qm.euclidean_pairwise, draw.two(x_shape, y_shape), {}, TOLERANCE["mrn"])


def _pqe_case(draw: Draw, op: Callable, inputs: list[Tensor], size: int, count: int) -> Case:
    settings = {"dim_per_component": size, "reduction": draw.choice(("sum", "mean", "none"))}
    if settings["reduction"] == "sum" and draw.chance.random() < 0.6:
        shape = (*_weights_shape(draw, inputs, op is qm.pqe_pairwise), count)
        return Case(
            lambda x, y, weights: op(x, y, weights=weights, **settings),
            [*inputs, draw.layout(draw.randn(*shape).abs().to(inputs[0].dtype))],
            {**settings, "weights": shape}, TOLERANCE["pqe"],
        )  # fmt: skip
    return Case(lambda x, y: op(x, y, **settings), inputs, settings, TOLERANCE["pqe"])


def pqe(draw: Draw) -> Case:
    size, count = draw.dim(1100)
    return _pqe_case(draw, qm.pqe, draw.two(*_elementwise_shapes(draw, size * count)), size, count)


def pqe_pairwise(draw: Draw) -> Case:
    x_shape, y_shape, (size, count) = _pairwise_shapes(draw)
    return _pqe_case(draw, qm.pqe_pairwise, draw.two(x_shape, y_shape), size, count)


def poisson(draw: Draw) -> Case:
    # Known: the reference is wrong for rates that are far apart, negative or infinite.
    shape = (*draw.batch(), draw.rows(257), draw.choice((1, 3, 16, 33)))
    b = draw.randn(*shape).abs() * draw.choice((0.1, 1.0, 30.0))
    a = b * (1 + draw.randn(*shape).clamp(-0.5, 2)) + draw.randn(*shape).abs()
    if draw.content == "nan" and a.numel():
        a.view(-1)[draw.chance.randrange(a.numel())] = math.nan
    op = draw.choice((qm.poisson_le, qm.poisson_gt, qm.log_poisson_le))
    inputs = [draw.layout(rates.to(draw.dtype)) for rates in (a, b)]
    units = TOLERANCE["poisson"] if draw.dtype == torch.float64 else (256, 2048)
    return Case(op, inputs, {"op": op.__name__}, units)


def nearest(draw: Draw) -> Case:
    x_shape, y_shape, _ = _pairwise_shapes(draw, least=1)
    x, bank = draw.two(x_shape, y_shape[-2:])
    k = draw.chance.randint(1, bank.shape[0])

    def same_neighbours(actual, expected):
        """The distances are torch's, the same on both sides, so nothing but the selection is compared: exactly."""
        assert torch.equal(actual[1], expected[1]), "other neighbours"

    def metric(x, y):
        return (x - y).abs().sum(dim=-1).float()

    return Case(
        lambda x, y: qm.nearest(x, y, k, metric=metric), [x, bank], {"k": k}, TOLERANCE["nearest"],
        check=same_neighbours,
    )  # fmt: skip


def fsq(draw: Draw) -> Case:
    levels = [draw.choice((2, 3, 4, 5, 8, 17, 100, 1000)) for _ in range(draw.choice((1, 2, 3, 4, 6)))]
    shape = (*draw.batch(), draw.rows(257), len(levels) * draw.choice((1, 2, 5, 33)))
    z = draw.rows_of(*shape)

    def same_codes(actual, expected):
        """But for a digit that is in error by as much as it is from a half."""
        digits = torch.tensor([float(count // 2) for count in levels]).repeat(z.shape[-1] // len(levels))
        ours, theirs = (codes[0].double() * digits for codes in (actual, expected))
        apart = torch.where(ours.isnan() & theirs.isnan(), 0.0, (ours - theirs).abs())
        assert (apart < 1.5).all(), f"digits up to {apart.max()} apart"
        assert (apart > 0.5).sum() <= 1 + 1e-3 * apart.numel(), "many other digits"
        same = (apart < 0.5).unflatten(-1, (-1, len(levels))).all(dim=-1)
        assert torch.equal(actual[1][same], expected[1][same]), "other indices"
        numbers = actual[1] >= 0
        again = qm.fsq_codes(actual[1], levels, actual[0].dtype).unflatten(-1, (-1, len(levels)))
        assert torch.equal(again[numbers], actual[0].unflatten(-1, (-1, len(levels)))[numbers]), "codes of indices"

    return Case(lambda z: qm.fsq(z, levels), [z], {"levels": levels}, TOLERANCE["fsq"], check=same_codes)


# --- Heads.

_REDUCTIONS = tuple(qm.nn.reductions.REDUCTIONS)


def _any_head(draw: Draw, size: int, count: int) -> tuple[torch.nn.Module, int | None]:
    """A head for rows of ``size * count`` values, and the ``sum_over`` of its cases."""
    kind = draw.choice(("IQE", "MRN", "MRNFixed", "LatentMRN", "PQE", "PQELH", "PQEGG", "DeepNorm", "WideNorm"))
    options = draw.chosen(reduction=_REDUCTIONS, transforms=((), ("concave_activation",)), discount=(None, 0.9))
    dim, options = size * count, {**options, "warn_if_not_quasimetric": False}
    torch.manual_seed(draw.chance.randrange(2**31))
    if kind in ("IQE", "PQELH", "PQEGG"):
        head = getattr(qm.nn, kind)(dim, size, **options)
    elif kind == "PQE":
        measure, shape = draw.choice((("lebesgue", "halfline"), ("gaussian", "halfline"), ("gaussian", "gaussian")))
        head = qm.nn.PQE(dim, size, measure, shape, **options)
    elif kind in ("MRN", "MRNFixed"):
        head = getattr(qm.nn, kind)(dim, proj_hidden_size=draw.choice((3, 20)), proj_output_size=5, **options)
    elif kind == "LatentMRN":
        preset = draw.choice(("ogbench", "tmd", "mqe", "etd"))
        head = qm.nn.LatentMRN(dim, count, preset=preset, **options)
    else:
        head = getattr(qm.nn, kind)(dim, draw.choice((2, 6)), **options)
    compute = draw.dtype if draw.dtype == torch.float64 else torch.float32
    return head.to(compute), (size if kind in ("IQE", "LatentMRN") else None)


def head(draw: Draw) -> Case:
    draw.dtype = torch.float64 if draw.dtype == torch.float64 else torch.float32  # that of their parameters
    way = draw.choice(("forward", "forward", "bidirectional", "pairwise", "matrix"))
    if way in ("forward", "bidirectional"):
        size, count = draw.dim(300)
        rows = draw.rows(257)
        x_shape = y_shape = (*draw.batch(), rows, size * count)
    else:
        x_shape, y_shape, (size, count) = _pairwise_shapes(draw)
    module, sum_over = _any_head(draw, size, count)
    parameters = list(module.parameters())

    def call(x, y, *_):
        if way == "matrix":
            return module(x.unsqueeze(-2), y.unsqueeze(-3))
        return module(x, y) if way == "forward" else getattr(module, way)(x, y)

    settings = {"head": str(module).replace("\n", " "), "way": way}
    tolerance = TOLERANCE["poisson" if isinstance(module, qm.nn.PQE) and draw.dtype == torch.float64 else "head"]
    return Case(call, draw.two(x_shape, y_shape) + parameters, settings, tolerance, sum_over=sum_over)


# --- Losses.


def _loss_case(draw: Draw, call: Callable, tensors: list[Tensor], settings: dict, sum_over: int | None = None) -> Case:
    return Case(call, tensors, settings, TOLERANCE["loss"], sum_over=sum_over)


def _embeddings_and_head(draw: Draw, number: int) -> tuple[list[Tensor], Callable, int | None, str]:
    """Batches of one shape, for a head without parameters of a dtype of its own, as losses take them."""
    size, count = draw.dim(200)
    rows = draw.choice([rows for rows in ROWS if 2 <= rows and rows * rows * size * count <= MOST_VALUES] or [2])
    shape = (*draw.choice(([], [], [2])), rows, size * count)
    tensors = [draw.rows_of(*shape) for _ in range(number)]
    kind = draw.choice(("iqe", "iqe", "mrn", "pqe", "function"))
    compute = draw.dtype if draw.dtype == torch.float64 else torch.float32
    if kind == "iqe":
        module = qm.nn.IQE(size * count, size, reduction=draw.choice(("sum", "mean", "max", "maxmean"))).to(compute)
    elif kind == "mrn":
        module = qm.nn.LatentMRN(size * count, count, preset=draw.choice(("tmd", "mqe", "etd"))).to(compute)
    elif kind == "pqe":
        module = qm.nn.PQELH(size * count, size, reduction="mean").to(compute)
    else:

        def module(x, y):
            return qm.iqe(x, y, size, reduction="sum")

    return tensors, module, (None if kind == "pqe" else size), str(module).replace("\n", " ").split(" at ")[0]


def _raw(draw: Draw) -> Tensor:
    return torch.tensor(draw.chance.uniform(-2, 2), dtype=draw.dtype)


def contrastive(draw: Draw) -> Case:
    (x, y), module, sum_over, name = _embeddings_and_head(draw, 2)
    settings = draw.chosen(
        direction=("backward", "forward", "symmetric"), form=("softmax", "sigmoid"), logsumexp_weight=(0.0, 0.1),
        scale=(None, 0.3), streaming=(None, True, False),
    )  # fmt: skip
    if x.shape[-2] > 2 and draw.chance.random() < 0.4:
        settings["offset"] = draw.chance.randint(1, x.shape[-2] - 1)
        x = x[..., : x.shape[-2] - settings["offset"], :]
    return _loss_case(
        draw, lambda x, y: qm.losses.contrastive(module, x, y, **settings), [x, y], {"head": name, **settings}, sum_over
    )


def _clip(draw: Draw) -> float:
    """The divergence jumps at the clip: numbers that tie, small integers, must not meet it."""
    return draw.choice((2.9173, 1.0389)) if draw.content == "ties" else draw.choice((3.0, 1.0))


def linex(draw: Draw) -> Case:
    tensors, module, sum_over, name = _embeddings_and_head(draw, 3)
    settings = draw.chosen(diagonal_weight=(0.5, 0.0, 1.0), streaming=(None, True, False))
    settings["clip"] = _clip(draw)
    settings["log_discount"] = math.log(draw.choice((0.99, 0.5)))
    return _loss_case(
        draw,
        lambda x, y, n: qm.losses.linex(module, x, y, n, **settings),
        tensors,
        {"head": name, **settings},
        sum_over,
    )


def tmd_critic(draw: Draw) -> Case:
    tensors, module, sum_over, name = _embeddings_and_head(draw, 4)
    settings = draw.chosen(
        discount=(0.99, 0.5), zeta=(0.05, 1.0), diagonal_weight=(0.5, 0.0), streaming=(None, True, False)
    )
    settings["clip"] = _clip(draw)
    return _loss_case(
        draw,
        lambda *four: qm.losses.tmd_critic(module, *four, **settings),
        tensors,
        {"head": name, **settings},
        sum_over,
    )


def metric_contrastive(draw: Draw) -> Case:
    tensors, *_ = _embeddings_and_head(draw, 2)
    settings = draw.chosen(step=(1.0, 0.1), weight=(1.0, 0.5), streaming=(None, True, False))
    return _loss_case(draw, lambda z, n: qm.losses.metric_contrastive(z, n, **settings), tensors, settings)


def qrl_critic(draw: Draw) -> Case:
    tensors, module, sum_over, name = _embeddings_and_head(draw, draw.choice((2, 3)))
    settings = draw.chosen(
        epsilon=(0.25, 0.01), softplus_beta=(0.1, 0.01), softplus_offset=(15.0, 500.0), multiplier=("softplus", "exp"),
        threshold=("squared", "plain"), cost=(1.0, 0.5),
    )  # fmt: skip
    return _loss_case(
        draw,
        lambda raw, x, y, goal=None: qm.losses.qrl_critic(module, x, y, raw, goal=goal, **settings),
        [_raw(draw), *tensors], {"head": name, "goal": len(tensors) == 3, **settings}, sum_over,
    )  # fmt: skip


def latent_dynamics(draw: Draw) -> Case:
    tensors, module, sum_over, name = _embeddings_and_head(draw, 2)
    settings = draw.chosen(power=(1, 2))
    return _loss_case(
        draw, lambda x, y: qm.losses.latent_dynamics(module, x, y, **settings), tensors, {"head": name, **settings},
        sum_over,
    )  # fmt: skip


def metra(draw: Draw) -> Case:
    tensors, module, sum_over, name = _embeddings_and_head(draw, 3)
    settings = draw.chosen(norm=("sum", "mean"), slack=(1e-3, 0.1))
    with_head = draw.chance.random() < 0.4
    return _loss_case(
        draw,
        lambda raw, *three: qm.losses.metra(*three, raw, head=module if with_head else None, **settings),
        [_raw(draw), *tensors], {"head": name if with_head else None, **settings}, sum_over if with_head else None,
    )  # fmt: skip


def temporal_consistency(draw: Draw) -> Case:
    steps, rows, size = draw.choice((1, 2, 5)), draw.rows(257, least=1), draw.choice((1, 2, 3, 16, 33, 100, 257))
    predicted, target = (draw.rows_of(steps, rows, size) for _ in range(2))
    constants = [target]
    mask = draw.choice(("none", "bool", "float"))
    if mask != "none":
        kept = draw.randn(steps, rows) > -1
        constants.append(kept if mask == "bool" else kept.to(draw.dtype))
    discount = draw.choice((0.9, 0.5, 1.0))
    # A gradient is weight / |p| times a difference of two unit vectors, which cancel where p and t are parallel: of one
    # value it is 0 but for the rounding of these terms.
    weight = discount ** torch.arange(steps, dtype=torch.float64).view(-1, 1, 1) / rows
    norm = torch.linalg.vector_norm(predicted.double(), dim=-1, keepdim=True)
    return Case(
        lambda p, *others: qm.losses.temporal_consistency(p, *others, discount=discount), [predicted],
        {"mask": mask, "discount": discount}, TOLERANCE["temporal_consistency"], constants=constants,
        terms=weight / norm.clamp(min=1e-8),
    )  # fmt: skip


# --- Ops that nothing above draws: any of their rows of op_cases.py.


def _row_of(op: str) -> Callable[[Draw], Case]:
    rows = [row for row in op_cases.CASES if row.op == op]

    def draw_row(draw: Draw) -> Case:
        row, size = draw.choice(rows), draw.choice((1, 2, 3, 5, 8, 16, 33))
        draw.content = "normal"
        tensors = row.make(draw.generator, draw.rows(100, least=2), size)
        tensors = [one.to(row.dtype_of(i, draw.dtype)) for i, one in enumerate(tensors)]
        tensors = [draw.layout(one) if one.dim() else one for one in tensors]
        places = [*row.with_gradient, *row.no_gradient]  # in the order in which the call gets them

        def call(*given):
            return row.at(size)(*(one for _, one in sorted(zip(places, given, strict=True), key=lambda pair: pair[0])))

        return Case(
            call, [tensors[i] for i in row.with_gradient], {"row": row.name, "size": size}, TOLERANCE["loss"],
            constants=[tensors[i] for i in row.no_gradient],
        )  # fmt: skip

    return draw_row


OPS: dict[str, Callable[[Draw], Case]] = {
    op.__name__: op
    for op in (
        iqe, iqe_pairwise, mrn, mrn_pairwise, euclidean_pairwise, pqe, pqe_pairwise, poisson, nearest, fsq, head,
        contrastive, linex, tmd_critic, metric_contrastive, qrl_critic, latent_dynamics, metra, temporal_consistency,
    )
}  # fmt: skip
DRAWN_BY_LOSSES = {"pair_loss"}
DRAWN_BY_ROWS = sorted({row.op for row in op_cases.CASES} - set(OPS) - DRAWN_BY_LOSSES)
OPS |= {op: _row_of(op) for op in DRAWN_BY_ROWS}


# --- Running and comparing.


@dataclass
class Results:
    names: tuple[str, ...]
    outputs: tuple[Tensor, ...]
    grads: list[Tensor | None]


def _run(case: Case, upstreams: list[Tensor], draw: Draw | None) -> Results:
    """Of the backend in use. The first run draws the upstream gradients; the others are given them."""
    leaves = [given if _is_parameter(given) else given.detach().requires_grad_() for given in case.inputs]
    outputs = case.call(*leaves, *case.constants)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    names = getattr(outputs, "_fields", tuple(map(str, range(len(outputs)))))
    from_here = [output for output in outputs if output.requires_grad]
    if draw is not None:
        upstreams.extend(draw.upstream(output) for output in from_here)
    grads = torch.autograd.grad(from_here, leaves, upstreams, allow_unused=True)
    return Results(names, tuple(output.detach() for output in outputs), list(grads))


def _assert_same_bits(op: str, one: Results, other: Results, when: str) -> None:
    pairs = [*zip(one.outputs, other.outputs, strict=True)]
    if op != "nearest":  # torch adds up the gradient of y[indices] in any order
        pairs += zip(one.grads, other.grads, strict=True)
    for a, b in pairs:
        assert (a is None) == (b is None), f"{op}, {when}: a gradient is missing"
        assert a is None or bool(_same(a, b).all()), f"{op}, {when}: other bits"


def _assert_near(
    what: str, actual: Tensor, expected: Tensor, units: float, least_scale: float | Tensor, tied: Tensor | None = None,
    where_finite: bool = False, without_overflow: bool = False,
) -> None:  # fmt: skip
    """``least_scale``: a number that the largest of ``expected`` is held against, or the scale of each value.
    ``tied``: components of (..., C, 1) whose sums are compared, (..., C * K) being the shape of the tensors."""
    assert actual.dtype == expected.dtype and actual.shape == expected.shape, f"{what}: {actual.dtype} {actual.shape}"
    dtype = actual.dtype
    if not dtype.is_floating_point:
        assert torch.equal(actual, expected), f"{what} differs"
        return
    eps = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
    actual, expected = actual.double(), expected.double()
    scale = least_scale if isinstance(least_scale, Tensor) else max(least_scale, _largest(expected))
    bound = torch.zeros_like(expected) + units * eps * scale
    if dtype not in (torch.float32, torch.float64):
        # Tied ends may cancel in a sum, of which each is rounded: those of either side count.
        rounded = torch.maximum(actual.abs(), expected.abs()).nan_to_num(0, 0, 0).clamp(min=torch.finfo(dtype).tiny)
        bound += 2 * torch.finfo(dtype).eps * rounded
    if tied is not None:
        actual, expected, bound = (_summed_where(tied, values) for values in (actual, expected, bound))
    if where_finite:  # after the sums: of tied ends another may be the infinite one
        actual = torch.where(expected.isfinite(), actual, expected)
    if without_overflow:
        actual, expected = (_without_overflow(values, dtype) for values in (actual, expected))
    wrong = ~(_same(actual, expected) | ((actual - expected).abs() <= bound))
    if wrong.any():
        place = tuple(wrong.nonzero()[0].tolist())
        raise AssertionError(
            f"{what}{list(place)} is {actual[place].item():.9g}, the reference has {expected[place].item():.9g} "
            f"(allowed {bound[place].item():.3g}); {int(wrong.sum())} of {wrong.numel()} differ"
        )


def _summed_where(tied: Tensor, values: Tensor) -> Tensor:
    """The sum over a component in place of each of its values, where ``tied``."""
    count = tied.shape[-2]
    values = values.unflatten(-1, (count, values.shape[-1] // max(count, 1)))
    return torch.where(tied, values.sum(dim=-1, keepdim=True), values).flatten(-2)


def _tied(given: Tensor, size: int, everywhere: bool) -> Tensor | None:
    """Which components of an input, (..., C, 1), have equal values or, ``everywhere``, may have equal differences.
    Random numbers meet too: of some thousand in float32 two are equal in one case of a hundred."""
    if given.dim() == 0 or given.shape[-1] % size:
        return None
    components = given.detach().unflatten(-1, (-1, size))
    meet = components.double().sort(dim=-1).values.diff(dim=-1) == 0
    return meet.any(dim=-1, keepdim=True) | everywhere


# Known, and being mended: a NaN in a row of y gives some gradients of IQE 0 or that of numbers; far distances cancel in
# the matrix form of pairwise losses, whose sums of the largest numbers also overflow in another order.
HEADS_WITHOUT_NAN_GRADIENTS = ("IQE", "<function")
INFINITE_NOT_COMPARED = ("contrastive", "linex", "tmd_critic", "metric_contrastive")


def _compare(op: str, case: Case, draw: Draw, actual: Results, expected: Results, upstreams: list[Tensor]) -> None:
    if draw.content == "infinite" and op in INFINITE_NOT_COMPARED:
        return
    if case.check is not None:
        case.check(actual.outputs, expected.outputs)
    else:
        scale = max(_largest(output) for output in expected.outputs)
        for i, pair in enumerate(zip(actual.outputs, expected.outputs, strict=True)):
            if expected.names[i] == "accuracy" and not _accuracy_is_defined(case, draw):
                continue
            _assert_near(
                f"output {expected.names[i]}", *pair, case.tolerance[0], scale,
                without_overflow=draw.content == "infinite",
            )  # fmt: skip
    is_iqe = op.startswith("iqe") or str(case.settings.get("head")).startswith(HEADS_WITHOUT_NAN_GRADIENTS)
    if draw.content == "nan" and is_iqe:
        return
    scale = max((_largest(grad) for grad in upstreams), default=0.0)
    ties = draw.content in ("ties", "equal rows", "denormal", "infinite")  # infinities tie as the largest number
    ties = ties or draw.dtype in (torch.bfloat16, torch.float16)
    # A projector's bias moves x and y alike: its gradient is 0 but for the rounding of terms as large as its weights'.
    pairs = zip(case.inputs, expected.grads, strict=True)
    of_parameters = max(
        (_largest(grad) for given, grad in pairs if _is_parameter(given) and grad is not None), default=0
    )
    for i, (ours, theirs, given) in enumerate(zip(actual.grads, expected.grads, case.inputs, strict=True)):
        assert (ours is None) == (theirs is None), f"gradient {i} is {ours}, the reference has {theirs}"
        if ours is None:
            continue
        if draw.content in ("nan", "infinite", "denormal"):
            # 0 times NaN is NaN by one formula and 0 where a mask selects: what is defined is that a row with NaN has a
            # gradient with NaN. Squares of denormal numbers are 0.
            if draw.content == "nan" and op in OPS_OF_ROWS and given.dim() > 1:
                no_number = given.isnan().any(dim=-1) & theirs.isnan().any(dim=-1)
                assert ours.isnan().any(dim=-1)[no_number].all(), f"gradient {i} of a row with NaN is a number"
        least_scale = max(scale, of_parameters) if _is_parameter(given) else scale
        _assert_near(
            f"gradient {i}", ours, theirs, case.tolerance[1], least_scale if case.terms is None else scale * case.terms,
            tied=None if case.sum_over is None else _tied(given, case.sum_over, ties),
            where_finite=draw.content in ("nan", "infinite", "denormal"),
            without_overflow=draw.content == "infinite",
        )  # fmt: skip


OPS_OF_ROWS = ("iqe", "iqe_pairwise", "mrn", "mrn_pairwise", "euclidean_pairwise", "pqe", "pqe_pairwise")


def _accuracy_is_defined(case: Case, draw: Draw) -> bool:
    """Not where the largest logit is one of many that tie but for rounding, as PQE's distances of nearly 1 do; and not
    that of a sigmoid loss that is NaN: the kernel counts rows whose maximum leaves NaN out."""
    saturates = str(case.settings["head"]).startswith("PQE")
    return not saturates and not (draw.content == "nan" and case.settings.get("form") == "sigmoid")


def _without_overflow(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Sums in double do not overflow where those in float do, and of two products one may: so far out all are alike."""
    far = torch.finfo(dtype).max / 1024
    return values.clamp(-far, far)


def _is_parameter(given: Tensor) -> bool:
    return isinstance(given, torch.nn.Parameter)


def _same(actual: Tensor, expected: Tensor) -> Tensor:
    """Where they are equal, infinities and NaN included."""
    return (actual == expected) | (actual.isnan() & expected.isnan())


def _largest(tensor: Tensor) -> float:
    finite = tensor[tensor.isfinite()]
    return finite.abs().max().item() if finite.numel() else 0.0


def make_case(seed: int, number: int, op: str | None = None) -> tuple[str, Draw, Case]:
    op = op or list(OPS)[number % len(OPS)]
    draw = Draw(seed, number)
    return op, draw, OPS[op](draw)


def describe(op: str, draw: Draw, case: Case) -> str:
    shapes = " ".join(f"{tuple(tensor.shape)}/{tensor.stride()}" for tensor in case.inputs[:4])
    return f"{op}: {shapes} {draw.dtype} {draw.content} scale {draw.scale} threads {draw.threads} {case.settings}"


def run_case(seed: int, number: int) -> str:
    """Runs a case and returns its op's name; an AssertionError, or what the op raised, says which case it is."""
    op, draw, case = make_case(seed, number)
    threads = torch.get_num_threads()
    torch.set_num_threads(draw.threads)
    try:
        upstreams: list[Tensor] = []
        with qm.use_backend("cpu"):
            actual = _run(case, upstreams, draw)
            _assert_same_bits(op, actual, _run(case, upstreams, None), "again")  # now its launches are repeated
        with qm.use_backend("reference"):
            expected = _run(case, upstreams, None)
        _compare(op, case, draw, actual, expected, upstreams)
    except Exception as error:
        isa = qm.backends.native.core.isa_in_use()
        raise AssertionError(
            f"{error if isinstance(error, AssertionError) else repr(error)}\n{describe(op, draw, case)}\n"
            f"repeat: python python_tests/fuzz.py --seed {seed} --case {number} --isa {isa}"
        ) from error
    finally:
        torch.set_num_threads(threads)
    return op


def run_threads(num_threads: int, seconds: float, seed: int, num_cases: int = 200) -> int:
    """Runs cases from many threads until the time is up and returns how many; every bit is what it was alone."""
    ops, _, cases = zip(*(make_case(seed, number) for number in range(num_cases)), strict=True)
    upstreams: list[list[Tensor]] = [[] for _ in cases]
    alone = [_run(case, grads, Draw(seed, i)) for i, (case, grads) in enumerate(zip(cases, upstreams, strict=True))]
    end, counts, failures = time.monotonic() + seconds, collections.Counter(), []

    def work(thread: int) -> None:
        chance = random.Random(thread)
        try:
            while time.monotonic() < end and not failures:
                i = chance.randrange(len(cases))
                again = _run(cases[i], upstreams[i], None)
                _assert_same_bits(ops[i], alone[i], again, f"case {i} in a thread")
                counts[thread] += 1
        except Exception:
            failures.append(traceback.format_exc())

    workers = [threading.Thread(target=work, args=(thread,)) for thread in range(num_threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures, failures[0]
    return counts.total()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="run the case of this number alone")
    parser.add_argument("--isa", help="baseline, avx2 or avx512; default: the best of this processor")
    parser.add_argument("--seconds", type=float, help="stop after this long")
    parser.add_argument("--threads", type=int, help="run from so many threads at once, for --seconds")
    parser.add_argument("--keep-going", action="store_true", help="after a failure, with the next case")
    given = parser.parse_args()
    if given.isa:
        os.environ["QMKERNELS_ISA"] = given.isa  # read at the first call of a kernel
    print(f"fuzz: {qm.backends.native.core.isa_in_use()}, seed {given.seed}", flush=True)
    if given.threads:
        print(f"{run_threads(given.threads, given.seconds or 10, given.seed)} cases in {given.threads} threads agree")
        return 0
    numbers = [given.case] if given.case is not None else range(given.first, given.first + given.cases)
    counts: collections.Counter[str] = collections.Counter()
    failures, begin = 0, time.monotonic()
    for number in numbers:
        if given.seconds and time.monotonic() - begin > given.seconds:
            break
        try:
            counts[run_case(given.seed, number)] += 1
        except AssertionError as failure:
            failures += 1
            print(f"FAILED: {failure}", flush=True)
            if not given.keep_going:
                break
    print(" ".join(f"{op} {count}" for op, count in counts.items()))
    print(f"{counts.total()} cases agree, {failures} failed, {time.monotonic() - begin:.0f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
