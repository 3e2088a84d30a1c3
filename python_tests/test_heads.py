"""Promises of every head: one distance in every form, a quasimetric if it claims so, and torchqmet's numbers."""

from __future__ import annotations

import copy
import importlib
import os
import pickle
import warnings

import pytest
import torch
from head_cases import HEADS, SIZE, make
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import qmkernels as qm
from qmkernels.nn import row_blocks

# One of each class, and those in which Python takes another branch; reductions are a table of functions.
OF_OTHER_CODE = [name for name, (class_name, _, _) in HEADS.items() if name == class_name]
OF_OTHER_CODE += ["IQE concave", "PQEGG discount", "PQE gaussian half-line", "DeepNorm maxrelu", "WideNorm symmetric"]
QUASIMETRICS = [
    name
    for name, (_, _, keywords) in HEADS.items()
    if name not in ("MRN", "LatentMRN tmd") and "discount" not in keywords
]


def make_double(name: str) -> nn.Module:
    """Makes a head in float64, with parameters away from their initial values."""
    head = make(name).double()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return head


def points(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def results(head: nn.Module, distance, x, y) -> list[torch.Tensor]:
    """Returns the distances and the gradients of x, y and the parameters, each distance with its own weight."""
    x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
    out = distance(x, y)
    weights = torch.arange(out.numel(), dtype=out.dtype).cos().view_as(out)
    return [out, *torch.autograd.grad(out, [x, y, *head.parameters()], weights)]


def assert_same(ours, expected, tolerance=1e-10):
    for first, second in zip(ours, expected, strict=True):
        torch.testing.assert_close(first, second, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("form", ["forward", "pairwise"])
@pytest.mark.parametrize("name", HEADS)
def test_seeds_side_by_side_equal_each_alone(name, form):
    class Module(nn.Module):
        def __init__(self, head):
            super().__init__()
            self.head = head

        def forward(self, x, y):
            return getattr(self.head, form)(x, y)

    heads = [Module(make(name, seed=seed).double()) for seed in range(2)]
    with torch.no_grad():
        for number, head in enumerate(heads):
            for parameter in head.parameters():
                parameter += 0.2 * number
    parameters, buffers = torch.func.stack_module_state(heads)
    x, y = points(2, 3, SIZE), points(2, 3, SIZE, seed=1)
    together = torch.vmap(lambda *state: torch.func.functional_call(heads[0], state[:2], state[2:]))(
        parameters, buffers, x, y
    )
    alone = torch.stack([head(*rows) for head, *rows in zip(heads, x, y, strict=True)])
    torch.testing.assert_close(together, alone)
    grads = torch.autograd.grad(together.square().sum(), [*parameters.values()]) if parameters else ()
    for (parameter, _), grad in zip(heads[0].named_parameters(), grads, strict=True):
        each = [
            torch.autograd.grad(alone.square().sum(), head.get_parameter(parameter), retain_graph=True)[0]
            for head in heads
        ]
        torch.testing.assert_close(grad, torch.stack(each))


def stepwise(head: nn.Module):
    """Computes components, transforms and reduction one after another, for all pairs at once."""
    return lambda x, y: head.reduction(head.transforms(head.compute_components(*torch.broadcast_tensors(x, y))))


def all_pairs(distance):
    return lambda x, y: distance(x.unsqueeze(-2), y.unsqueeze(-3))


def cut_into_blocks(monkeypatch, name):
    """Makes pairs of 9 and 11 rows take several blocks."""
    values_per_pair = 8 * SIZE if "GG" in name or "gaussian" in name else SIZE
    monkeypatch.setattr(row_blocks, "_MOST_VALUES", 11 * values_per_pair * 5)


@pytest.mark.parametrize("name", [*HEADS, "own"])
def test_the_distance_is_components_then_transforms_then_reduction(name):
    head = make_double(name)
    x, y = points(2, 5, SIZE), points(5, SIZE, seed=1)
    assert_same(results(head, head, x, y), results(head, stepwise(head), x, y))


@pytest.mark.parametrize("form", ["pairwise", "broadcast", "in blocks"])
@pytest.mark.parametrize("name", [*HEADS, "own"])
def test_all_forms_of_pairs_give_the_same_values_and_gradients(name, form, monkeypatch):
    head = make_double(name)
    x, y = points(9, SIZE), points(11, SIZE, seed=1)
    if form == "in blocks":
        cut_into_blocks(monkeypatch, name)
    distance = all_pairs(head) if form == "broadcast" else head.pairwise
    assert_same(results(head, distance, x, y), results(head, all_pairs(stepwise(head)), x, y))


@pytest.mark.parametrize("name", [*HEADS, "own"])
def test_an_ensemble_is_a_leading_dimension(name):
    head = make_double(name)
    x, y = points(3, 9, SIZE), points(3, 11, SIZE, seed=1)
    matrices = head.pairwise(x, y)
    assert matrices.shape == (3, 9, 11)
    for member in range(3):
        torch.testing.assert_close(matrices[member], head.pairwise(x[member], y[member]))
    torch.testing.assert_close(head(x, y[:, :9]), matrices.diagonal(dim1=1, dim2=2))
    torch.testing.assert_close(head(x[:, :, None], y[:, None]), matrices)
    torch.testing.assert_close(head.pairwise(x, y[0]), torch.stack([head.pairwise(part, y[0]) for part in x]))


@pytest.mark.parametrize("name", [*HEADS, "own"])
def test_both_directions_come_from_one_call(name):
    head = make_double(name)
    x, y = points(9, SIZE), points(9, SIZE, seed=1)
    there, back = head.bidirectional(x, y)
    torch.testing.assert_close((there, back), (head(x, y), head(y, x)))
    there, back = head.bidirectional(x[:, None], y)
    torch.testing.assert_close((there, back), (head.pairwise(x, y), head.pairwise(y, x).mT))
    both = head.pairwise(x, y, bidirectional=True)
    torch.testing.assert_close((both.x_to_y, both.y_to_x), (there, back))


@pytest.mark.parametrize("form", ["elementwise", "pairwise", "bidirectional"])
@pytest.mark.parametrize("name", [*HEADS, "own"])
def test_gradients_are_finite_where_x_is_y(name, form):
    head = make_double(name)
    x = torch.cat([points(7, SIZE), torch.zeros(2, SIZE, dtype=torch.float64)])
    if form == "bidirectional":
        gradients = results(head, lambda x, y: torch.stack(head.bidirectional(x, y)), x, x.clone())
    else:
        gradients = results(head, head if form == "elementwise" else head.pairwise, x, x.clone())
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("form", ["elementwise", "in blocks"])
@pytest.mark.parametrize("name", OF_OTHER_CODE)
def test_torch_compile_traces_the_module_whole(name, form, monkeypatch):
    torch._dynamo.reset()
    head = make_double(name)
    if form == "in blocks":
        cut_into_blocks(monkeypatch, name)
    distance = head if form == "elementwise" else head.pairwise
    compiled = torch.compile(distance, fullgraph=True, backend="eager")  # of ops, test_op_contract.py traces more
    x, y = points(9, SIZE), points(9, SIZE, seed=1)
    assert_same(results(head, compiled, x, y), results(head, distance, x, y))


@pytest.mark.parametrize("name", HEADS)
def test_torch_func_differentiates_and_maps_the_module(name, monkeypatch):
    cut_into_blocks(monkeypatch, name)
    head = make_double(name)
    head(points(2, SIZE), points(2, SIZE))  # puts constrained weights into their range
    x, y = points(3, 9, SIZE), points(3, 11, SIZE, seed=1)
    mapped = torch.func.vmap(torch.func.grad(lambda x, y: head.pairwise(x, y).sum()))(x, y)
    x.requires_grad_()
    (expected,) = torch.autograd.grad(head.pairwise(x, y).sum(), x)
    torch.testing.assert_close(mapped, expected)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda head: pickle.loads(pickle.dumps(head))], ids=["copy", "pickle"]
)
@pytest.mark.parametrize("name", HEADS)
def test_copies_and_pickles_compute_the_same(name, copied):
    head = make(name)
    x, y = points(7, SIZE, dtype=torch.float32), points(7, SIZE, seed=1, dtype=torch.float32)
    other = copied(head)
    assert repr(other) == repr(head)
    torch.testing.assert_close(other(x, y), head(x, y), rtol=0, atol=0)


@pytest.mark.parametrize("name", HEADS)
def test_empty_and_single_batches_keep_their_shape(name):
    head = make(name)
    for rows in (0, 1):
        x = torch.zeros(rows, SIZE)
        assert head(x, x).shape == (rows,)
        assert head.pairwise(x, torch.zeros(5, SIZE)).shape == (rows, 5)
    assert head(torch.zeros(SIZE), torch.zeros(SIZE)).shape == ()


@pytest.mark.parametrize("name", ["IQE", "LatentMRN", "LatentMRN maxmean", "PQE", "PQELH concave"])
def test_half_inputs_of_heads_without_layers_are_computed_in_float32(name):
    head = make(name)
    x, y = points(7, SIZE, dtype=torch.bfloat16), points(7, SIZE, seed=1, dtype=torch.bfloat16)
    assert head(x, y).dtype == head.pairwise(x, y).dtype == torch.float32
    torch.testing.assert_close(head(x, y), head(x.float(), y.float()))


@pytest.mark.parametrize("name", HEADS)
def test_autocast_runs_the_head_near_its_float32_values(name):
    head = make(name)
    x, y = points(9, SIZE, dtype=torch.float32).requires_grad_(), points(9, SIZE, seed=1, dtype=torch.float32)
    for distance in (head, head.pairwise):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = distance(x, y)
        torch.testing.assert_close(out.float(), distance(x, y), rtol=0.1, atol=0.1)
        out.float().sum().backward()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("name", HEADS)
def test_inputs_that_do_not_fit_are_named(name):
    head = make(name)
    kind = type(head).__name__
    with pytest.raises(ValueError, match=rf"{kind}: x and y must have last size input_size=12"):
        head(torch.zeros(7, 1), torch.zeros(7, SIZE))
    with pytest.raises(ValueError, match=rf"{kind}.pairwise: x must be"):
        head.pairwise(torch.zeros(SIZE), torch.zeros(7, SIZE))
    with pytest.raises(ValueError, match="leading dimensions must broadcast"):
        head(torch.zeros(7, SIZE), torch.zeros(6, SIZE))
    with pytest.raises(TypeError, match="x and y must have the same dtype"):
        head.bidirectional(torch.zeros(7, SIZE), torch.zeros(7, SIZE, dtype=torch.float64))


@pytest.mark.parametrize("name", [name for name in HEADS if make(name).state_dict()])
def test_missing_and_wrong_parameters_raise_torchs_own_errors(name):
    head = make(name)
    state = head.state_dict()
    key, value = next(iter(state.items()))
    with pytest.raises(RuntimeError, match="Missing key"):
        head.load_state_dict({other: value for other, value in state.items() if other != key})
    with pytest.raises(RuntimeError, match="size mismatch"):
        head.load_state_dict({**state, key: value.new_zeros(99, 1)})


@pytest.mark.parametrize("name", ["PQEGG", "DeepNorm", "WideNorm", "IQE concave", "own"])
def test_no_more_pairs_exist_than_the_blocks_allow(name, monkeypatch):
    monkeypatch.setattr(row_blocks, "_MOST_VALUES", 4000)
    head = make(name)
    x, y = (points(60, SIZE, seed=seed, dtype=torch.float32).requires_grad_() for seed in (0, 1))
    stored = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: stored.append(t.numel()) or t, lambda t: t):
        distances = head.pairwise(x, y)
    assert distances.shape == (60, 60)
    assert max(stored, default=0) <= 2 * distances.numel() < 60 * 60 * SIZE


@pytest.mark.parametrize("name", ["PQEGG discount", "DeepNorm", "MRNFixed", "WideNorm symmetric"])
def test_blocks_are_differentiated_twice(name, monkeypatch):
    monkeypatch.setattr(row_blocks, "_MOST_VALUES", 9 * 24)
    head = make_double(name)
    x, y = points(5, SIZE).requires_grad_(), points(9, SIZE, seed=1)

    def penalty(distance):
        (gradient,) = torch.autograd.grad(distance(x, y).sum(), x, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), x)[0]

    torch.testing.assert_close(penalty(head.pairwise), penalty(all_pairs(stepwise(head))))


# --- Quasimetrics.

coordinates = st.lists(
    st.floats(-8, 8, width=32).map(lambda value: round(value, 1)), min_size=3 * SIZE, max_size=3 * SIZE
)


@pytest.mark.parametrize("name", QUASIMETRICS)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(coordinates, st.integers(0, 3))
def test_a_guaranteed_quasimetric_is_one(name, values, seed):
    head = make(name, seed=seed).double()
    assert head.guaranteed_quasimetric
    corners = torch.tensor(values, dtype=torch.float64).view(3, SIZE).requires_grad_()
    matrix = head.pairwise(corners, corners.clone())
    elementwise = head(corners.repeat_interleave(3, 0), corners.repeat(3, 1)).view(3, 3)
    torch.testing.assert_close(matrix, elementwise, rtol=1e-9, atol=1e-9)
    assert (head(corners, corners) == 0).all()
    assert (matrix >= -1e-12).all()
    around = matrix.unsqueeze(2) + matrix  # from i to j and on to k
    assert (matrix.unsqueeze(1) <= around + 1e-9 * (1 + around)).all()
    (gradient,) = torch.autograd.grad(matrix.sum(), corners)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("name", "guaranteed"), [("MRN", False), ("LatentMRN tmd", False), ("LatentMRN", True), ("MRN power", True)]
)
def test_what_may_not_be_a_quasimetric_says_so(name, guaranteed):
    assert make(name).guaranteed_quasimetric is guaranteed


# --- torchqmet.


@pytest.fixture
def torchqmet(monkeypatch):
    checkout = os.environ.get("QMKERNELS_TORCHQMET")
    if not checkout:
        pytest.skip("QMKERNELS_TORCHQMET names no checkout of torchqmet")
    monkeypatch.syspath_prepend(checkout)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        original = importlib.import_module("torchqmet")
    assert original.IQE is not qm.nn.IQE, "the stand-in of qmkernels.compat must not be installed in this process"
    functions = importlib.import_module("torchqmet.pqe.cdf_ops")
    # torchqmet compiles its own at first use, which fails with many versions of torch. Ours have their own tests.
    monkeypatch.setattr(functions, "ndtr", lambda x: 0.5 * torch.special.erfc(-x / 2**0.5))
    monkeypatch.setattr(functions, "prob_two_poisson_le", qm.poisson_le)
    return original


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", [name for name in HEADS if not name.startswith(("LatentMRN", "Simple"))])
def test_the_same_seed_gives_torchqmets_parameters_and_numbers(name, torchqmet):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        ours, theirs = make(name), make(name, package=torchqmet)
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for value, their_value in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(value, their_value)
    their_attributes = {key for key in vars(theirs) if not key.startswith("_")}
    assert {key for key in vars(ours) if not key.startswith("_")} == their_attributes
    if name == "PQE gaussian half-line":
        return  # torchqmet uses the first row of a batch for all rows; test_golden.py has this head's numbers
    ours.double(), theirs.double().load_state_dict(ours.state_dict())
    x, y = points(9, SIZE), points(9, SIZE, seed=1)
    assert_same(results(ours, ours, x, y), results(theirs, theirs, x, y))
    assert_same(results(ours, ours.pairwise, x, y), results(theirs, all_pairs(theirs), x, y))
