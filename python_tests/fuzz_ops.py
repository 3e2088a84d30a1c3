"""Random cases of the public ops."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from fuzz_draws import MOST_VALUES, TOLERANCE, Case, Draw
from torch import Tensor

import qmkernels as qm


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


def pairwise_shapes(draw: Draw, least: int = 0) -> tuple[tuple, tuple, tuple[int, int]]:
    """Draws the shapes of x and y, and the size and number of components."""
    batch = draw.batch()
    budget = MOST_VALUES // max(1, math.prod(batch))
    num_x = draw.rows(budget, least)
    num_y = draw.rows(budget // max(num_x, 1), least)
    size, count = draw.dim(min(1100, budget // max(num_x * num_y, num_x + num_y, 1)))
    return (*batch, num_x, size * count), (*batch, num_y, size * count), (size, count)


def _weights_shape(draw: Draw, inputs: list[Tensor], pairwise: bool) -> tuple[int, ...]:
    """Draws the shape of weights: for all distances, per member of an ensemble, or per row."""
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
    x_shape, y_shape, (size, _) = pairwise_shapes(draw)
    return _iqe_case(draw, qm.iqe_pairwise, draw.two(x_shape, y_shape), size)


def _mrn_settings(draw: Draw, count: int) -> dict[str, Any]:
    presets = ("torchqmet", "torchqmet_fixed", "ogbench", "tmd", "mqe", "etd", "x_jepa")
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
    x_shape, y_shape, (size, count) = pairwise_shapes(draw)
    return _mrn_case(draw, qm.mrn_pairwise, draw.two(x_shape, y_shape), size, count)


def euclidean_pairwise(draw: Draw) -> Case:
    x_shape, y_shape, _ = pairwise_shapes(draw)
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
    x_shape, y_shape, (size, count) = pairwise_shapes(draw)
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
    x_shape, y_shape, _ = pairwise_shapes(draw, least=1)
    x, bank = draw.two(x_shape, y_shape[-2:])
    k = draw.chance.randint(1, bank.shape[0])

    def same_neighbours(actual, expected):
        """Compares only the selection, exactly: the distances are torch's, the same on both sides."""
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
        """Compares codes, except digits whose error is as large as their distance from a half."""
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
