"""PQE-LH: the published formula, as accurate as plain PyTorch, ties, NaN, a quasimetric, threads, errors."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import qmkernels as qm
from qmkernels.backends import dispatch
from qmkernels.definitions import pqe as definition
from qmkernels.ops import pqe as op
from qmkernels.ops.autograd import every_pair_gradient

BACKENDS = ("cpu", "reference")
# Errors relative to the largest value, in excess of plain PyTorch's in the same dtype: sums are in another order.
TOLERANCE = {torch.float64: 1e-14, torch.float32: 2e-6}


def skip_without_kernels():
    if reason := dispatch.why_not("cpu", "pqe", "cpu"):
        pytest.skip(reason)


def published(x, y, dim_per_component):
    """Computes the components of one pair (D,), with Python's own arithmetic."""
    exceeds = [min(b - a, 0.0) for a, b in zip(x.tolist(), y.tolist(), strict=True)]
    starts = range(0, len(exceeds), dim_per_component)
    return [-math.expm1(sum(exceeds[c : c + dim_per_component]) / dim_per_component) for c in starts]


@pytest.mark.parametrize("dim_per_component", [1, 3, 4, 8, 33])
def test_components_are_the_published_formula(dim_per_component, backend):
    x, y = torch.randn(2, 9, 3 * dim_per_component, dtype=torch.float64).unbind(0)
    y[2] = x[2]
    expected = [published(a, b, dim_per_component) for a, b in zip(x, y, strict=True)]
    actual = qm.pqe(x, y, dim_per_component, reduction="none")
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64), rtol=1e-13, atol=0)
    matrix = qm.pqe_pairwise(x, y, dim_per_component, reduction="none")
    torch.testing.assert_close(matrix.diagonal().T, actual, rtol=1e-13, atol=0)
    torch.testing.assert_close(qm.pqe(x, y, dim_per_component), actual.sum(-1))
    torch.testing.assert_close(qm.pqe_pairwise(x, y, dim_per_component, reduction="mean"), matrix.mean(-1))


def _error(actual, expected):
    return ((actual.double() - expected).abs().max() / expected.abs().max().clamp(min=1e-30)).item()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("weighted", ["one for all", "of runs", False], ids=["weighted", "runs", "components"])
@pytest.mark.parametrize(
    "dim_per_component, num_components",
    [(1, 7), (1, 33), (2, 7), (3, 33), (4, 1), (4, 7), (4, 33), (5, 7), (8, 17), (16, 7), (33, 5), (130, 1)],
)
def test_kernels_are_as_accurate_as_plain_pytorch(dim_per_component, weighted, num_components, dtype):
    skip_without_kernels()
    kernels, plain = dispatch.resolve("pqe", "cpu", "cpu").module, dispatch.resolve("pqe", "cpu", "reference").module
    dim = num_components * dim_per_component
    x, y = torch.randn(2, 21, dim, dtype=dtype), torch.randn(2, 38, dim, dtype=dtype)
    y[:, 7] = x[:, 7]
    y[:, 8, ::2] = x[:, 8, ::2]
    shape = (2, num_components) if weighted == "of runs" else (num_components,)
    weights = torch.randn(shape, dtype=dtype) if weighted else None
    rows = x, y[:, :21].contiguous()
    for name, inputs in (("", rows), ("pairwise_", (x, y)), ("pairwise_", (y, x[:, :3].contiguous()))):

        def run(functions, inputs, weights, grad, name=name):
            out = getattr(functions, f"pqe_{name}forward")(*inputs, weights, dim_per_component)
            grad = torch.rand(out.shape, dtype=dtype) if grad is None else grad  # a sum that does not cancel
            settings = (weights, dim_per_component, weights is not None)
            return grad, (out, *getattr(functions, f"pqe_{name}backward")(grad.to(out.dtype), *inputs, *settings))

        grad, theirs = run(plain, inputs, weights, None)
        _, ours = run(kernels, inputs, weights, grad)
        exact_weights = weights.double() if weighted else None
        _, exact = run(plain, [tensor.double() for tensor in inputs], exact_weights, grad)
        for actual, same_dtype, expected in zip(ours, theirs, exact, strict=True):
            assert (actual is None) == (expected is None)
            if expected is not None:
                assert actual.shape == expected.shape
                assert _error(actual, expected) <= _error(same_dtype, expected) + TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_small_distances_are_accurate_whatever_the_offset(dtype, backend):
    x = 1000 + torch.randn(40, 32, dtype=dtype)
    y = x * (1 - torch.rand(40, 32, dtype=dtype) * 1e-5)
    exact = definition.pqe(x.double(), y.double(), None, 4)
    assert (exact > 0).all() and exact.max() < 0.02
    for actual in (qm.pqe(x, y, reduction="none"), qm.pqe_pairwise(x, y, reduction="none").diagonal().T):
        torch.testing.assert_close(actual.double(), exact, rtol=4 * torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("dim_per_component", [1, 4, 5])
def test_at_ties_the_gradient_is_that_from_above(dim_per_component, backend):
    x = torch.randn(9, 3 * dim_per_component, dtype=torch.float64)
    share = 1 / dim_per_component
    for pairs in (qm.pqe, lambda *a: qm.pqe_pairwise(*a).diagonal()):
        leaves = [x.clone().requires_grad_() for _ in range(2)]
        out = pairs(*leaves, dim_per_component)
        assert not out.any() and not out.signbit().any()
        grad_x, grad_y = torch.autograd.grad(out.sum(), leaves)
        torch.testing.assert_close(grad_x, torch.full_like(x, share), rtol=1e-15, atol=0)
        assert torch.equal(grad_y, -grad_x)


@pytest.mark.parametrize("where", [0, 13, 39])
@pytest.mark.parametrize("dim_per_component", [1, 4, 5])
def test_nan_gives_nan_in_its_row_alone(dim_per_component, where, backend):
    x, y = torch.randn(2, 5, 40).unbind(0)
    x[2, where] = math.nan
    x.requires_grad_()
    other_rows = [0, 1, 3, 4]
    out, matrix = qm.pqe(x, y, dim_per_component), qm.pqe_pairwise(x, y, dim_per_component)
    assert out[2].isnan() and not out[other_rows].isnan().any()
    assert matrix[2].isnan().all() and not matrix[other_rows].isnan().any()
    components = qm.pqe(x, y, dim_per_component, reduction="none")[2]
    assert components.isnan().nonzero().flatten().tolist() == [where // dim_per_component]
    for result in (out, matrix):
        grad = torch.autograd.grad(result.sum(), x)[0]
        assert grad[2, where].isnan() and not grad[other_rows].isnan().any()


@pytest.mark.parametrize("dim_per_component", [1, 4, 5])
def test_infinities_give_what_the_reference_gives(dim_per_component):
    skip_without_kernels()
    values = torch.tensor([-math.inf, -1.0, 0.0, 2.0, math.inf])
    x, y = values[torch.randint(0, 5, (2, 64, 3 * dim_per_component))].unbind(0)
    for function in (qm.pqe, qm.pqe_pairwise):
        actual, expected = (function(x, y, dim_per_component, reduction="none", backend=b) for b in BACKENDS)
        torch.testing.assert_close(actual, expected, equal_nan=True)


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_numbers_do_not_depend_on_the_number_of_threads_where_there_is_work_for_several(reduction):
    skip_without_kernels()
    threads, runs = torch.get_num_threads(), []
    x, y = torch.randn(2, 300, 256).unbind(0)
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            for function in (qm.pqe, qm.pqe_pairwise):
                weights = torch.linspace(0.5, 2, 64).requires_grad_() if reduction == "sum" else None
                leaves = [x.clone().requires_grad_(), y.clone().requires_grad_()]
                out = function(*leaves, weights=weights, reduction=reduction, backend="cpu")
                leaves += [weights] if weights is not None else []
                runs.append((out, *torch.autograd.grad(out.square().sum(), leaves)))
    finally:
        torch.set_num_threads(threads)
    for i, run in enumerate(runs):
        assert all(torch.equal(first, second) for first, second in zip(runs[i % 2], run, strict=True))


PAIRS = pytest.mark.parametrize("pairs", [False, True], ids=["rows", "pairs"])


def _runs(pairs, num_runs, rows_per_run, dim, **options):
    """Makes x and y in runs of rows, or of matrices of 3 by 5 pairs, the gradient of their distances, and weights
    (C = 3)."""
    rows = num_runs * rows_per_run
    x, y = torch.randn(rows, 3, dim, **options), torch.randn(rows, 5, dim, **options)
    x, y = (x, y) if pairs else (x[:, 0].contiguous(), y[:, 0].contiguous())
    return x, y, torch.randn(*x.shape[:-1], *y.shape[1:-1], **options), torch.randn(num_runs, 3, **options)


@PAIRS
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("num_runs, rows_per_run", [(1, 33), (33, 1), (2, 3), (5, 301)])
def test_a_run_of_rows_has_its_own_weights_and_their_gradient(num_runs, rows_per_run, dtype, pairs, backend):
    functions, form = dispatch.resolve("pqe", "cpu", backend).module, "pqe_pairwise" if pairs else "pqe"
    forward, backward = getattr(functions, f"{form}_forward"), getattr(functions, f"{form}_backward")
    x, y, grad, weights = _runs(pairs, num_runs, rows_per_run, 12, dtype=dtype)
    actual = forward(x, y, weights, 4), *backward(grad, x, y, weights, 4, True)
    expected = [
        (forward(*rows, run_weights, 4), *backward(own_grad, *rows, run_weights, 4, True))
        for *rows, own_grad, run_weights in zip(
            *(tensor.chunk(num_runs) for tensor in (x, y, grad)), weights, strict=True
        )
    ]
    for i, (ours, of_runs) in enumerate(zip(actual, zip(*expected, strict=True), strict=True)):
        joined = torch.stack(of_runs) if i == 3 else torch.cat(of_runs)
        torch.testing.assert_close(ours, joined, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    assert backward(grad, x, y, weights, 4, False)[2] is None


@PAIRS
def test_gradients_of_runs_do_not_depend_on_the_number_of_threads(pairs):
    skip_without_kernels()
    functions, threads, runs = dispatch.resolve("pqe", "cpu", "cpu").module, torch.get_num_threads(), []
    x, y, grad, weights = _runs(pairs, 7, 300, 3 * 16)
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            backward = functions.pqe_pairwise_backward if pairs else functions.pqe_backward
            runs.append(backward(grad, x, y, weights, 16, True))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(first, second) for run in runs[1:] for first, second in zip(runs[0], run, strict=True))


@PAIRS
def test_the_definition_of_runs_is_differentiable_and_its_gradient_is_the_formula(pairs):
    x, y, grad, weights = (tensor.requires_grad_() for tensor in _runs(pairs, 2, 3, 6, dtype=torch.float64))

    def distances(x, y, weights):
        x, y = (x.unsqueeze(2), y.unsqueeze(1)) if pairs else (x, y)
        return definition.pqe(x, y, weights, 2)

    assert torch.autograd.gradcheck(distances, (x, y, weights))
    assert torch.autograd.gradgradcheck(distances, (x, y, weights), (grad,))
    expected = torch.autograd.grad(distances(x, y, weights), (x, y, weights), grad)
    gradient = every_pair_gradient(op._gradient) if pairs else op._gradient
    torch.testing.assert_close(gradient(grad, x, y, weights, 2), expected)


@pytest.mark.parametrize("in_dims", [(0, 0, 0), (None, None, 0), (0, None, None), (0, 1, 1)])
def test_the_definition_of_runs_holds_under_vmap(in_dims):
    shapes, tensors = ((6, 6), (6, 6), (2, 3)), []
    for shape, dim in zip(shapes, in_dims, strict=True):
        tensor = torch.randn(*shape, dtype=torch.float64)
        tensors.append(tensor if dim is None else torch.stack([tensor, tensor + 1, 2 * tensor], dim=dim))
    together = torch.func.vmap(lambda *inputs: definition.pqe(*inputs, 2), in_dims)(*tensors)
    for i, member in enumerate(together):
        sample = (t if dim is None else t.select(dim, i) for t, dim in zip(tensors, in_dims, strict=True))
        torch.testing.assert_close(member, definition.pqe(*sample, 2))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**31), st.sampled_from([1, 3, 4, 16]))
def test_pqe_is_a_quasimetric(seed, dim_per_component):
    skip_without_kernels()
    generator = torch.Generator().manual_seed(seed)
    shape = (7, 3 * dim_per_component)
    points = torch.randn(shape, dtype=torch.float64, generator=generator).mul(4).round().div(4)
    weights = torch.rand(3, dtype=torch.float64, generator=generator)
    d = qm.pqe_pairwise(points, points, dim_per_component, weights=weights, backend="cpu")
    assert (d.diagonal() == 0).all() and (d >= 0).all() and (d < weights.sum() + 1e-12).all()
    assert (d[:, None, :] <= d[:, :, None] + d[None] + 1e-12).all()
    rows = qm.pqe(points, points.flip(0), dim_per_component, weights=weights, backend="cpu")
    torch.testing.assert_close(rows, d.fliplr().diagonal())


GOOD = torch.zeros(4, 32)


@pytest.mark.parametrize(
    "x, y, keywords, error, message",
    [
        (GOOD, torch.zeros(4, 16), {}, ValueError, r"same last size, got x \(4, 32\) and y \(4, 16\)"),
        (GOOD, GOOD, {"dim_per_component": 5}, ValueError, "multiple of dim_per_component, got 32 and 5"),
        (GOOD, GOOD, {"dim_per_component": 0}, ValueError, "at least 1"),
        (GOOD, GOOD, {"dim_per_component": 4.0}, TypeError, "dim_per_component must be an int"),
        (GOOD, GOOD, {"reduction": "max"}, ValueError, "reduction must be one of sum, mean, none"),
        (
            GOOD,
            GOOD,
            {"weights": torch.ones(7)},
            ValueError,
            r"weights must be \(..., 8\), one per component, got \(7,\)",
        ),
        (
            GOOD,
            GOOD,
            {"weights": torch.ones(3, 1, 1, 8)},
            ValueError,
            r"weights must broadcast to .* distances, got \(3, 1, 1, 8\)",
        ),
        (GOOD, GOOD, {"weights": [1.0] * 8}, TypeError, "weights must be a tensor, got list"),
        (GOOD, GOOD, {"weights": torch.ones(8), "reduction": "mean"}, ValueError, "weights belong to reduction 'sum'"),
        (GOOD, GOOD.double(), {}, TypeError, "same dtype"),
        (GOOD, GOOD.to("meta"), {}, RuntimeError, "same device"),
    ],
)
@pytest.mark.parametrize("function", [qm.pqe, qm.pqe_pairwise])
def test_wrong_arguments_are_refused_with_what_was_wanted(function, x, y, keywords, error, message):
    with pytest.raises(error, match=message):
        function(x, y, **keywords)
