"""Random cases of the heads and of the losses."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from fuzz_draws import MOST_VALUES, ROWS, TOLERANCE, Case, Draw
from fuzz_ops import pairwise_shapes
from torch import Tensor

import qmkernels as qm

# --- Heads.

_REDUCTIONS = tuple(qm.nn.reductions.REDUCTIONS)


def _any_head(draw: Draw, size: int, count: int) -> tuple[torch.nn.Module, int | None]:
    """Draws a head for rows of ``size * count`` values, and the ``sum_over`` of its cases."""
    kind = draw.choice(
        ("IQE", "MRN", "MRNFixed", "LatentMRN", "PQE", "PQELH", "PQEGG", "DeepNorm", "WideNorm", "Simple")
    )
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
        preset = draw.choice(("ogbench", "tmd", "mqe", "etd", "x_jepa"))
        head = qm.nn.LatentMRN(dim, count, preset=preset, to_minus_from=draw.choice((False, True)), **options)
    elif kind == "Simple":
        head = qm.nn.Simple(dim, **options)
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
        x_shape, y_shape, (size, count) = pairwise_shapes(draw)
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
    """Draws batches of one shape, as losses take them, and a head whose parameters have no dtype of their own."""
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
    options, window = settings, None
    if settings.get("form", "softmax") == "softmax" and draw.chance.random() < 0.4:
        goals, window = y.shape[draw.choice((-2, 0)) : -1], draw.choice((0, 2, 50))
        clip, time = (torch.randint(0, most, goals, generator=draw.generator) for most in (3, 60))
        options = settings | {"exclude": (clip, time, window), "label_smoothing": draw.choice((0.0, 0.1))}
    return _loss_case(
        draw, lambda x, y: qm.losses.contrastive(module, x, y, **options), [x, y],
        {"head": name, "window": window, **settings}, sum_over,
    )  # fmt: skip


def _clip(draw: Draw) -> float:
    """Draws a clip that small integers, which tie, never hit, because the divergence jumps there."""
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


def coulomb_repulsion(draw: Draw) -> Case:
    points, module, sum_over, name = _embeddings_and_head(draw, 1)
    settings = draw.chosen(eps=(1.0, 0.1), streaming=(None, True, False))
    return _loss_case(
        draw, lambda z: qm.losses.coulomb_repulsion(module, z, **settings), points, {"head": name, **settings}, sum_over
    )


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


def _rows_of_steps(draw: Draw, x: Tensor) -> dict:
    """Draws numbers of steps that no distance equals exactly, and sometimes weights and a mask."""
    rows = x.shape[:-1] if draw.chance.random() < 0.7 else x.shape[-2:-1]
    arguments = {"steps": draw.randn(*rows).abs().mul(draw.scale).add(0.137).to(draw.dtype)}
    if draw.chance.random() < 0.4:
        arguments["weight"] = draw.layout(draw.randn(*rows).to(draw.dtype))
    if draw.chance.random() < 0.4:
        arguments["mask"] = draw.randn(*rows) > -0.5
    return arguments


def step_gap(draw: Draw) -> Case:
    tensors, module, sum_over, name = _embeddings_and_head(draw, 2)
    settings = draw.chosen(
        form=("smooth_l1", "squared", "relative", "upper", "apart"), beta=(1.0, 0.1), power=(1.0, 2.0, 1.5)
    )
    per_row = _rows_of_steps(draw, tensors[0])
    return _loss_case(
        draw, lambda x, y: qm.losses.step_gap(module, x, y, **per_row, **settings), tensors,
        {"head": name, "per row": list(per_row), **settings}, sum_over,
    )  # fmt: skip


def expectile_backup(draw: Draw) -> Case:
    (x, goal, following), module, sum_over, name = _embeddings_and_head(draw, 3)
    settings = draw.chosen(
        discount=(0.99, 0.5), cost=("steps", "discounted"), expectile=(0.1, 0.9), huber_delta=(None, 0.5)
    )
    per_row = _rows_of_steps(draw, x)
    if draw.chance.random() < 0.5:
        per_row |= {"reached": draw.randn(*x.shape[:-1]) > 0.5, "distance": 0.137}
    return _loss_case(
        draw, lambda x, goal: qm.losses.expectile_backup(module, x, goal, following, **per_row, **settings), [x, goal],
        {"head": name, "per row": list(per_row), **settings}, sum_over,
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
    # A gradient is weight / |p| times a difference of two unit vectors, which cancel where p and t are parallel: for
    # single values it is 0 up to the rounding of these terms.
    weight = discount ** torch.arange(steps, dtype=torch.float64).view(-1, 1, 1) / rows
    norm = torch.linalg.vector_norm(predicted.double(), dim=-1, keepdim=True)
    return Case(
        lambda p, *others: qm.losses.temporal_consistency(p, *others, discount=discount), [predicted],
        {"mask": mask, "discount": discount}, TOLERANCE["temporal_consistency"], constants=constants,
        terms=weight / norm.clamp(min=1e-8),
    )  # fmt: skip
