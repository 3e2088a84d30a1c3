"""On a GPU: the public functions on the CUDA and the Triton backend against the reference in float64.

`compute-sanitizer --tool memcheck` (and racecheck, synccheck) pytest -k small: every kernel once, at small odd sizes.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch

import qmkernels as qm
from qmkernels.backends import dispatch
from qmkernels.definitions import nearest as nearest_definition
from qmkernels.definitions.latent_dynamics import LatentDynamicsSettings
from qmkernels.definitions.pair_loss import KINDS, PairLossSettings
from qmkernels.definitions.qrl_critic import QrlCriticSettings
from qmkernels.ops.latent_dynamics import latent_dynamics
from qmkernels.ops.pair_loss import pair_loss
from qmkernels.ops.qrl_critic import qrl_critic

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")

REDUCTIONS = ("none", "sum", "mean", "max", "maxmean")
FUNCTIONS = ("iqe", "iqe_pairwise")


def assert_no_worse(found, usual, truth, dtype: torch.dtype) -> None:
    """Found tensors err no more than the usual ones, plain torch in the same dtype, and some roundings."""
    for got, plain, wanted in zip(found, usual, truth, strict=True):
        # Sums in another order: as many roundings, of other numbers. A hundred of the last place of the largest.
        allowed = (plain - wanted).abs().max() + 100 * torch.finfo(dtype).eps * wanted.abs().max()
        assert (got - wanted).abs().max() <= allowed


def assert_graph_replays(step, change) -> None:
    """A graph captured of ``step()``, once ``change()`` has put other numbers into its inputs, gives what it gives."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    side.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        change()
    graph.replay()
    torch.cuda.synchronize()
    for got, wanted in zip(captured, step(), strict=True):
        assert torch.equal(got, wanted)


# Heads besides IQE: function and options. Components of one value, of whole and of broken packs of 16 bytes, of several
# slices of 32; every form of MRN's eps and exponent.
HEADS = {
    "mrn": ("mrn", {}),
    "mrn-33": ("mrn", {"num_components": 7, "asymmetric": "second", "exponent": 1.5, "eps": 0.1}),
    "mrn-torchqmet": ("mrn", {"preset": "torchqmet"}),
    "mrn-ogbench": ("mrn", {"preset": "ogbench"}),
    "mrn-mqe": ("mrn", {"preset": "mqe"}),
    "mrn-components": ("mrn", {"num_components": 231, "asymmetric": "none", "reduction": "none"}),
    "pqe-1": ("pqe", {"dim_per_component": 1}),
    "pqe-8": ("pqe", {"dim_per_component": 8}),
    "pqe-33": ("pqe", {"dim_per_component": 33, "reduction": "none"}),
    "pqe-1848": ("pqe", {"dim_per_component": 1848}),
}
SIZE = 1848  # a multiple of 7, 8, 33, 231


@pytest.fixture(params=("cuda", "triton"))
def backend(request) -> str:
    for op in dispatch.OPS:
        reason = dispatch.why_not(request.param, op, "cuda")
        if reason is not None:
            pytest.skip(f"backend {request.param}: {reason}")
    return request.param


def _points(function: str, size: int, dtype: torch.dtype, num_x: int = 123, num_y: int = 507) -> list[torch.Tensor]:
    """x and y: of as many rows elementwise, of different numbers of rows for a matrix."""
    generator = torch.Generator(device="cuda").manual_seed(size)
    rows = (num_y, num_y) if function == "iqe" else (num_x, num_y)
    points = [torch.randn(n, size, generator=generator, device="cuda", dtype=torch.float64) for n in rows]
    points[1] += 0.5
    return [one.to(dtype) for one in points]


def _with_gradients(function: str, backend: str, points, max_weight, grad, **options) -> list[torch.Tensor]:
    """The distances, and the gradients by x, y and, where there is one, max_weight."""
    points = [one.detach().requires_grad_() for one in points]
    inputs = list(points)
    if max_weight is not None:
        max_weight = max_weight.detach().requires_grad_()
        inputs.append(max_weight)
    out = getattr(qm, function)(*points, max_weight=max_weight, backend=backend, **options)
    return [out.detach(), *torch.autograd.grad(out, inputs, grad.to(out.dtype))]


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dim_per_component", (1, 4, 5, 8, 16, 32, 33, 64, 130))
@pytest.mark.parametrize("function", FUNCTIONS)
def test_error_is_no_worse_than_that_of_plain_torch(function, backend, dim_per_component, reduction, dtype):
    points = _points(function, 7 * dim_per_component, dtype)
    max_weight = torch.tensor(0.3, device="cuda", dtype=dtype) if reduction == "maxmean" else None
    options = {"dim_per_component": dim_per_component, "reduction": reduction}
    exact_points = [one.double() for one in points]
    exact_weight = None if max_weight is None else max_weight.double()
    shape = getattr(qm, function)(*points, max_weight=max_weight, backend="reference", **options).shape
    grad = torch.randn(shape, device="cuda", dtype=torch.float64)
    truth = _with_gradients(function, "reference", exact_points, exact_weight, grad, **options)
    plain = _with_gradients(function, "reference", points, max_weight, grad, **options)
    kernel = _with_gradients(function, backend, points, max_weight, grad, **options)
    assert_no_worse(kernel, plain, truth, dtype)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_nan_gives_nan_where_it_is_and_nowhere_else(function, backend):
    x, y = _points(function, 64, torch.float32)
    y[3, 17] = torch.nan
    out = getattr(qm, function)(x, y, 16, backend=backend)
    is_nan = out.isnan()
    assert is_nan[..., 3].all()
    assert is_nan.sum() == is_nan[..., 3].numel()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_graph_replays_forward_and_backward_with_new_numbers(function, backend):
    points = [one.requires_grad_() for one in _points(function, 64, torch.float32)]
    max_weight = torch.tensor(0.3, device="cuda", requires_grad=True)

    def step() -> list[torch.Tensor]:
        out = getattr(qm, function)(*points, 16, max_weight=max_weight, backend=backend)
        return [out, *torch.autograd.grad(out.sum(), [*points, max_weight])]

    def change() -> None:
        points[0].mul_(0.5)
        max_weight.fill_(0.7)

    assert_graph_replays(step, change)


@pytest.mark.parametrize("dim_per_component", (8, 33))
@pytest.mark.parametrize("function", FUNCTIONS)
def test_two_runs_give_the_same_bits(function, backend, dim_per_component):
    points = _points(function, 4 * dim_per_component, torch.float32)
    weight = torch.tensor(0.3, device="cuda")
    grad = torch.randn_like(getattr(qm, function)(*points, dim_per_component, backend=backend))
    runs = [_with_gradients(function, backend, points, weight, grad, dim_per_component=dim_per_component) for _ in "ab"]
    for one, other in zip(*runs, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_stream_of_its_own_is_used(function, backend):
    points = _points(function, 64, torch.float32)
    wanted = getattr(qm, function)(*points, 16, backend="reference")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        # Behind work of this stream alone: a kernel on another stream would read the numbers before they are there.
        torch.cuda._sleep(20_000_000)
        moved = [one + 1 for one in points]
        out = getattr(qm, function)(*moved, 16, backend=backend)
    side.synchronize()
    torch.testing.assert_close(out, wanted, rtol=1e-4, atol=1e-4)


def test_one_component_of_4096_values_spans_the_row(backend):
    if backend == "triton":
        pytest.skip("the Triton kernel compares every two values: 16 million for this row")
    x, y = _points("iqe", 4096, torch.float32, num_y=7)
    y = x + y.abs() / 256
    out = qm.iqe(x, y, 4096, reduction="sum", backend=backend)
    wanted = qm.iqe(x.double(), y.double(), 4096, reduction="sum", backend="reference")
    torch.testing.assert_close(out.double(), wanted, rtol=1e-5, atol=1e-5)


def _skip_without_memory(gigabytes: int) -> None:
    free = torch.cuda.mem_get_info()[0] / 2**30
    if free < gigabytes:
        pytest.skip(f"needs {gigabytes} GiB of GPU memory, {free:.0f} are free")


def test_more_than_2_to_the_31_values(backend):
    _skip_without_memory(60)
    rows, size = 2**22 + 3, 512
    x = torch.empty(rows, size, device="cuda").normal_()
    y = torch.empty(rows, size, device="cuda").normal_()
    x.requires_grad_()
    y.requires_grad_()
    out = qm.iqe(x, y, 8, reduction="sum", backend=backend)
    last = [one.detach()[-5:].requires_grad_() for one in (x, y)]
    wanted = qm.iqe(*last, 8, reduction="sum", backend="reference")
    torch.testing.assert_close(out[-5:], wanted, rtol=1e-5, atol=1e-4)
    grads = torch.autograd.grad(out.sum(), (x, y))
    for got, expected in zip(grads, torch.autograd.grad(wanted.sum(), last), strict=True):
        assert torch.equal(got[-5:], expected)


def test_more_than_2_to_the_31_pairs(backend):
    _skip_without_memory(60)
    num_x, num_y = 46400, 46401
    x = torch.empty(num_x, 8, device="cuda").normal_().requires_grad_()
    y = torch.empty(num_y, 8, device="cuda").normal_().requires_grad_()
    out = qm.iqe_pairwise(x, y, 8, reduction="sum", backend=backend)
    wanted = qm.iqe_pairwise(x.detach()[-3:], y.detach(), 8, reduction="sum", backend="reference")
    torch.testing.assert_close(out.detach()[-3:], wanted, rtol=1e-5, atol=1e-4)
    # Left ends are counted exactly: every sum is a whole number below 2^24.
    (grad_x,) = torch.autograd.grad(out, x, torch.ones((), device="cuda").expand_as(out))
    last = x.detach()[-3:].requires_grad_()
    (expected,) = torch.autograd.grad(
        qm.iqe_pairwise(last, y.detach(), 8, reduction="sum", backend="reference").sum(), last
    )
    assert torch.equal(grad_x[-3:], expected)


def _head(name: str, pairwise: bool):
    function, options = HEADS[name]
    return partial(getattr(qm, f"{function}_pairwise" if pairwise else function), **options)


def _weights(name: str, dtype: torch.dtype) -> list[torch.Tensor]:
    """PQE's weights, a tensor with a gradient."""
    function, options = HEADS[name]
    if function != "pqe" or "reduction" in options:
        return []
    return [torch.linspace(0.5, 1.5, SIZE // options["dim_per_component"], device="cuda", dtype=dtype)]


def _head_and_gradients(name: str, pairwise: bool, backend: str, tensors, grad=None) -> list[torch.Tensor]:
    """The distances, and the gradients by x, y and, where there are any, weights."""
    x, y, *weights = tensors = [one.detach().requires_grad_() for one in tensors]
    named = {"weights": weights[0]} if weights else {}
    out = _head(name, pairwise)(x, y, backend=backend, **named)
    grad = torch.ones_like(out) if grad is None else grad.to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, tensors, grad)]


# One row or column more than whole tiles; few pairs are split over many blocks, many are not.
SHAPES = {"few": (33, 65), "many": (1025, 513)}


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("pairwise", (False, True), ids=("rows", "pairs"))
@pytest.mark.parametrize("name", HEADS)
def test_a_heads_error_is_no_worse_than_that_of_plain_torch(name, pairwise, shape, backend, dtype):
    points = _points("iqe_pairwise" if pairwise else "iqe", SIZE, dtype, *SHAPES[shape])
    tensors = [*points, *_weights(name, dtype)]
    exact = [one.double() for one in tensors]
    grad = torch.randn_like(_head(name, pairwise)(*points, backend="reference"), dtype=torch.float64)
    truth = _head_and_gradients(name, pairwise, "reference", exact, grad)
    plain = _head_and_gradients(name, pairwise, "reference", tensors, grad)
    kernel = _head_and_gradients(name, pairwise, backend, tensors, grad)
    assert_no_worse(kernel, plain, truth, dtype)


@pytest.mark.parametrize("pairwise", (False, True), ids=("rows", "pairs"))
@pytest.mark.parametrize("name", HEADS)
def test_nan_gives_nan_in_its_own_rows_of_a_head(name, pairwise, backend):
    x, y = _points("iqe_pairwise" if pairwise else "iqe", SIZE, torch.float32, 33, 65)
    y[3, 17] = torch.nan
    got, wanted = (_head(name, pairwise)(x, y, backend=one).isnan() for one in (backend, "reference"))
    assert torch.equal(got, wanted)


@pytest.mark.parametrize("pairwise", (False, True), ids=("rows", "pairs"))
@pytest.mark.parametrize("name", HEADS)
def test_a_graph_replays_a_head_with_new_numbers(name, pairwise, backend):
    points = _points("iqe_pairwise" if pairwise else "iqe", SIZE, torch.float32, 33, 65)
    tensors = [*points, *_weights(name, torch.float32)]

    def step() -> list[torch.Tensor]:
        return _head_and_gradients(name, pairwise, backend, tensors)

    def change() -> None:
        points[0].mul_(0.5)

    assert_graph_replays(step, change)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("pairwise", (False, True), ids=("rows", "pairs"))
@pytest.mark.parametrize("name", HEADS)
def test_two_runs_of_a_head_give_the_same_bits(name, pairwise, shape, backend):
    points = _points("iqe_pairwise" if pairwise else "iqe", SIZE, torch.float32, *SHAPES[shape])
    tensors = [*points, *_weights(name, torch.float32)]
    runs = [_head_and_gradients(name, pairwise, backend, tensors) for _ in "ab"]
    for one, other in zip(*runs, strict=True):
        assert torch.equal(one, other)


def test_more_than_2_to_the_31_values_of_a_head(backend):
    _skip_without_memory(60)
    rows, size = 2**22 + 3, 512
    x = torch.empty(rows, size, device="cuda").normal_().requires_grad_()
    y = torch.empty(rows, size, device="cuda").normal_().requires_grad_()
    for head in (partial(qm.mrn, preset="tmd"), partial(qm.pqe, dim_per_component=8)):
        out = head(x, y, backend=backend)
        last = [one.detach()[-5:].requires_grad_() for one in (x, y)]
        wanted = head(*last, backend="reference")
        torch.testing.assert_close(out[-5:], wanted, rtol=1e-5, atol=1e-4)
        grads = torch.autograd.grad(out.sum(), (x, y))
        for got, expected in zip(grads, torch.autograd.grad(wanted.sum(), last), strict=True):
            torch.testing.assert_close(got[-5:], expected, rtol=1e-5, atol=1e-5)
        del grads


def test_more_than_2_to_the_31_pairs_of_a_head(backend):
    _skip_without_memory(60)
    x = torch.empty(46400, 8, device="cuda").normal_().requires_grad_()
    y = torch.empty(46401, 8, device="cuda").normal_()
    for head in (partial(qm.mrn_pairwise), partial(qm.pqe_pairwise, dim_per_component=4)):
        out = head(x, y, backend=backend)
        last = x.detach()[-3:].requires_grad_()
        wanted = head(last, y, backend="reference")
        torch.testing.assert_close(out.detach()[-3:], wanted, rtol=1e-5, atol=1e-4)
        (grad,) = torch.autograd.grad(out, x, torch.ones((), device="cuda").expand_as(out))
        (expected,) = torch.autograd.grad(wanted.sum(), last)
        torch.testing.assert_close(grad[-3:], expected, rtol=1e-4, atol=1e-2)


def _qrl_tensors(size: int, dtype: torch.dtype, with_goal: bool, rows: int = 507) -> list[torch.Tensor]:
    """raw, max_weight, x, y and perhaps goals."""
    generator = torch.Generator(device="cuda").manual_seed(size)
    points = torch.randn(3, rows, size, generator=generator, device="cuda", dtype=torch.float64)
    points[1:] += 0.5
    scalars = torch.tensor([0.4, 0.3], device="cuda", dtype=torch.float64)
    return [one.clone().to(dtype) for one in (*scalars, *points[: 3 if with_goal else 2])]


def _qrl_and_gradients(backend: str, tensors, size: int, reduction: str = "maxmean", **options) -> list[torch.Tensor]:
    """The loss, the statistics and the gradients by all tensors that take part."""
    tensors = [one.detach().requires_grad_() for one in tensors]
    raw, max_weight, x, y, *goal = tensors
    if reduction != "maxmean":
        max_weight = None
        del tensors[1]
    cost = torch.linspace(0.5, 4, len(x), device="cuda", dtype=x.dtype)
    form = QrlCriticSettings(size, reduction, 0.7, 3.0, **options)
    loss, stats = qrl_critic(x, y, goal[0] if goal else None, max_weight, raw, cost, form, backend)
    return [loss.detach(), stats, *torch.autograd.grad(loss, tensors)]


def _pair_loss_and_gradient(backend: str, kind: str, distance, after) -> list[torch.Tensor]:
    distance = distance.detach().requires_grad_()
    form = PairLossSettings(kind, 0.7, 0.1, 0.7, 2.0, 0.4, -0.1, 1.3, 0.6, 3)
    with qm.use_backend(backend):
        loss, stats = pair_loss(distance, after, None, form)
    return [loss.detach(), torch.stack(stats), *torch.autograd.grad(loss, distance)]


def _pair_distances(dtype: torch.dtype) -> torch.Tensor:
    """Distances (2, 507, 1023) of an ensemble, and those after a step."""
    generator = torch.Generator("cuda").manual_seed(0)
    return (6 * torch.rand(2, 2, 507, 1023, generator=generator, device="cuda", dtype=torch.float64)).to(dtype)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
@pytest.mark.parametrize("with_after", (False, True))
@pytest.mark.parametrize("kind", KINDS[1:])
def test_pair_losses_error_is_no_worse_than_that_of_plain_torch(kind, with_after, dtype, backend):
    distance, after = _pair_distances(dtype)
    after = after if with_after else None
    exact = None if after is None else after.double()
    truth = _pair_loss_and_gradient("reference", kind, distance.double(), exact)
    plain = _pair_loss_and_gradient("reference", kind, distance, after)
    kernel = _pair_loss_and_gradient(backend, kind, distance, after)
    assert_no_worse(kernel, plain, truth, dtype)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_two_runs_of_pair_loss_give_the_same_bits_and_a_graph_replays_it(kind, backend):
    distance, after = _pair_distances(torch.float32)
    runs = [_pair_loss_and_gradient(backend, kind, distance, after) for _ in "ab"]
    for one, other in zip(*runs, strict=True):
        assert torch.equal(one, other)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = _pair_loss_and_gradient(backend, kind, distance, after)
    distance.mul_(0.5)
    graph.replay()
    torch.cuda.synchronize()
    for got, wanted in zip(captured, _pair_loss_and_gradient(backend, kind, distance, after), strict=True):
        assert torch.equal(got, wanted)


WITH_GOAL = pytest.mark.parametrize("with_goal", (False, True), ids=("rolled", "goal"))


@WITH_GOAL
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
@pytest.mark.parametrize("reduction", REDUCTIONS[1:])
@pytest.mark.parametrize("dim_per_component", (1, 4, 5, 8, 16, 32, 33, 130))
def test_qrls_error_is_no_worse_than_that_of_plain_torch(dim_per_component, reduction, dtype, with_goal, backend):
    tensors = _qrl_tensors(7 * dim_per_component, dtype, with_goal)
    arguments = dim_per_component, reduction
    options = {"multiplier": "exp"} if with_goal else {}
    truth = _qrl_and_gradients("reference", [one.double() for one in tensors], *arguments, **options)
    plain = _qrl_and_gradients("reference", tensors, *arguments, **options)
    kernel = _qrl_and_gradients(backend, tensors, *arguments, **options)
    assert_no_worse(kernel, plain, truth, dtype)


@WITH_GOAL
@pytest.mark.parametrize("dim_per_component", (8, 33))
def test_a_graph_replays_qrl_with_new_numbers(dim_per_component, with_goal, backend):
    tensors = _qrl_tensors(4 * dim_per_component, torch.float32, with_goal)

    def step() -> list[torch.Tensor]:
        return _qrl_and_gradients(backend, tensors, dim_per_component)

    def change() -> None:
        for one in tensors:
            one.mul_(0.5)

    assert_graph_replays(step, change)


@WITH_GOAL
@pytest.mark.parametrize("dim_per_component", (8, 33))
def test_two_runs_of_qrl_give_the_same_bits(dim_per_component, with_goal, backend):
    tensors = _qrl_tensors(4 * dim_per_component, torch.float32, with_goal, rows=4099)
    runs = [_qrl_and_gradients(backend, tensors, dim_per_component) for _ in "ab"]
    for one, other in zip(*runs, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dim_per_component", (8, 33))
def test_nan_reaches_qrls_loss_and_no_other_rows_gradient(dim_per_component, backend):
    tensors = _qrl_tensors(4 * dim_per_component, torch.float32, True)
    wanted = _qrl_and_gradients("reference", tensors, dim_per_component)
    tensors[2][3, 17] = torch.nan
    got = _qrl_and_gradients(backend, tensors, dim_per_component)
    assert got[0].isnan()
    others = torch.arange(len(tensors[2]), device="cuda") != 3
    for one, other in zip(got[4:], wanted[4:], strict=True):
        torch.testing.assert_close(one[others], other[others], rtol=1e-5, atol=1e-6)


def test_more_than_2_to_the_31_values_of_qrl(backend):
    if backend == "triton":
        pytest.skip("the Triton backend keeps copies: 100 GiB")
    _skip_without_memory(60)
    rows, size = 2**22 + 3, 512
    x, y = (torch.empty(rows, size, device="cuda").normal_().requires_grad_() for _ in "xy")
    raw, cost, form = (
        torch.zeros((), device="cuda"),
        torch.ones(1, device="cuda"),
        QrlCriticSettings(8, "mean", threshold=1.0),
    )
    loss, _ = qrl_critic(x, y, None, None, raw, cost, form, backend)
    last = [one.detach()[-5:].requires_grad_() for one in (x, y)]
    wanted, _ = qrl_critic(*last, None, None, raw, cost, form, "reference")
    # The first of these rows has another goal here, and the last is one.
    kept = slice(1, 4)
    expected = [one[kept] * 5 for one in torch.autograd.grad(wanted, last)]
    for got, other in zip(torch.autograd.grad(loss, (x, y)), expected, strict=True):
        torch.testing.assert_close(got[-5:][kept] * rows, other, rtol=1e-4, atol=1e-5)


def _metra_tensors(size: int, dtype: torch.dtype, rows: int = 507) -> list[torch.Tensor]:
    """phi, phi_next, skill and log_multiplier; some steps are longer than one, others shorter."""
    generator = torch.Generator(device="cuda").manual_seed(size)
    phi, step, skill = torch.randn(3, rows, size, generator=generator, device="cuda", dtype=torch.float64)
    raw = torch.tensor(0.4, device="cuda", dtype=torch.float64)
    return [one.to(dtype) for one in (phi, phi + step / size**0.5, skill, raw)]


def _metra_and_gradients(backend: str, tensors, norm: str = "sum") -> list[torch.Tensor]:
    """What METRA's loss returns, and the gradients by all tensors."""
    leaves = [one.detach().requires_grad_() for one in tensors]
    with qm.use_backend(backend):
        found = qm.losses.metra(*leaves, norm=norm)
    return [*(value.detach() for value in found), *torch.autograd.grad(found.loss, leaves)]


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
@pytest.mark.parametrize("norm", ("sum", "mean"))
@pytest.mark.parametrize("size", (1, 2, 4, 33, 512, 1030))
def test_metras_error_is_no_worse_than_that_of_plain_torch(size, norm, dtype, backend):
    tensors = _metra_tensors(size, dtype)
    if norm == "mean":
        tensors[1] = tensors[0] + (tensors[1] - tensors[0]) * size**0.5
    truth = _metra_and_gradients("reference", [one.double() for one in tensors], norm)
    plain = _metra_and_gradients("reference", tensors, norm)
    kernel = _metra_and_gradients(backend, tensors, norm)
    # Within rounding of the slack, a row may be on either side.
    squared = (tensors[1] - tensors[0]).double().square()
    squared = squared.sum(dim=-1) if norm == "sum" else squared.mean(dim=-1)
    clear = (1 - squared - 1e-3).abs() > 1e-5
    for place, (got, usual, wanted) in enumerate(zip(kernel, plain, truth, strict=True)):
        if place in (5, 6):
            got, usual, wanted = got[clear], usual[clear], wanted[clear]
        allowed = (usual - wanted).abs().max() + 100 * torch.finfo(dtype).eps * wanted.abs().max()
        assert (got - wanted).abs().max() <= allowed


@pytest.mark.parametrize("size", (2, 512))
def test_a_graph_replays_metra_with_new_numbers(size, backend):
    tensors = _metra_tensors(size, torch.float32)

    def step() -> list[torch.Tensor]:
        return _metra_and_gradients(backend, tensors)

    def change() -> None:
        for one in tensors:
            one.mul_(0.5)

    assert_graph_replays(step, change)


@pytest.mark.parametrize("size", (2, 33))
def test_two_runs_of_metra_give_the_same_bits(size, backend):
    tensors = _metra_tensors(size, torch.float32, rows=4099)
    runs = [_metra_and_gradients(backend, tensors) for _ in "ab"]
    for one, other in zip(*runs, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("value", (torch.nan, torch.inf))
@pytest.mark.parametrize("place", (0, 2), ids=("phi", "skill"))
def test_what_is_not_finite_in_metra_gives_what_the_reference_gives(place, value, backend):
    tensors = _metra_tensors(33, torch.float64)
    tensors[place][3, 17] = value
    results = [_metra_and_gradients(one, tensors) for one in (backend, "reference")]
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted, equal_nan=True)


def _dynamics_and_gradients(backend: str, tensors, *form) -> list[torch.Tensor]:
    """The loss, the statistics and the gradients by all tensors that take part, of `_qrl_tensors` without raw."""
    max_weight, x, y = tensors = [one.detach().requires_grad_() for one in tensors[1:]]
    form = LatentDynamicsSettings(*form)
    if form.reduction != "maxmean":
        max_weight, tensors = None, [x, y]
    loss, stats = latent_dynamics(x, y, max_weight, form, backend)
    return [loss.detach(), stats, *torch.autograd.grad(loss, tensors)]


@pytest.mark.parametrize("power", (1, 2))
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
@pytest.mark.parametrize("reduction", REDUCTIONS[1:])
@pytest.mark.parametrize("dim_per_component", (1, 4, 5, 8, 16, 32, 33, 130))
def test_the_error_of_latent_dynamics_is_no_worse_than_that_of_plain_torch(
    dim_per_component, reduction, dtype, power, backend
):
    tensors, form = _qrl_tensors(7 * dim_per_component, dtype, False), (dim_per_component, reduction, power)
    truth = _dynamics_and_gradients("reference", [one.double() for one in tensors], *form)
    plain = _dynamics_and_gradients("reference", tensors, *form)
    kernel = _dynamics_and_gradients(backend, tensors, *form)
    assert_no_worse(kernel, plain, truth, dtype)


@pytest.mark.parametrize("dim_per_component", (8, 33))
def test_a_graph_replays_latent_dynamics_with_new_numbers(dim_per_component, backend):
    tensors = _qrl_tensors(4 * dim_per_component, torch.float32, False)

    def step() -> list[torch.Tensor]:
        return _dynamics_and_gradients(backend, tensors, dim_per_component)

    def change() -> None:
        for one in tensors:
            one.mul_(0.5)

    assert_graph_replays(step, change)


@pytest.mark.parametrize("dim_per_component", (8, 33))
def test_two_runs_of_latent_dynamics_give_the_same_bits(dim_per_component, backend):
    tensors = _qrl_tensors(4 * dim_per_component, torch.float32, False, rows=4099)
    runs = [_dynamics_and_gradients(backend, tensors, dim_per_component) for _ in "ab"]
    for one, other in zip(*runs, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("side", (2, 3))
@pytest.mark.parametrize("dim_per_component", (8, 33))
def test_nan_reaches_the_latent_dynamics_and_no_other_rows_gradient(dim_per_component, side, backend):
    tensors = _qrl_tensors(4 * dim_per_component, torch.float32, False)
    wanted = _dynamics_and_gradients("reference", tensors, dim_per_component)
    tensors[side][3, 17] = torch.nan
    got = _dynamics_and_gradients(backend, tensors, dim_per_component)
    assert got[0].isnan() and got[1].isnan().all()
    others = torch.arange(len(tensors[2]), device="cuda") != 3
    for one, other in zip(got[3:], wanted[3:], strict=True):
        torch.testing.assert_close(one[others], other[others], rtol=1e-5, atol=1e-6)


def _temporal_tensors(size: int, dtype: torch.dtype, steps: int = 5, batch: int = 257) -> list[torch.Tensor]:
    """predicted, target and a mask."""
    generator = torch.Generator(device="cuda").manual_seed(size)
    latents = torch.randn(2, steps, batch, size, generator=generator, device="cuda", dtype=torch.float64)
    latents[1] += 0.5 * latents[0]
    mask = torch.rand(steps, batch, generator=generator, device="cuda") > 0.3
    return [*latents.to(dtype).clone(), mask.to(dtype)]


def _temporal_and_gradient(backend: str, tensors) -> list[torch.Tensor]:
    """The loss, the similarity and the gradient by predicted."""
    predicted = tensors[0].detach().requires_grad_()
    with qm.use_backend(backend):
        found = qm.losses.temporal_consistency(predicted, *tensors[1:])
        return [found.loss.detach(), found.similarity, *torch.autograd.grad(found.loss, predicted)]


# A few threads a row and 32, whole packs of 16 bytes and broken ones. Of one value the gradient is 0 but for rounding.
TEMPORAL_SIZES = (3, 8, 33, 130, 512, 1024, 5003)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
@pytest.mark.parametrize("size", TEMPORAL_SIZES)
def test_temporal_consistencys_error_is_no_worse_than_that_of_plain_torch(size, dtype, backend):
    tensors = _temporal_tensors(size, dtype)
    truth = _temporal_and_gradient("reference", [one.double() for one in tensors])
    plain, kernel = _temporal_and_gradient("reference", tensors), _temporal_and_gradient(backend, tensors)
    for got, usual, wanted in zip(kernel, plain, truth, strict=True):
        # The loss is of cosines, which round in the last place of 1.
        scale = wanted.abs().max().clamp(min=1) if wanted.dim() < 3 else wanted.abs().max()
        assert (got - wanted).abs().max() <= (usual - wanted).abs().max() + 100 * torch.finfo(dtype).eps * scale


@pytest.mark.parametrize("size", (33, 512))
def test_a_graph_replays_temporal_consistency_with_new_numbers(size, backend):
    tensors = _temporal_tensors(size, torch.float32)

    def step() -> list[torch.Tensor]:
        return _temporal_and_gradient(backend, tensors)

    def change() -> None:
        tensors[0].sub_(0.5)

    assert_graph_replays(step, change)


@pytest.mark.parametrize("size", (33, 512))
def test_two_runs_of_temporal_consistency_give_the_same_bits(size, backend):
    tensors = _temporal_tensors(size, torch.float32, batch=4099)
    for one, other in zip(*(_temporal_and_gradient(backend, tensors) for _ in "ab"), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("value", (0.0, 1e-12, torch.nan, torch.inf))
@pytest.mark.parametrize("counts", (False, True))
def test_rows_of_temporal_consistency_without_a_direction_or_a_number_are_as_in_the_reference(value, counts, backend):
    tensors = _temporal_tensors(64, torch.float64)
    tensors[0][1, 3], tensors[1][3, 5] = value, value
    tensors[2][1, 3] = tensors[2][3, 5] = counts
    results = [_temporal_and_gradient(one, tensors) for one in (backend, "reference")]
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted, equal_nan=True, rtol=1e-12, atol=1e-12)


def test_more_than_2_to_the_31_values_of_temporal_consistency(backend):
    _skip_without_memory(60)
    steps, batch, size = 3, 2**21 + 3, 512
    predicted = torch.empty(steps, batch, size, device="cuda").normal_().requires_grad_()
    target = torch.empty(steps, batch, size, device="cuda").normal_()
    with qm.use_backend(backend):
        found = qm.losses.temporal_consistency(predicted, target)
    (grad,) = torch.autograd.grad(found.loss, predicted)
    last = predicted.detach()[:, -5:].requires_grad_()
    with qm.use_backend("reference"):
        wanted = qm.losses.temporal_consistency(last, target[:, -5:]).loss
    (expected,) = torch.autograd.grad(wanted, last)
    torch.testing.assert_close(grad[:, -5:] * (batch / 5), expected, rtol=1e-4, atol=1e-5)


POISSON = ("poisson_le", "poisson_gt", "log_poisson_le")


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
@pytest.mark.parametrize("function", POISSON)
def test_poisson_comparisons_agree_with_the_reference(function, backend, dtype):
    rates = torch.tensor([0.0, 1e-8, 1e-3, 0.5, 1.0, 1.99, 2.01, 14.9, 15.1, 60.0], device="cuda", dtype=dtype)
    a, b = (one.flatten().clone().requires_grad_() for one in torch.meshgrid(rates, rates, indexing="ij"))
    # Near 0 the reference's logarithm is that of a sum close to 1, which is rounded.
    tolerance = {"rtol": 2e-6 if dtype == torch.float32 else 1e-9, "atol": 1e-13}
    results = []
    for one in (backend, "reference"):
        out = getattr(qm, function)(a, b, backend=one)
        results.append([out.detach(), *torch.autograd.grad(out.sum(), (a, b))])
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted, **tolerance)


def _merged(distances: torch.Tensor, k: int, backend: str, tile: int) -> tuple[torch.Tensor, torch.Tensor]:
    functions = dispatch.resolve("nearest", "cuda", backend).module
    values = distances.new_full((distances.shape[0], k), torch.inf)
    indices = torch.full(values.shape, -1, device="cuda")
    for first in range(0, distances.shape[1], tile):
        part = distances[:, first : first + tile].contiguous()
        values, indices = functions.nearest_merge(part, values, indices, first)
    return values, indices


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
@pytest.mark.parametrize("levels", (0, 50), ids=("distinct", "ties"))
@pytest.mark.parametrize("rows", (3, 4099))
@pytest.mark.parametrize("k", (1, 2, 32, 33, 1000))
def test_the_k_smallest_agree_with_the_reference(k, rows, levels, backend, dtype):
    generator = torch.Generator(device="cuda").manual_seed(k)
    distances = torch.randn(rows, 5003, generator=generator, device="cuda", dtype=dtype)
    if levels:
        distances = (distances * levels).round()
    distances[0, 7::3] = torch.nan
    values, indices = _merged(distances, k, backend, 1777)
    wanted = nearest_definition.smallest(distances, k)
    assert torch.equal(indices, wanted[1])
    torch.testing.assert_close(values, wanted[0], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("k", (1, 7, 40))
def test_nearest_finds_what_the_reference_finds(k, backend):
    x, y = _points("iqe_pairwise", 64, torch.float32)
    found = qm.nearest(x, y, k, metric=partial(qm.mrn, preset="tmd", backend="reference"), backend=backend)
    wanted = qm.nearest(x, y, k, metric=partial(qm.mrn, preset="tmd", backend="reference"), backend="reference")
    assert torch.equal(found.indices, wanted.indices)
    assert torch.equal(found.values, wanted.values)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
@pytest.mark.parametrize("size", (1, 2, 5, 8, 40))
def test_small_sizes_of_every_kernel_agree_with_the_reference(size, backend, dtype):
    x, y = _points("iqe_pairwise", 3 * size, dtype, 7, 7)
    heads = [partial(qm.iqe, dim_per_component=size), partial(qm.iqe_pairwise, dim_per_component=size)]
    heads += [partial(qm.mrn, num_components=3), partial(qm.mrn_pairwise, num_components=3)]
    heads += [partial(qm.pqe, dim_per_component=size), partial(qm.pqe_pairwise, dim_per_component=size)]
    heads += [lambda x, y, backend: qm.poisson_le(x.abs(), y.abs(), backend=backend)]
    for head in heads:
        results = []
        for one in (backend, "reference"):
            leaves = [points.clone().requires_grad_() for points in (x, y)]
            out = head(*leaves, backend=one)
            results.append([out.detach(), *torch.autograd.grad(out.sum(), leaves)])
        for got, wanted in zip(*results, strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    for with_goal in (False, True):
        tensors = _qrl_tensors(3 * size, dtype, with_goal, rows=7)
        results = [_qrl_and_gradients(one, tensors, size) for one in (backend, "reference")]
        for got, wanted in zip(*results, strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    tensors = _metra_tensors(3 * size, dtype, rows=7)
    results = [_metra_and_gradients(one, tensors) for one in (backend, "reference")]
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    results = [_dynamics_and_gradients(one, tensors[:4], size) for one in (backend, "reference")]
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    tensors = _temporal_tensors(3 * size, dtype, steps=2, batch=7)
    for got, wanted in zip(*(_temporal_and_gradient(one, tensors) for one in (backend, "reference")), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    distances = torch.randn(7, 130, device="cuda", dtype=dtype)
    for k in (1, 5, 50):
        wanted = nearest_definition.smallest(distances, k)
        for got, expected in zip(_merged(distances, k, backend, 100), wanted, strict=True):
            assert torch.equal(got, expected)
