"""IQE on a GPU: the public functions on the CUDA and the Triton backend against the reference in float64."""

from __future__ import annotations

import pytest
import torch

import qmkernels as qm
from qmkernels.backends import table

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")

REDUCTIONS = ("none", "sum", "mean", "max", "maxmean")
FUNCTIONS = ("iqe", "iqe_pairwise")


@pytest.fixture(params=("cuda", "triton"))
def backend(request) -> str:
    reason = table.why_not(request.param, "iqe", "cuda")
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
    for got, usual, wanted in zip(kernel, plain, truth, strict=True):
        # Sums in another order: as many roundings, of other numbers. A hundred of the last place of the largest.
        allowed = (usual - wanted).abs().max() + 100 * torch.finfo(dtype).eps * wanted.abs().max()
        assert (got - wanted).abs().max() <= allowed


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

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    side.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        points[0].mul_(0.5)
        max_weight.fill_(0.7)
    graph.replay()
    torch.cuda.synchronize()
    for got, wanted in zip(captured, step(), strict=True):
        assert torch.equal(got, wanted)


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
