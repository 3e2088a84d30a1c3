"""IQE's numbers: published formulas, parity with the reference, ties, errors, threads, memory."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import qmkernels as qm
from qmkernels.backends import dispatch
from qmkernels.definitions import iqe as definition

REDUCTIONS = ("none", "sum", "mean", "max", "maxmean")
SIZES = (1, 2, 3, 4, 5, 7, 8, 12, 16, 31, 32, 33, 64, 65, 507, 1024)

# How much larger than plain PyTorch's in the same dtype a kernel's worst error against float64 may be, and an absolute
# allowance in units of the sum of lengths: both sum the same differences in different orders.
ERROR_FACTOR = 2.0
# In float64 plain PyTorch is the truth. The weight's gradient sums as many terms as there are distances.
ERROR_FLOOR = {torch.float32: 2e-6, torch.float64: 2e-14}


def random_pair(rows, num_components, dim_per_component, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (*rows, num_components * dim_per_component)
    x = torch.randn(shape, dtype=torch.float64, generator=generator)
    y = torch.randn(shape, dtype=torch.float64, generator=generator) + 0.3
    return x.to(dtype), y.to(dtype)


def with_gradients(function, *tensors, grad):
    leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    out = function(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, grad.to(out.dtype).expand(out.shape))]


def assert_as_accurate_as_plain_pytorch(actual, plain, truth):
    for mine, theirs, exact in zip(actual, plain, truth, strict=True):
        scale = exact.abs().max().clamp(min=1).item() * (truth[0].numel() ** 0.5 if exact.dim() == 0 else 1)
        floor = ERROR_FLOOR[mine.dtype] * scale
        error = (mine.double() - exact).abs().max().item()
        assert error <= ERROR_FACTOR * (theirs.double() - exact).abs().max().item() + floor


def sorted_ends_length(x, y):
    """Computes the length of a union of intervals by sweeping over their sorted ends in plain Python."""
    intervals = [(a, b) for a, b in zip(x, y, strict=True) if a < b]
    events = sorted([(a, 1) for a, _ in intervals] + [(b, -1) for _, b in intervals])
    length, depth, begin = 0.0, 0, 0.0
    for place, step in events:
        if depth == 0:
            begin = place
        depth += step
        if depth == 0:
            length += place - begin
    return length


@pytest.mark.parametrize("dim_per_component", [1, 3, 8, 40])
def test_a_component_is_the_length_of_a_union_of_intervals(backend, dim_per_component):
    x, y = random_pair((11,), 3, dim_per_component, torch.float64)
    lengths = qm.iqe(x, y, dim_per_component, reduction="none", backend=backend)
    for row in range(11):
        for c in range(3):
            part = slice(c * dim_per_component, (c + 1) * dim_per_component)
            expected = sorted_ends_length(x[row, part].tolist(), y[row, part].tolist())
            assert lengths[row, c].item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dim_per_component", SIZES)
def test_elementwise_is_as_accurate_as_plain_pytorch(dim_per_component, reduction, dtype):
    num_components = max(1, min(7, 1100 // dim_per_component))
    x, y = random_pair((33,), num_components, dim_per_component, dtype)
    weight = torch.tensor(0.3, dtype=dtype)
    grad = torch.linspace(-1, 1, 33, dtype=torch.float64)
    grad = grad.unsqueeze(-1) if reduction == "none" else grad

    def plain(x, y, *weight):
        return definition.iqe(x, y, dim_per_component, reduction=reduction, max_weight=weight[0] if weight else None)

    def kernel(x, y, *weight):
        weight = weight[0] if weight else None
        return qm.iqe(x, y, dim_per_component, reduction=reduction, max_weight=weight, backend="cpu")

    inputs = (x, y, weight) if reduction == "maxmean" else (x, y)
    exact = [tensor.double() for tensor in inputs]
    assert_as_accurate_as_plain_pytorch(
        with_gradients(kernel, *inputs, grad=grad),
        with_gradients(plain, *inputs, grad=grad),
        with_gradients(plain, *exact, grad=grad),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dim_per_component, num_components", [(1, 5), (4, 17), (8, 3), (13, 2), (33, 1), (150, 1)])
@pytest.mark.parametrize("num_x, num_y", [(1, 33), (33, 1), (7, 5), (17, 70), (70, 17)])
def test_pairwise_is_as_accurate_as_plain_pytorch(num_x, num_y, dim_per_component, num_components, reduction, dtype):
    x, _ = random_pair((2, num_x), num_components, dim_per_component, dtype, seed=1)
    _, y = random_pair((2, num_y), num_components, dim_per_component, dtype, seed=2)
    weight = torch.tensor(0.3, dtype=dtype)
    grad = torch.linspace(-1, 1, num_y, dtype=torch.float64).expand(2, num_x, num_y)
    grad = grad.unsqueeze(-1) if reduction == "none" else grad

    def plain(x, y, *weight):
        weight = weight[0] if weight else None
        return definition.iqe(x[:, :, None], y[:, None], dim_per_component, reduction=reduction, max_weight=weight)

    def kernel(x, y, *weight):
        weight = weight[0] if weight else None
        return qm.iqe_pairwise(x, y, dim_per_component, reduction=reduction, max_weight=weight, backend="cpu")

    inputs = (x, y, weight) if reduction == "maxmean" else (x, y)
    exact = [tensor.double() for tensor in inputs]
    assert_as_accurate_as_plain_pytorch(
        with_gradients(kernel, *inputs, grad=grad),
        with_gradients(plain, *inputs, grad=grad),
        with_gradients(plain, *exact, grad=grad),
    )


@pytest.mark.parametrize(
    "x_shape, y_shape",
    [
        ((17, 1), (9,)),
        ((9,), (17, 1)),
        ((3, 1, 9), (3, 11, 1)),
        ((2, 1, 3, 1), (1, 9, 1, 8)),
        ((), (12,)),
        ((5, 1), (5, 2)),
    ],
)
@pytest.mark.parametrize("reduction", ["none", "maxmean"])
def test_broadcasting_gives_the_numbers_and_gradients_of_expanded_inputs(x_shape, y_shape, reduction):
    x, y = torch.randn(*x_shape, 24, dtype=torch.float64), torch.randn(*y_shape, 24, dtype=torch.float64)
    shape = torch.broadcast_shapes(x_shape, y_shape)
    grad = torch.randn(*shape, *((3,) if reduction == "none" else ()), dtype=torch.float64)

    def broadcast(x, y):
        return qm.iqe(x, y, 8, reduction=reduction, backend="cpu")

    def expanded(x, y):
        x, y = x.expand(*shape, 24), y.expand(*shape, 24)
        return definition.iqe(x, y, 8, reduction=reduction, max_weight=1 / (1 + math.e))

    actual, expected = with_gradients(broadcast, x, y, grad=grad), with_gradients(expanded, x, y, grad=grad)
    torch.testing.assert_close(actual, expected)


def test_broadcasting_that_forms_a_matrix_equals_pairwise_bit_for_bit(backend):
    x, y = random_pair((33,), 3, 8)
    assert torch.equal(qm.iqe(x[:, None], y, 8, backend=backend), qm.iqe_pairwise(x, y, 8, backend=backend))


@pytest.mark.parametrize("form", ["elementwise", "pairwise"])
@pytest.mark.parametrize("dim_per_component", [1, 4, 8, 33])
def test_the_distance_to_itself_is_exactly_zero_with_zero_gradients(dim_per_component, backend, form):
    x, _ = random_pair((9,), 3, dim_per_component)
    x.requires_grad_()
    y = x.detach().clone().requires_grad_()
    out = (
        qm.iqe(x, y, dim_per_component, backend=backend)
        if form == "elementwise"
        else qm.iqe_pairwise(x, y, dim_per_component, backend=backend).diagonal()
    )
    assert not out.any()
    out.sum().backward()
    assert not x.grad.any() and not y.grad.any()


def summed_over_ties(coordinates, gradients):
    """Sums gradients over equal coordinates: what all valid subgradients have in common."""
    totals = {}
    for place, gradient in zip(coordinates, gradients, strict=True):
        totals[place] = totals.get(place, 0.0) + gradient
    return {place: total for place, total in totals.items() if abs(total) > 1e-12}


@pytest.mark.parametrize("form", ["elementwise", "pairwise"])
@pytest.mark.parametrize("dim_per_component", [2, 4, 8, 16, 33, 70])
def test_at_ties_subgradients_agree_when_summed_over_the_tied_ends(dim_per_component, form):
    generator = torch.Generator().manual_seed(dim_per_component)
    x = torch.randint(0, 5, (40, dim_per_component), generator=generator).double()
    y = torch.randint(0, 5, (40, dim_per_component), generator=generator).double()

    def kernel(x, y):
        if form == "elementwise":
            return qm.iqe(x, y, dim_per_component, reduction="sum", backend="cpu")
        return qm.iqe_pairwise(x[:, None], y[:, None], dim_per_component, reduction="sum", backend="cpu")[:, 0, 0]

    grad = torch.ones(40, dtype=torch.float64)
    length, *mine = with_gradients(kernel, x, y, grad=grad)
    expected, *reference = with_gradients(
        lambda x, y: definition.iqe(x, y, dim_per_component, reduction="sum"), x, y, grad=grad
    )
    assert torch.equal(length, expected)
    for row in range(40):
        coordinates = torch.cat([x[row], y[row]]).tolist()
        assert summed_over_ties(coordinates, torch.cat([g[row] for g in mine]).tolist()) == pytest.approx(
            summed_over_ties(coordinates, torch.cat([g[row] for g in reference]).tolist())
        )


def test_an_offset_common_to_all_coordinates_costs_no_accuracy():
    x, y = random_pair((50,), 4, 8, torch.float32)
    x, y = x.round(decimals=2) + 4096, y.round(decimals=2) + 4096
    exact = definition.iqe(x.double(), y.double(), 8, reduction="sum")
    error = (qm.iqe(x, y, 8, reduction="sum", backend="cpu").double() - exact).abs().max()
    assert error < 1e-4  # a sum of ends instead of differences would lose some 4096 * 2^-24 * 32 = 8e-3


@pytest.mark.parametrize("convention", ["torchqmet", "ogbench"])
def test_both_published_conventions_of_maxmean_are_weights_of_the_maximum(convention):
    x, y = random_pair((9,), 4, 8, torch.float64)
    raw = torch.tensor(0.7, dtype=torch.float64)
    lengths = qm.iqe(x, y, 8, reduction="none")
    a = raw.sigmoid()
    if convention == "torchqmet":
        expected, weight = (1 - a) * lengths.mean(-1) + a * lengths.amax(-1), a
    else:
        expected, weight = a * lengths.mean(-1) + (1 - a) * lengths.amax(-1), 1 - a
    torch.testing.assert_close(qm.iqe(x, y, 8, max_weight=weight), expected)


def test_without_a_weight_maxmean_starts_where_torchqmet_starts():
    x, y = random_pair((9,), 4, 8)
    torch.testing.assert_close(qm.iqe(x, y, 8), qm.nn.IQE(32, 8)(x, y).detach())


SHIFTED = st.integers(0, 2**31)


@settings(max_examples=60, deadline=None)
@given(seed=SHIFTED, size=st.sampled_from([1, 3, 8, 33]), reduction=st.sampled_from(REDUCTIONS[1:]))
def test_iqe_is_a_quasimetric(seed, size, reduction):
    generator = torch.Generator().manual_seed(seed)
    x, y, z = (torch.randn(20, 3 * size, dtype=torch.float64, generator=generator) for _ in range(3))
    y[:5, ::2] = x[:5, ::2]

    def d(a, b):
        return qm.iqe(a, b, size, reduction=reduction, backend="cpu")

    assert (d(x, y) >= 0).all() and not d(x, x).any()
    assert (d(x, z) <= d(x, y) + d(y, z) + 1e-12).all()


@settings(max_examples=40, deadline=None)
@given(seed=SHIFTED, size=st.sampled_from([1, 4, 7, 16, 40]))
def test_iqe_is_invariant_to_shifts_and_permutations_within_a_component_and_scales(seed, size):
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(15, 3, size, dtype=torch.float64, generator=generator) for _ in range(2))
    order = torch.rand(15, 3, size, generator=generator).argsort(dim=-1)
    shift = torch.randn(15, 3, 1, dtype=torch.float64, generator=generator)

    def d(a, b):
        return qm.iqe(a.flatten(1), b.flatten(1), size, backend="cpu")

    torch.testing.assert_close(d(x.gather(-1, order), y.gather(-1, order)), d(x, y))
    torch.testing.assert_close(d(x + shift, y + shift), d(x, y))
    torch.testing.assert_close(d(3 * x, 3 * y), 3 * d(x, y))


GOOD = torch.zeros(4, 32)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        (
            (GOOD, torch.zeros(4, 16)),
            ValueError,
            r"x and y must have the same last size, got x \(4, 32\) and y \(4, 16\)",
        ),
        ((GOOD, GOOD, 5), ValueError, "must be a multiple of dim_per_component, got 32 and 5"),
        ((GOOD, GOOD, 0), ValueError, "dim_per_component must be at least 1, got 0"),
        ((GOOD, GOOD, -8), ValueError, "dim_per_component must be at least 1, got -8"),
        ((GOOD, GOOD, 8.0), TypeError, "dim_per_component must be an int, got float"),
        ((GOOD, GOOD.double()), TypeError, "same dtype, got x torch.float32 and y torch.float64"),
        ((GOOD.long(), GOOD.long()), TypeError, "must be float64, float32, bfloat16 or float16, got torch.int64"),
        ((GOOD, [1.0] * 32), TypeError, "y must be a tensor, got list"),
        ((GOOD, GOOD.to("meta")), RuntimeError, "same device, got x on cpu and y on meta"),
        ((torch.zeros(4, 0), torch.zeros(4, 0)), ValueError, "at least one value"),
        ((torch.tensor(1.0), torch.tensor(1.0)), ValueError, r"x must have shape \(..., D\)"),
        ((GOOD, torch.zeros(5, 32)), ValueError, r"must broadcast, got x \(4, 32\) and y \(5, 32\)"),
    ],
)
def test_wrong_arguments_are_refused_before_any_work(arguments, error, message):
    with pytest.raises(error, match=message):
        qm.iqe(*arguments)


@pytest.mark.parametrize(
    "keywords, error, message",
    [
        ({"reduction": "median"}, ValueError, "reduction must be one of none, sum, mean, max, maxmean, got 'median'"),
        ({"backend": "gpu"}, ValueError, "backend must be 'auto' or one of cuda, triton, cpu, reference, got 'gpu'"),
        ({"max_weight": torch.zeros(3, 1, 1)}, ValueError, r"weights must broadcast to .* distances, got \(3, 1, 1\)"),
        ({"reduction": "sum", "max_weight": 0.5}, ValueError, "max_weight belongs to reduction 'maxmean'"),
    ],
)
def test_wrong_options_are_refused_with_the_choices(keywords, error, message):
    with pytest.raises(error, match=message):
        qm.iqe(GOOD, GOOD, **keywords)


@pytest.mark.parametrize("shapes", [((32,), (4, 32)), ((4, 32), (32,))])
def test_pairwise_needs_two_dimensions(shapes):
    with pytest.raises(ValueError, match=r"must be \(\*b, N, D\) and \(\*b, M, D\)"):
        qm.iqe_pairwise(*(torch.zeros(shape) for shape in shapes))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a forced cuda backend can run here")
def test_a_forced_backend_that_cannot_run_says_why_and_which_can():
    with pytest.raises(RuntimeError, match="backend 'cuda' cannot run here: .* Choose from: .*cpu, reference"):
        qm.iqe(GOOD, GOOD, backend="cuda")


def test_use_backend_holds_within_its_block_and_restores(monkeypatch):

    with qm.use_backend("reference"):
        assert dispatch.requested(None) == "reference"
        with qm.use_backend("cpu"):
            assert dispatch.requested(None) == "cpu"
        assert dispatch.requested(None) == "reference" and dispatch.requested("cpu") == "cpu"
    assert dispatch.requested(None) == "auto"


@pytest.mark.parametrize(
    "x_shape, y_shape, shape",
    [((0, 15), (0, 15), (0,)), ((3, 0, 15), (3, 0, 15), (3, 0)), ((0, 1, 15), (5, 15), (0, 5)), ((15,), (0, 15), (0,))],
)
def test_zero_size_batches_broadcast_to_empty_outputs_and_zero_gradients(x_shape, y_shape, shape, backend):
    x, y = torch.randn(x_shape, requires_grad=True), torch.randn(y_shape, requires_grad=True)
    out = qm.iqe(x, y, 5, backend=backend)
    assert out.shape == shape
    out.sum().backward()
    assert x.grad.shape == x.shape and y.grad.shape == y.shape and not x.grad.any() and not y.grad.any()


def test_vmap_of_grad_over_single_pairs_gives_per_sample_gradients(backend):
    x, y = torch.randn(2, 7, 15, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    per_sample = torch.vmap(torch.func.grad(lambda a, b: qm.iqe(a, b, 5)))(x, y)
    leaf = x.clone().requires_grad_()
    torch.testing.assert_close(per_sample, torch.autograd.grad(qm.iqe(leaf, y, 5).sum(), leaf)[0])


@pytest.mark.parametrize("backend", ("cpu", "reference"))
@pytest.mark.parametrize("shape", ((4,), (0, 1), (1, 4), (0, 4)))
def test_weights_of_an_empty_ensemble_get_a_gradient_of_zeros(shape, backend):
    x, weight = torch.zeros(0, 4, 16, requires_grad=True), torch.ones(shape, requires_grad=True)
    out = qm.iqe(x, x, 8, max_weight=weight, backend=backend)
    assert out.shape == (0, 4)
    _, grad = torch.autograd.grad(out.sum(), (x, weight))
    assert torch.equal(grad, torch.zeros(shape))


@pytest.mark.parametrize("backend", ("cpu", "reference"))
def test_weights_broadcast_against_the_distances(backend):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 3, 5, 16, generator=generator, dtype=torch.float64)
    pairs = x.unsqueeze(-2), torch.randn(3, 1, 9, 16, generator=generator, dtype=torch.float64)
    for rows, shapes in (((x, y), ((), (5,), (3, 1), (3, 5))), (pairs, ((), (1, 1), (3, 1, 1)))):
        mean, largest = (qm.iqe(*rows, 8, reduction=name, backend=backend) for name in ("mean", "max"))
        for shape in shapes:
            weight = torch.rand(shape, generator=generator, dtype=torch.float64)
            out = qm.iqe(*rows, 8, max_weight=weight, backend=backend)
            torch.testing.assert_close(out, mean + weight * (largest - mean))
    matrix, weight = x[0], torch.tensor([[0.4]], dtype=torch.float64)  # a single matrix, without a batch
    torch.testing.assert_close(
        qm.iqe_pairwise(matrix, matrix, 8, max_weight=weight, backend=backend),
        qm.iqe_pairwise(matrix, matrix, 8, max_weight=0.4, backend=backend),
    )
    with pytest.raises(ValueError, match=r"the same for all pairs of a matrix, got \(5, 1\) for \(3, 5, 9\)"):
        qm.iqe(*pairs, 8, max_weight=torch.rand(5, 1), backend=backend)
