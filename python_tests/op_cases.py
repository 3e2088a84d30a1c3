"""A table of every op in every form: what to call, and on which tensors.

The op contract (test_op_contract.py) and the tests on a GPU (test_cuda.py) are generic tests over these rows. A new op
adds its rows here. A row excepts the claims that do not hold, with a reason that pytest prints.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import pytest
import torch
from torch import Tensor

import qmkernels as qm

CLAIMS = ("gradcheck", "independent rows", "empty batch")


@dataclass(frozen=True)
class Case:
    """One op in one form, as a function from tensors to the tensor that is differentiated."""

    name: str
    op: str  # its name in csrc/ops.cmake
    at: Callable[[int], Callable[..., Tensor]]  # (values per component) -> function of the tensors
    make: Callable[..., list[Tensor]]  # (generator, rows, size) -> float64 tensors without ties
    kind: str = "rows"  # one result per row; or "pairs", per row of the first and second tensor; or "loss"
    no_gradient: tuple[int, ...] = ()  # indices of tensors without a gradient
    held: tuple[int, ...] = ()  # indices of those whose gradient, by definition, is not the value's derivative
    parameters: tuple[int, ...] = ()  # indices of a head's parameters, which stay float32 with half embeddings
    excepted: dict[str, str] = field(default_factory=dict)  # claim -> why it does not hold

    def __post_init__(self) -> None:
        assert set(self.excepted) <= set(CLAIMS), self.excepted

    @property
    def with_gradient(self) -> list[int]:
        return [i for i in range(len(self.tensors())) if i not in self.no_gradient]

    def tensors(self, dtype=torch.float64, *, size=5, rows=4, seed=0, device="cpu") -> list[Tensor]:
        """Makes new leaves for the function ``at(size)``; those with a gradient require it."""
        tensors = self.make(torch.Generator().manual_seed(seed), rows, size)
        tensors = [tensor.to(device, self.dtype_of(i, dtype)) for i, tensor in enumerate(tensors)]
        return [tensor.requires_grad_(i not in self.no_gradient) for i, tensor in enumerate(tensors)]

    def detached(self, *arguments, **options) -> list[Tensor]:
        return [tensor.detach() for tensor in self.tensors(*arguments, **options)]

    def dtype_of(self, place: int, dtype: torch.dtype) -> torch.dtype:
        return torch.float32 if place in self.parameters and dtype.itemsize < 4 else dtype


def every(claim: str = "") -> pytest.MarkDecorator:
    """Parametrises ``case`` over all rows, and skips those that except the claim."""
    assert not claim or claim in CLAIMS, claim

    def parameter(case):
        marks = [pytest.mark.skip(case.excepted[claim])] if claim in case.excepted else []
        return pytest.param(case, id=case.name, marks=marks)

    return pytest.mark.parametrize("case", list(map(parameter, CASES)))


# --- Tensors.


def _points(generator, *shape) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _rows(count=2, *others, more=0):
    """Makes ``count`` tensors of points, the second with ``more`` rows, and constant others."""

    def make(generator, rows, size):
        points = [_points(generator, rows + more * (i == 1), 3 * size) + 0.4 * i for i in range(count)]
        return points + [torch.tensor(value, dtype=torch.float64) for value in others]

    return make


_pairs = partial(_rows, more=2)


def _with_one_goal(generator, rows, size):
    return [_points(generator, rows, 3 * size), _points(generator, 1, 3 * size) + 0.4, torch.tensor(0.3).double()]


def _along_first(weights: Tensor, dims: int, *sizes: int) -> Tensor:
    """Puts the weights of an ensemble's two members, ``sizes`` each, along the first of ``dims`` dimensions."""
    return weights.reshape(2, *[1] * (dims - 1), *sizes)


def _rates(generator, rows, size):
    return [3 * torch.rand(rows, size, generator=generator, dtype=torch.float64) + 0.05 for _ in "ab"]


def _graphs(generator, rows, size):
    """Makes the lengths between five nodes of each graph, some of them not worth taking."""
    return [torch.rand(rows, 5, 5, generator=generator, dtype=torch.float64) ** 2 + 0.05]


def _steps(generator, rows, size):
    """Makes phi, phi_next, skill and log_multiplier; some steps are longer than one, others shorter."""
    phi, step, skill = _points(generator, 3, rows, 3 * size)
    length = torch.linspace(0.1, 2, rows, dtype=torch.float64).unsqueeze(-1)
    return [phi, phi + length * torch.nn.functional.normalize(step, dim=-1), skill, torch.tensor(0.3).double()]


def _away_from_middles(generator, rows, size):
    """Makes values that all backends round to the same level."""
    z = 2 * _points(generator, rows, 3 * size)
    low, high = (qm.fsq(z + nudge, _LEVELS, backend="reference").codes for nudge in (-1e-4, 1e-4))
    return [z.masked_fill(low != high, 0.1)]


def _latents(generator, rows, size):
    """Makes predicted, target and a mask."""
    latents = _points(generator, 2, 3, rows, 3 * size)
    mask = (torch.rand(3, rows, generator=generator) > 0.3).double()
    return [latents[0], latents[1] + 0.5 * latents[0], mask]


# --- Losses of a head: an IQE, whose parameter, if any, is a tensor like the others.


class _LossOfHead(torch.nn.Module):
    def __init__(self, head: torch.nn.Module, loss: Callable) -> None:
        super().__init__()
        self.head, self.loss = head, loss

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.loss(self.head, *tensors).loss


def _of_iqe(loss: Callable, reduction: str = "maxmean"):
    def at(size):
        module = _LossOfHead(qm.nn.IQE(3 * size, size, reduction=reduction), loss)
        if reduction != "maxmean":
            return module.double()
        return lambda weight, *tensors: torch.func.functional_call(
            module, {"head.reduction.raw_alpha": weight}, tensors
        )

    return at


def _weight_first(make: Callable):
    return lambda generator, rows, size: [torch.tensor(-0.8).double(), *make(generator, rows, size)]


def _of_mrn(loss: Callable):
    return lambda size: lambda *tensors: loss(partial(qm.mrn, num_components=3), *tensors).loss


def _contrastive(**options):
    return _of_mrn(partial(qm.losses.contrastive, logsumexp_weight=0.1, **options))


def _contrastive_of_clips(head, x, y):
    """Clips of three goals, of which neighbours are near; each goal has a potential."""
    time = torch.arange(y.shape[-2], device=y.device)
    return qm.losses.contrastive(head, x, y, direction="symmetric", exclude=(time // 3, time, 1), potential=y[..., 0])


# Distances on both sides of the softplus's offset and of the cost.
_QRL = {"softplus_beta": 0.3, "softplus_offset": 3.0}


def _with_goal(generator, rows, size):
    """Makes x, y, goal, the raw multiplier and one cost per row."""
    x, y, goal = (_points(generator, rows, 3 * size) + 0.4 * i for i in range(3))
    return [x, y, goal, torch.tensor(0.3).double(), torch.rand(rows, generator=generator, dtype=torch.float64)]


def _with_discounts(generator, rows, size):
    return [*_rows(3)(generator, rows, size), -torch.rand(rows, generator=generator, dtype=torch.float64)]


def _with_steps(count: int):
    """Makes rows, a number of steps for each, some below and some above the distances, and a weight for each."""

    def make(generator, rows, size):
        steps = torch.linspace(0.3, 7, rows, dtype=torch.float64)
        return [*_rows(count)(generator, rows, size), steps, torch.linspace(0.5, 2, rows, dtype=torch.float64)]

    return make


def _of_latent_mrn(loss: Callable):
    return lambda size: _LossOfHead(qm.nn.LatentMRN(3 * size, 3), loss)


def _step_gap(head, x, y, steps, weight, **options):
    return qm.losses.step_gap(head, x, y, steps, weight=weight, **options)


def _expectile_backup(head, x, goal, next, steps, weight):
    return qm.losses.expectile_backup(
        head, x, goal, next, steps=steps, weight=weight, discount=0.9, cost="discounted", expectile=0.8, huber_delta=1.0
    )


_LEVELS = (8, 5, 3)
_IS_A_MEAN = {"empty batch": "a mean over no rows is refused, with a ValueError"}
_OF_TWO_PARTS = {**_IS_A_MEAN, "gradcheck": "one term holds the multiplier fixed, another all the rest"}
_OF_ALL_PAIRS = {**_IS_A_MEAN, "independent rows": "every row is held against all others"}
_MRN_COMPONENTS = {
    "asymmetric": "second", "squares": "mean", "exponent": 1.5, "eps_form": "max", "reduction": "none", "scale": 0.5,
}  # fmt: skip

CASES = (
    Case("iqe", "iqe", lambda k: lambda x, y, w: qm.iqe(x, y, k, max_weight=w), _rows(2, 0.3)),
    Case(
        "iqe-ensemble", "iqe",
        lambda k: lambda x, y, w: qm.iqe(x.expand(2, *x.shape), y, k, max_weight=_along_first(w, x.dim())).sum(dim=0),
        _rows(2, [0.3, 0.7]),
    ),
    *(
        Case(f"iqe-{name}", "iqe", lambda k, name=name: partial(qm.iqe, dim_per_component=k, reduction=name), _rows())
        for name in ("none", "sum", "max")
    ),
    Case(
        "iqe_pairwise", "iqe", lambda k: lambda x, y, w: qm.iqe_pairwise(x, y, k, max_weight=w), _pairs(2, 0.3), "pairs"
    ),
    Case(
        "iqe_pairwise-ensemble", "iqe",
        lambda k: lambda x, y, w: qm.iqe_pairwise(
            x.expand(2, *x.shape), y, k, max_weight=_along_first(w, x.dim() + 1)
        ).sum(dim=0),
        _pairs(2, [0.3, 0.7]), "pairs",
    ),
    *(
        Case(
            f"iqe_pairwise-{name}", "iqe",
            lambda k, name=name: partial(qm.iqe_pairwise, dim_per_component=k, reduction=name), _pairs(), "pairs",
        )
        for name in ("none", "sum", "max")
    ),
    Case(
        "iqe_pairwise-one goal", "iqe", lambda k: lambda x, y, w: qm.iqe_pairwise(x, y, k, max_weight=w),
        _with_one_goal, "pairs", excepted={"independent rows": "every row is held against the one goal"},
    ),
    Case("mrn", "mrn", lambda k: partial(qm.mrn, num_components=3, preset="tmd"), _rows()),
    Case("mrn-none", "mrn", lambda k: partial(qm.mrn, num_components=3, **_MRN_COMPONENTS), _rows()),
    Case("mrn_pairwise", "mrn", lambda k: partial(qm.mrn_pairwise, num_components=3, preset="tmd"), _pairs(), "pairs"),
    Case(
        "mrn_pairwise-none", "mrn", lambda k: partial(qm.mrn_pairwise, num_components=3, **_MRN_COMPONENTS), _pairs(),
        "pairs",
    ),
    Case(
        "mrn_pairwise-to minus from", "mrn",
        lambda k: partial(qm.mrn_pairwise, num_components=3, preset="mqe", to_minus_from=True), _pairs(), "pairs",
    ),
    Case("euclidean_pairwise", "mrn", lambda k: qm.euclidean_pairwise, _pairs(), "pairs"),
    Case("pqe", "pqe", lambda k: lambda x, y, w: qm.pqe(x, y, k, weights=w), _rows(2, [0.3, 1.2, 0.7])),
    Case(
        "pqe-ensemble", "pqe",
        lambda k: lambda x, y, w: qm.pqe(x.expand(2, *x.shape), y, k, weights=_along_first(w, x.dim(), 3)).sum(dim=0),
        _rows(2, [0.3, 1.2, 0.7, 0.9, 0.4, 0.1]),
    ),
    Case(
        "pqe_pairwise-ensemble", "pqe",
        lambda k: lambda x, y, w: qm.pqe_pairwise(
            x.expand(2, *x.shape), y, k, weights=_along_first(w, x.dim() + 1, 3)
        ).sum(dim=0),
        _pairs(2, [0.3, 1.2, 0.7, 0.9, 0.4, 0.1]), "pairs",
    ),
    Case("pqe-none", "pqe", lambda k: partial(qm.pqe, dim_per_component=k, reduction="none"), _rows()),
    Case(
        "pqe_pairwise", "pqe", lambda k: lambda x, y, w: qm.pqe_pairwise(x, y, k, weights=w),
        _pairs(2, [0.3, 1.2, 0.7]), "pairs",
    ),
    Case(
        "pqe_pairwise-none", "pqe", lambda k: partial(qm.pqe_pairwise, dim_per_component=k, reduction="none"),
        _pairs(), "pairs",
    ),
    Case("poisson_le", "poisson", lambda k: qm.poisson_le, _rates),
    Case("poisson_gt", "poisson", lambda k: qm.poisson_gt, _rates),
    Case("log_poisson_le", "poisson", lambda k: qm.log_poisson_le, _rates),
    Case(
        "fsq", "fsq", lambda k: lambda z: qm.fsq(z, _LEVELS).codes, _away_from_middles,
        excepted={"gradcheck": "straight-through: the gradient is that of the values before they are rounded"},
    ),
    Case(
        "nearest", "nearest",
        lambda k: lambda x, y: qm.nearest(x, y, 2, metric=partial(qm.mrn, num_components=3)).values, _pairs(), "pairs",
        excepted={
            "independent rows": "a row of the bank with a NaN comes after every number, and is not found",
            "empty batch": "an empty bank is refused, with a ValueError",
        },
    ),
    Case(
        "shortest_paths", "shortest_paths", lambda k: qm.shortest_paths, _graphs,
        excepted={"independent rows": "a NaN is in a whole graph: test_shortest_paths.py"},
    ),
    # The multiplier is maximised: its gradient has the opposite sign.
    Case(
        "qrl_critic", "qrl_critic",
        _of_iqe(lambda head, x, y, raw: qm.losses.qrl_critic(head, x, y, raw, **_QRL)), _weight_first(_rows(2, 0.3)),
        "loss", held=(3,), parameters=(0,), excepted=_IS_A_MEAN,
    ),
    Case(
        "qrl_critic-goal", "qrl_critic",
        _of_iqe(
            lambda head, x, y, goal, raw, cost: qm.losses.qrl_critic(
                head, x, y, raw, goal=goal, cost=cost, multiplier="exp", threshold="plain", **_QRL
            ),
            "sum",
        ),
        _with_goal, "loss", no_gradient=(4,), held=(3,), excepted=_IS_A_MEAN,
    ),
    Case(
        "latent_dynamics", "latent_dynamics", _of_iqe(qm.losses.latent_dynamics), _weight_first(_rows()), "loss",
        parameters=(0,), excepted=_IS_A_MEAN,
    ),
    Case(
        "latent_dynamics-max", "latent_dynamics", _of_iqe(partial(qm.losses.latent_dynamics, power=1), "max"), _rows(),
        "loss", excepted=_IS_A_MEAN,
    ),
    *(
        Case(
            name, "metra", lambda k, norm=norm: lambda *tensors: qm.losses.metra(*tensors, norm=norm).loss, _steps,
            "loss", held=(3,),
            excepted=_OF_TWO_PARTS,
        )
        for name, norm in (("metra", "sum"), ("metra-mean", "mean"))
    ),
    Case(
        "temporal_consistency", "temporal_consistency",
        lambda k: lambda *tensors: qm.losses.temporal_consistency(*tensors).loss, _latents, "loss",
        no_gradient=(1, 2), excepted=_IS_A_MEAN,
    ),
    *(
        Case(
            f"contrastive-{name}", "pair_loss", _contrastive(**options),
            _rows(), "loss", excepted=_OF_ALL_PAIRS,
        )
        for name, options in (
            ("backward", {}), ("forward", {"direction": "forward"}), ("symmetric", {"direction": "symmetric"}),
            ("sigmoid", {"form": "sigmoid"}),
        )
    ),
    Case(
        "contrastive-near goals left out", "pair_loss", _of_mrn(_contrastive_of_clips), _rows(), "loss",
        excepted=_OF_ALL_PAIRS,
    ),
    Case(
        "metra-head", "iqe",
        lambda k: lambda *tensors: qm.losses.metra(*tensors, head=partial(qm.iqe, dim_per_component=k)).loss, _steps,
        "loss", held=(3,), excepted=_OF_TWO_PARTS,
    ),
    # Distances after a step get no gradient: y and the next state have only part of the derivative.
    Case(
        "linex", "pair_loss", _of_mrn(partial(qm.losses.linex, log_discount=-0.1)), _rows(3), "loss", no_gradient=(2,),
        held=(1,), excepted=_OF_ALL_PAIRS,
    ),
    Case(
        "linex-a discount a row", "pair_loss",
        _of_mrn(lambda head, x, y, then, log: qm.losses.linex(head, x, y, then, log_discount=log)), _with_discounts,
        "loss", no_gradient=(2, 3), held=(1,), excepted=_OF_ALL_PAIRS,
    ),
    Case(
        "tmd_critic", "pair_loss", _of_mrn(qm.losses.tmd_critic), _rows(4), "loss", no_gradient=(2,), held=(3,),
        excepted=_OF_ALL_PAIRS,
    ),
    Case(
        "step_gap", "row_loss", _of_iqe(_step_gap), _weight_first(_with_steps(2)), "loss", no_gradient=(3, 4),
        parameters=(0,), excepted=_IS_A_MEAN,
    ),
    Case(
        "step_gap-relative", "row_loss", _of_latent_mrn(partial(_step_gap, form="relative")), _with_steps(2), "loss",
        no_gradient=(2, 3), excepted=_IS_A_MEAN,
    ),
    # The target gets no gradient: the goal has only part of the derivative.
    Case(
        "expectile_backup", "row_loss", _of_iqe(_expectile_backup, "sum"), _with_steps(3), "loss",
        no_gradient=(2, 3, 4), held=(1,), excepted=_IS_A_MEAN,
    ),
    Case(
        "metric_contrastive", "pair_loss", lambda k: lambda z, then: qm.losses.metric_contrastive(z, then).loss,
        _rows(), "loss", excepted=_OF_ALL_PAIRS,
    ),
    Case(
        "coulomb_repulsion", "pair_loss", _of_mrn(partial(qm.losses.coulomb_repulsion, eps=0.3)), _rows(1), "loss",
        excepted=_OF_ALL_PAIRS,
    ),
)  # fmt: skip
