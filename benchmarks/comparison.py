"""What the benchmarks of the ops share: cases, contenders, and how time, memory and error are measured."""

from __future__ import annotations

import csv
import importlib
import os
import platform
import re
import shlex
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from qmkernels import measurement
from qmkernels.backends.native import core
from qmkernels.info import cpu_model, usable_cores, version_of

HERE = Path(__file__).resolve().parent
DIRECTIONS = ("forward", "forward+backward")
Step = Callable[[], tuple[Tensor, ...]]


class Unavailable(Exception):
    """A contender cannot run a case here; the message says why."""


@dataclass(frozen=True)
class Case:
    """One problem and every way to solve it.

    ``inputs()`` makes the tensors, the same every time. A contender is built by a function of no arguments, which may
    raise `Unavailable`, and is then called with the tensors; it returns one tensor. ``aims`` is how many times faster
    than a contender ours was to be, by (contender, direction). ``moved`` is how many values have to be read and written
    at least, forward and forward+backward, where that is what bounds the case.
    """

    op: str
    name: str
    inputs: Callable[[], list[Tensor]]
    contenders: dict[str, Callable[[], Callable[..., Tensor]]]
    directions: tuple[str, ...] = DIRECTIONS
    aims: dict[tuple[str, str], float] = field(default_factory=dict)
    moved: tuple[int, int] | None = None

    def step(self, contender: str, direction: str, device: torch.device | str = "cpu") -> Step:
        """A call that computes the result, or also fresh gradients of all inputs, and returns them."""
        with torch.device(device):  # of the tensors and heads; what a call makes is where its inputs are
            function, tensors = self.contenders[contender](), self.inputs()
        if direction == "forward":

            def forward() -> tuple[Tensor, ...]:
                with torch.no_grad():
                    return (function(*tensors),)

            return forward
        leaves = [tensor.requires_grad_() for tensor in tensors]
        grad_out = None

        def forward_and_backward() -> tuple[Tensor, ...]:
            nonlocal grad_out
            out = function(*leaves)
            if grad_out is None:
                grad_out = randn(*out.shape, seed=2).to(out)
            return (out.detach(), *torch.autograd.grad(out, leaves, grad_out))

        return forward_and_backward


def parametrised(cases: list[Case]) -> Callable:
    """Every contender of every case in every direction, for a pytest-benchmark test with those three arguments."""
    every = [
        pytest.param(case, direction, contender, id=f"{case.name}-{direction}-{contender}")
        for case in cases
        for direction in case.directions
        for contender in case.contenders
    ]
    return pytest.mark.parametrize("case, direction, contender", every)


def run_benchmark(benchmark: Callable, case: Case, direction: str, contender: str) -> None:
    benchmark.group = f"{case.op} {case.name} {direction}"
    try:
        step = case.step(contender, direction)
    except Unavailable as reason:
        pytest.skip(str(reason))
    step()
    assert torch.isfinite(benchmark(step)[0]).all()


def randn(*shape: int, seed: int = 0) -> Tensor:
    """The same numbers on every device; the tensor is on the default one."""
    numbers = torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed), device="cpu")
    return numbers.to(torch.get_default_device())


def compiled(function: Callable) -> Callable[[], Callable]:
    """A contender: ``function`` under torch.compile.

    QMKERNELS_BENCH_COMPILER names its backend (default "inductor"). Where nothing is timed "aot_eager" traces the same
    graphs, forward and backward, without generating code for them, which takes most of such a run.
    """

    def build() -> Callable:
        torch._dynamo.reset()
        backend = os.environ.get("QMKERNELS_BENCH_COMPILER", "inductor")
        return torch.compile(function, dynamic=False, backend=backend)

    return build


def torchqmet() -> ModuleType:
    """The checkout of torchqmet that QMKERNELS_TORCHQMET names."""
    checkout = os.environ.get("QMKERNELS_TORCHQMET")
    if not checkout:
        raise Unavailable("QMKERNELS_TORCHQMET names no checkout of torchqmet")
    if not (Path(checkout) / "torchqmet" / "__init__.py").exists():
        raise Unavailable(f"QMKERNELS_TORCHQMET={checkout} has no folder torchqmet")
    if checkout not in sys.path:
        sys.path.append(checkout)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return importlib.import_module("torchqmet")


def run_columns(device: str) -> dict[str, object]:
    """What all rows of a run share."""
    is_cuda = device.startswith("cuda")
    environment = "".join(f"{name}=... " for name in ("QMKERNELS_TORCHQMET", "QMKERNELS_OGBENCH") if name in os.environ)
    script = Path(sys.argv[0]).name
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit(),
        "machine": torch.cuda.get_device_name(device) if is_cuda else cpu_model(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "qmkernels": version_of("qmkernels"),
        "isa": core.isa_in_use() or "none",
        "command": environment + shlex.join(["python", f"benchmarks/{script}", *sys.argv[1:]]),
    }


def append_rows(path: Path, columns: Sequence[str], device: str, rows: Iterable[dict[str, object]]) -> None:
    """Appends rows to a CSV file as they come, each with what all of the run share and the load at the time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        if is_new:
            writer.writeheader()
        run = run_columns(device)
        for row in rows:
            shared = {**run, "load_average": f"{os.getloadavg()[0]:.1f}"}
            writer.writerow({**{name: value for name, value in shared.items() if name in columns}, **row})
            file.flush()


def commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", str(HERE), *arguments], capture_output=True, text=True).stdout.strip()

    changed = [line for line in git("status", "--porcelain").splitlines() if "benchmarks/results/" not in line]
    return (git("rev-parse", "--short", "HEAD") or "none") + ("+changes" if changed else "")


def warn_if_loaded() -> None:
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"Load average {load:.1f}: other work is running, and the times will show it.", file=sys.stderr)


def quantiles(times: list[float]) -> tuple[float, float]:
    """The 20% and the 80% quantile."""
    ordered = sorted(times)
    return ordered[int(0.2 * (len(ordered) - 1))], ordered[-1 - int(0.2 * (len(ordered) - 1))]


def largest_error(results: tuple[Tensor, ...], truth: tuple[Tensor, ...]) -> float:
    """The largest error of the distances, and of each gradient, relative to the largest value of that tensor.

    Where the truth stops at the first rows, so does the comparison: distances and the gradient of x.
    """
    if results[0].shape != truth[0].shape:
        results = tuple(result[: len(truth[0])] for result in results[: len(truth)])
    errors = [
        ((result.double() - exact).abs().max() / exact.abs().max()).item()
        for result, exact in zip(results, truth, strict=True)
    ]
    return max(errors)


def peak_mib(run: Step, returned: int, device: torch.device) -> str:
    """Peak memory of one call above what was there before it and the bytes that it returns; empty where not known."""
    peak = measurement.peak_mib(run, returned, device)
    return "" if peak is None else f"{peak:.2f}"


def megahertz() -> float | None:
    """The clock of a CPU core now; None where the system does not say."""
    path = Path("/proc/cpuinfo")
    found = re.search(r"^cpu MHz\s*:\s*([\d.]+)", path.read_text() if path.exists() else "", re.MULTILINE)
    return float(found.group(1)) if found else None
