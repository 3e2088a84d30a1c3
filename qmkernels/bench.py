"""``qmkernels bench``: the heads as they run here beside torchqmet and plain PyTorch, at the sizes asked for.

Contenders take turns in one process, with the same inputs and threads. The fuller comparison, of all ops
and losses and with errors, is in ``benchmarks/`` of a checkout.
"""

from __future__ import annotations

import csv
import importlib
import importlib.util
import statistics
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from . import nn as heads
from .backends import dispatch
from .compat.torchqmet import VERSION as STAND_IN_VERSION
from .definitions import iqe, mrn, pqe
from .info import cpu_model, version_of
from .measurement import free_bytes, interleaved_times_ms, peak_mib
from .options import Parser, checked_device
from .progress import NoBar, progress

PASSES = ("forward", "forward+backward")
CONTENDERS = {
    "ours": "this package, on --backend",
    "torchqmet": "the class of the same name in torchqmet",
    "eager": "the formula in plain PyTorch",
    "compiled": "the same under torch.compile",
}
# Published code keeps about this many tensors of rows x dim, or in pairs rows x rows x dim, at its peak.
COPIES = 20


class Unavailable(Exception):
    """A contender cannot run a case here; the message says why."""


class Head(NamedTuple):
    name: str
    """Of the class, in `qmkernels.nn` and in torchqmet."""
    dim_per_component: int | None
    """The default; None where components have no size of their own."""
    plain: Callable[[Any, Tensor, Tensor], Tensor]
    """The distance in plain PyTorch with a module's parameters, of matching rows: (module, x, y) to (...)."""


def plain_mrn(head: Any, x: Tensor, y: Tensor) -> Tensor:
    def part(projector: nn.Module, **settings: Any) -> Tensor:
        return mrn.mrn(projector(x), projector(y), mrn.MrnSettings(**settings))

    symmetric = part(head.sym_proj, asymmetric="none", squares="mean", exponent=float(head.sym_p))
    asymmetric = (head.asym_proj(x) - head.asym_proj(y)).relu().amax(dim=-1)
    return symmetric + asymmetric


HEADS = {
    "iqe": Head("IQE", 16, lambda head, x, y: head.reduction(iqe.components(x, y, head.latent_2d_shape[1]))),
    "mrn": Head("MRN", None, plain_mrn),
    "pqe": Head("PQELH", 4, lambda head, x, y: head.reduction(pqe.components(x, y, head.latent_2d_shape[1]))),
}


@dataclass(frozen=True)
class Case:
    """A head and the sizes of its inputs: x and y (batch, dim), matching rows or all pairs of rows."""

    head: str
    batch: int
    dim: int
    dim_per_component: int | None
    pairwise: bool = False

    def __str__(self) -> str:
        components = f", {self.dim_per_component} per component" if self.dim_per_component else ""
        rows = f"{self.batch} x {self.batch} pairs" if self.pairwise else f"{self.batch} rows"
        return f"{self.head}, {rows} of {self.dim}{components}"

    def head_of(self, package: Any) -> Any:
        """The head as a module of `qmkernels.nn` or of torchqmet; the same parameters every time."""
        sizes = (self.dim,) if self.dim_per_component is None else (self.dim, self.dim_per_component)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return getattr(package, HEADS[self.head].name)(*sizes, warn_if_not_quasimetric=False)


PUBLISHED = (
    Case("iqe", 256, 512, 8), Case("iqe", 256, 128, 16), Case("iqe", 1024, 2048, 32), Case("iqe", 128, 512, 8, True),
)  # fmt: skip


class Row(NamedTuple):
    """What was measured of a contender."""

    contender: str
    median_ms: float | None
    peak_mib: float | None
    """Above what was there before the call, and without what it returns; None where the system does not tell."""
    note: str = ""
    """Why there is no time."""


def run(arguments: Sequence[str] = ()) -> int:
    options = _parsed(arguments)
    before = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        with dispatch.use_backend(options.backend):
            return _measure_all(options)
    finally:
        torch.set_num_threads(before)


def _parsed(arguments: Sequence[str]) -> Any:
    """The options, checked, with ``cases``."""
    parser = Parser(
        "bench",
        "Times a head, forward and with gradients, beside torchqmet and plain PyTorch, and measures peak memory.\n"
        "Without sizes: IQE at four published sizes.",
        "qmkernels bench --head iqe --batch 256 --dim 512 --dim-per-component 8 --csv bench.csv",
    )
    sizes = parser.add_argument_group("sizes")
    sizes.add_argument("--head", choices=HEADS, help="head to time (default: iqe)")
    sizes.add_argument("--batch", type=int, metavar="N", help="rows of x and of y (default: 256)")
    sizes.add_argument("--dim", type=int, metavar="N", help="values in a row (default: 512)")
    sizes.add_argument(
        "--dim-per-component", type=int, metavar="N", help="values in a component (default: iqe 16, pqe 4)"
    )
    sizes.add_argument("--pairwise", action="store_true", help="all pairs of rows instead of matching rows")
    how = parser.add_argument_group("measurement")
    known = "; ".join(f"{name}: {about}" for name, about in CONTENDERS.items())
    how.add_argument(
        "--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), metavar="NAME",
        help=f"{known} (default: all)",
    )  # fmt: skip
    how.add_argument(
        "--rounds", type=int, metavar="N", default=15, help="timed rounds, whose median is shown (default: 15)"
    )
    threads, device = torch.get_num_threads(), "cuda" if torch.cuda.is_available() else "cpu"
    how.add_argument(
        "--threads", type=int, metavar="N", default=threads, help=f"CPU threads of all contenders (default: {threads})"
    )
    how.add_argument("--device", default=device, help="cpu or cuda (default: the GPU, if there is one)")
    backend, backends = dispatch.requested(None), ", ".join(("auto", *dispatch.BACKENDS))
    how.add_argument("--backend", default=backend, help=f"what runs ours: {backends} (default: {backend})")
    how.add_argument("--csv", type=Path, metavar="FILE", help="write the tables to a file too")
    options = parser.parse_args(arguments)
    for name in ("batch", "dim", "dim_per_component", "rounds", "threads"):
        if (value := getattr(options, name)) is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    try:
        options.cases = _cases(options)
        device = checked_device(options.device)
        with dispatch.use_backend(options.backend):
            for case in options.cases:
                case.head_of(heads)
                dispatch.resolve(case.head, device.type, dispatch.requested(None))
    except (ValueError, RuntimeError) as error:
        parser.error(str(error))
    if options.csv and (options.csv.is_dir() or not options.csv.parent.is_dir()):
        parser.error(f"--csv must be a file in a folder that exists, got {options.csv}")
    return options


def _cases(options: Any) -> Sequence[Case]:
    sizes = (options.head, options.batch, options.dim, options.dim_per_component, options.pairwise or None)
    if all(size is None for size in sizes):
        return PUBLISHED
    name = options.head or "iqe"
    default = HEADS[name].dim_per_component
    if default is None and options.dim_per_component:
        raise ValueError(f"--dim-per-component does not apply to {name}")
    per_component = options.dim_per_component or default
    return (Case(name, options.batch or 256, options.dim or 512, per_component, options.pairwise),)


def _measure_all(options: Any) -> int:
    """Prints a table for each case and pass as soon as it is measured, and writes the CSV file; 1 where ours failed."""
    names, device = options.contenders, torch.device(options.device)
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_model()
    threads = torch.get_num_threads()
    print(f"{machine}, torch {torch.__version__}, threads: {threads}, backend: {options.backend}, float32.")
    print(f"Median of {options.rounds} rounds in turns; memory is the peak of a call above its inputs and results.")
    context = {
        "device": options.device, "backend": options.backend, "threads": threads, "machine": machine,
        "torch": torch.__version__, "qmkernels": version_of("qmkernels"),
    }  # fmt: skip
    lines: list[dict[str, Any]] = []
    measurements = [(case, direction) for case in options.cases for direction in PASSES]
    with progress(len(measurements) * (2 * len(names) + options.rounds), "part", leave=False) as bar:
        for case, direction in measurements:
            rows = measure(case, direction, names, options.rounds, device, bar)
            bar.clear()
            print(f"\n{case}: {direction}\n{table(rows)}", flush=True)
            of_case = {**asdict(case), "pass": direction}
            lines += [{**of_case, **row._asdict(), "times_ours": ratio(rows, row), **context} for row in rows]
    if options.csv:
        with options.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, lines[0])
            writer.writeheader()
            writer.writerows(lines)
        print(f"\nWrote {options.csv}.")
    return int(any(line["contender"] == "ours" and line["note"] for line in lines))


def table(rows: Sequence[Row]) -> str:
    lines = [f"  {'contender':10} {'time':>12} {'beside ours':>12} {'peak memory':>14}"]
    for row in rows:
        times = ratio(rows, row)
        cells = (
            f"{row.median_ms:.3f} ms" if row.median_ms else "",
            f"{times:.1f}x" if times else "",
            "" if row.peak_mib is None else f"{row.peak_mib:.2f} MiB",
        )
        lines.append(f"  {row.contender:10} " + (row.note or "{:>12} {:>12} {:>14}".format(*cells)))
    return "\n".join(lines)


def ratio(rows: Sequence[Row], row: Row) -> float | None:
    """A contender's time by ours; None where one of them was not timed."""
    ours = next((each.median_ms for each in rows if each.contender == "ours"), None)
    return row.median_ms / ours if row.median_ms and ours else None


def measure(
    case: Case, direction: str, names: Sequence[str], rounds: int, device: torch.device, bar: Any = None
) -> list[Row]:
    """A row for each contender by name."""
    bar = bar or NoBar()
    steps: dict[str, Callable[[], tuple[Tensor, ...]]] = {}
    peaks: dict[str, float | None] = {}
    notes: dict[str, str] = {}
    for name in names:
        bar.set_description_str(f"preparing {name}")
        try:
            step = step_of(case, name, direction, device)
            returned = sum(tensor.nbytes for tensor in step())
            peaks[name] = peak_mib(step, returned, device)
            steps[name] = step
        except Unavailable as reason:
            notes[name] = f"not run: {reason}"
        except Exception as error:  # of torch.compile, of torchqmet, or for lack of memory
            notes[name] = f"failed: {type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
        bar.update(2)
    bar.set_description_str("timing")
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    times = interleaved_times_ms(list(steps.values()), rounds, synchronize, after_round=bar.update)
    medians = dict(zip(steps, map(statistics.median, times), strict=True))
    return [Row(name, medians.get(name), peaks.get(name), notes.get(name, "")) for name in names]


def step_of(case: Case, name: str, direction: str, device: torch.device) -> Callable[[], tuple[Tensor, ...]]:
    """A call that returns the distances and, with backward, the gradients of inputs and parameters."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(case.batch, case.dim, generator=generator).to(device) for _ in range(2))
    head, distance = contender(case, name, device)
    leaves = [x.requires_grad_(), y.requires_grad_(), *head.parameters()]
    upstream = torch.ones((case.batch, case.batch) if case.pairwise else (case.batch,), device=device)

    def forward() -> tuple[Tensor, ...]:
        with torch.no_grad():
            return (distance(x, y),)

    def forward_and_backward() -> tuple[Tensor, ...]:
        out = distance(x, y)
        return (out.detach(), *torch.autograd.grad(out, leaves, upstream))

    return forward if direction == "forward" else forward_and_backward


def contender(case: Case, name: str, device: torch.device) -> tuple[Any, Callable[[Tensor, Tensor], Tensor]]:
    """A contender's module and its distance of x and y; raises Unavailable where it cannot run here."""
    if name == "ours":
        head = case.head_of(heads).to(device)
        return head, head.pairwise if case.pairwise else head
    needed, free = COPIES * 4 * case.dim * case.batch * (case.batch if case.pairwise else 1), free_bytes(device)
    if free is not None and needed > free:
        raise Unavailable(f"could need {needed / 2**30:.0f} GiB, and {free / 2**30:.0f} GiB are free")
    head = case.head_of(torchqmet() if name == "torchqmet" else heads).to(device)
    rows = head if name == "torchqmet" else partial(HEADS[case.head].plain, head)

    def distance(x: Tensor, y: Tensor) -> Tensor:
        return rows(x.unsqueeze(1), y) if case.pairwise else rows(x, y)

    if name == "compiled":
        torch._dynamo.reset()
        return head, torch.compile(distance, dynamic=False)
    return head, distance


def torchqmet() -> ModuleType:
    """The package torchqmet; not what `qmkernels.compat.install_torchqmet` puts in its place."""
    if getattr(sys.modules.get("torchqmet"), "__version__", None) == STAND_IN_VERSION:
        raise Unavailable("this process has qmkernels in place of torchqmet")
    if importlib.util.find_spec("torchqmet") is None:
        raise Unavailable(
            "torchqmet is not installed (pip install git+https://github.com/quasimetric-learning/torch-quasimetric)"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return importlib.import_module("torchqmet")
