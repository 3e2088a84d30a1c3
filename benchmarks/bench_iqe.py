"""IQE beside every other way to compute it, for pytest-benchmark; the contenders are also what measure_iqe.py times.

    pytest benchmarks/bench_iqe.py --benchmark-group-by=group

Groups are op, sizes and direction; a contender that cannot run is skipped and says why. torchqmet is taken from the
checkout that QMKERNELS_TORCHQMET names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from comparison import DIRECTIONS, Unavailable, compiled, torchqmet
from torch import Tensor, nn

import qmkernels as qm
from qmkernels.backends import dispatch


@dataclass(frozen=True)
class Case:
    """One problem: rows of x against the matching rows of y, or, with ``columns``, against every row of y."""

    rows: int
    columns: int | None
    size: int
    dim_per_component: int

    @property
    def form(self) -> str:
        return "elementwise" if self.columns is None else "pairwise"

    @property
    def name(self) -> str:
        shape = f"({self.rows}, {self.size})" if self.columns is None else f"{self.rows}x{self.columns} D={self.size}"
        return f"{self.form} {shape} K={self.dim_per_component}"

    @property
    def elements(self) -> int:
        """Intervals that a scan goes through."""
        return self.rows * (self.columns or 1) * self.size

    @property
    def whole_matrix_mib(self) -> int:
        """Size of one float32 tensor of all intervals, (N, M, D) for a matrix: what plain forms hold several of."""
        return 4 * self.elements // 2**20


CASES = (
    Case(256, None, 512, 8),
    Case(256, None, 128, 16),
    Case(1024, None, 2048, 32),
    Case(128, 128, 512, 8),
    Case(1024, 1024, 512, 8),
)

# Of measure_iqe.py alone: how time and memory grow with the batch, and the contenders that are shown.
BATCH_SIZES = (
    *(Case(rows, None, 512, 8) for rows in (64, 256, 1024, 4096)),
    *(Case(rows, rows, 512, 8) for rows in (64, 128, 256, 512, 1024)),
)
SHOWN_BY_BATCH_SIZE = ("ours", "torchqmet", "unrolled compiled", "endpoints compiled")

# How many tensors of all intervals a contender holds at its peak, forward and forward+backward: measure_iqe.py's peak
# memory at 128x128, D=512, rounded up.
TENSORS_AT_PEAK = {
    "torchqmet": (16, 20),
    "sort": (5, 15),
    "sort compiled": (5, 8),
    "unrolled": (3, 9),
    "unrolled compiled": (0.3, 6),
    "endpoints compiled": (0.7, 0.8),
}
LARGEST_PEAK_GIB = 4.0
LARGEST_MATRIX_FOR_REFERENCE_MIB = 512


class PlainIQE(nn.Module):
    """IQE-maxmean around one plain PyTorch form of the components."""

    def __init__(self, components: Callable[[Tensor, Tensor], Tensor], dim_per_component: int) -> None:
        super().__init__()
        self.components = components
        self.dim_per_component = dim_per_component
        self.raw_alpha = nn.Parameter(torch.tensor(-1.0))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        shape = (-1, self.dim_per_component)
        lengths = self.components(x.unflatten(-1, shape), y.unflatten(-1, shape))
        mean = lengths.mean(dim=-1)
        return mean + self.raw_alpha.sigmoid() * (lengths.amax(dim=-1) - mean)


def sort_form(x: Tensor, y: Tensor) -> Tensor:
    """Sort x, gather y, running maximum: the form that broadcasts best, each x is sorted once."""
    x, y = _in_order_of_x(x, y)
    begin = torch.maximum(x[..., 1:], y.cummax(dim=-1).values[..., :-1])
    return (y[..., 0] - x[..., 0]).relu() + (y[..., 1:] - begin).relu().sum(dim=-1)


def unrolled_sort_form(x: Tensor, y: Tensor) -> Tensor:
    """The same with the running maximum written out, K steps on slices: slower to compile, faster to run."""
    x, y = _in_order_of_x(x, y)
    xs, ys = x.unbind(dim=-1), y.unbind(dim=-1)
    length, furthest = (ys[0] - xs[0]).relu(), ys[0]
    for x_k, y_k in zip(xs[1:], ys[1:], strict=True):
        length = length + (y_k - torch.maximum(furthest, x_k)).relu()
        furthest = torch.maximum(furthest, y_k)
    return length


def endpoint_form(x: Tensor, y: Tensor) -> Tensor:
    """No sort: K x K comparisons find the ends of the union, which are also the gradient."""
    with torch.no_grad():
        order = torch.arange(x.shape[-1], device=x.device)
        earlier = order < order.unsqueeze(-1)
        valid = (x < y).unsqueeze(-2)
        x_i, y_i, x_j, y_j = x.unsqueeze(-1), y.unsqueeze(-1), x.unsqueeze(-2), y.unsqueeze(-2)
        starts_before = (x_j < x_i) | ((x_j == x_i) & earlier)
        ends_after = (y_j > y_i) | ((y_j == y_i) & earlier)
        left = (x < y) & ~(valid & starts_before & (x_i <= y_j)).any(dim=-1)
        right = (x < y) & ~(valid & ends_after & (x_j <= y_i)).any(dim=-1)
    return (y * right - x * left).sum(dim=-1)


def _in_order_of_x(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    x, order = x.sort(dim=-1)
    order, y = torch.broadcast_tensors(order, y)
    return x, y.gather(-1, order)


Distance = Callable[[Tensor, Tensor], Tensor]


def _ours(backend: str) -> Callable[[Case, torch.device], tuple[Distance, list[Tensor]]]:
    def build(case: Case, device: torch.device) -> tuple[Distance, list[Tensor]]:
        reason = None if backend == "auto" else dispatch.why_not(backend, "iqe", device.type)
        if reason is not None:
            raise Unavailable(reason)
        if backend == "reference" and case.whole_matrix_mib > LARGEST_MATRIX_FOR_REFERENCE_MIB:
            raise Unavailable("it goes row by row and takes minutes")
        head = qm.nn.IQE(case.size, case.dim_per_component).to(device)
        distance = head if case.columns is None else head.pairwise
        if backend == "auto":
            return distance, list(head.parameters())

        def on_backend(x: Tensor, y: Tensor) -> Tensor:
            with qm.use_backend(backend):
                return distance(x, y)

        return on_backend, list(head.parameters())

    return build


def _plain(
    components: Callable[[Tensor, Tensor], Tensor], is_compiled: bool
) -> Callable[[Case, torch.device], tuple[Distance, list[Tensor]]]:
    def build(case: Case, device: torch.device) -> tuple[Distance, list[Tensor]]:
        head = PlainIQE(components, case.dim_per_component).to(device)
        return _broadcasting(compiled(head)() if is_compiled else head, case)

    return build


def _torchqmet(case: Case, device: torch.device) -> tuple[Distance, list[Tensor]]:
    return _broadcasting(torchqmet().IQE(case.size, case.dim_per_component).to(device), case)


def _broadcasting(head: nn.Module, case: Case) -> tuple[Distance, list[Tensor]]:
    if case.columns is None:
        return head, list(head.parameters())
    return lambda x, y: head(x[:, None], y), list(head.parameters())


def _refuse_what_does_not_fit(contender: str, case: Case, direction: str) -> None:
    tensors = TENSORS_AT_PEAK.get(contender, (0, 0))[DIRECTIONS.index(direction)]
    peak_gib = case.whole_matrix_mib * tensors / 1024
    if peak_gib > LARGEST_PEAK_GIB:
        raise Unavailable(f"needs about {peak_gib:.0f} GiB; {LARGEST_PEAK_GIB:.0f} GiB are the most we give it")


CONTENDERS: dict[str, Callable[[Case, torch.device], tuple[Distance, list[Tensor]]]] = {
    "ours": _ours("auto"),
    "cuda": _ours("cuda"),
    "triton": _ours("triton"),
    "reference": _ours("reference"),
    "torchqmet": _torchqmet,
    "sort": _plain(sort_form, is_compiled=False),
    "sort compiled": _plain(sort_form, is_compiled=True),
    "unrolled": _plain(unrolled_sort_form, is_compiled=False),
    "unrolled compiled": _plain(unrolled_sort_form, is_compiled=True),
    "endpoints compiled": _plain(endpoint_form, is_compiled=True),
}


def step(contender: str, case: Case, direction: str, device: torch.device) -> Callable[[], tuple[Tensor, ...]]:
    """A call that computes the distances, or also fresh gradients for x, y and the head's parameter, and returns them.

    Raises Unavailable where the contender cannot run the case.
    """
    _refuse_what_does_not_fit(contender, case, direction)
    distance, parameters = CONTENDERS[contender](case, device)
    x, y, grad_out = inputs(case, device)
    if direction == "forward":

        def forward() -> tuple[Tensor, ...]:
            with torch.no_grad():
                return (distance(x, y),)

        return forward
    x.requires_grad_()
    y.requires_grad_()

    def forward_and_backward() -> tuple[Tensor, ...]:
        out = distance(x, y)
        return (out.detach(), *torch.autograd.grad(out, [x, y, *parameters], grad_out))

    return forward_and_backward


def inputs(case: Case, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """x, y and the upstream gradient: the same for every contender."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(case.rows, case.size, generator=generator)
    y = torch.randn(case.columns or case.rows, case.size, generator=generator)
    grad_out = torch.randn(case.rows, *([] if case.columns is None else [case.columns]), generator=generator)
    return x.to(device), y.to(device), grad_out.to(device)


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_iqe(benchmark: Callable, case: Case, direction: str, contender: str) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    benchmark.group = f"iqe {case.name} {direction}"
    try:
        run = step(contender, case, direction, device)
    except Unavailable as reason:
        pytest.skip(str(reason))

    def synchronised() -> tuple[Tensor, ...]:
        results = run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return results

    synchronised()
    distances = benchmark(synchronised)[0]
    assert torch.isfinite(distances).all()
