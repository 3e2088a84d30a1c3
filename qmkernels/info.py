"""``qmkernels info``: all that a bug report needs. It never fails: what cannot be found out says why instead."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from .backends import dispatch
from .backends.native import core
from .options import Parser

# By kind of tensor, the backends that have kernels for it: those that calls choose from come first, in their order.
COLUMNS = {"cpu": ("cpu", "reference", "triton"), "cuda": ("cuda", "triton", "reference")}

# The C++ runtimes that bring their own pool of OpenMP threads.
_OPENMP_FILE = re.compile(r"lib(?:gomp|omp|iomp5)\b[^/]*\.(?:so|dylib)|libgomp-[^/]*\.so")


def run(arguments: Sequence[str] = ()) -> int:
    """Prints the report; returns 0 for a broken installation too, so that it can be reported."""
    parser = Parser(
        "info",
        "Shows versions, build, devices, and which backend runs which op.",
        "qmkernels info --json > report.json",
    )
    parser.add_argument("--json", action="store_true", help="print the same as JSON")
    as_json = parser.parse_args(arguments).json
    facts = found_out(FACTS)
    support = found_out({op: partial(support_of, op) for op in dispatch.OPS})
    if as_json:
        print(json.dumps({**facts, "ops": support}, indent=2))
    else:
        width = max(map(len, facts))
        print("\n".join(f"{name:{width}}  {value}" for name, value in facts.items()))
        print(f"\n{support_table(support)}")
    return 0


def found_out(questions: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
    """The answers by name; where a question fails, its error, for a report of a broken installation is what this is
    for."""
    answers = {}
    for name, find in questions.items():
        try:
            answers[name] = find()
        except Exception as error:
            answers[name] = f"could not be found out: {type(error).__name__}: {error}"
    return answers


def version_of(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def build() -> str:
    """What the core was built with, or also why it is not in use."""
    reason, built = core.why_not("cpu"), core.build_info()
    parts = [f"not in use: {reason}"] if reason else []
    if built:
        architectures = built["cuda_architectures"]
        parts += [
            f"version {built['version']}, compiler {built['compiler']}, {'with' if built['openmp'] else 'no'} OpenMP",
            f"CPU kernels for {', '.join(built['isas'])}",
            f"CUDA kernels for {architectures}" if architectures else "no CUDA kernels",
        ]
    return "; ".join(parts)


def cpu_model() -> str:
    """The CPU's name as the operating system gives it."""
    if platform.system() == "Linux":
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        if found:
            return found.group(1).strip()
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu() -> str:
    used = f", kernels of {core.isa_in_use()}" if core.why_not("cpu") is None else ""
    return f"{cpu_model()}, usable cores: {usable_cores()}, threads of torch: {torch.get_num_threads()}{used}"


def loaded_openmp_runtimes() -> list[str] | None:
    """Paths of the OpenMP runtimes in this process; None where the operating system does not tell."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return None
    paths = {line.split(maxsplit=5)[5] for line in maps.read_text().splitlines() if len(line.split(maxsplit=5)) == 6}
    return sorted(path for path in paths if _OPENMP_FILE.search(Path(path).name))


def openmp() -> str:
    runtimes = loaded_openmp_runtimes()
    if runtimes is None:
        return "not known on this system"
    several = "  (more than one: each has its own threads, which then compete)" if len(runtimes) > 1 else ""
    return (", ".join(runtimes) or "none loaded") + several


def gpus() -> str:
    if not torch.cuda.is_available():
        built_for = torch.version.cuda or torch.version.hip
        return "none: torch finds none" if built_for else "none: this torch is built for the CPU alone"
    every = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return "; ".join(
        f"cuda:{index} {gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, sm_{gpu.major}{gpu.minor}"
        for index, gpu in enumerate(every)
    )


FACTS: dict[str, Callable[[], str]] = {
    "qmkernels": lambda: version_of("qmkernels"),
    "compiled core": build,
    "python": platform.python_version,
    "torch": lambda: torch.__version__,
    "numpy": lambda: version_of("numpy"),
    "triton": lambda: version_of("triton"),
    "jax": lambda: version_of("jax"),
    "system": platform.platform,
    "CPU": cpu,
    "OpenMP": openmp,
    "GPUs": gpus,
    "QMKERNELS_BACKEND": lambda: os.environ.get("QMKERNELS_BACKEND", "not set"),
}


def support_of(op: str) -> dict[str, dict[str, str]]:
    """By kind of tensor and backend: "yes", or why the backend does not run the op."""
    return {
        device_type: {backend: _runs(backend, op, device_type) for backend in backends}
        for device_type, backends in COLUMNS.items()
    }


def _runs(backend: str, op: str, device_type: str) -> str:
    reason = dispatch.why_not(backend, op, device_type)
    if reason is None and device_type == "cuda" and not torch.cuda.is_available():
        reason = "torch finds no GPU"
    return "yes" if reason is None else f"no: {reason}"


def support_table(support: dict[str, Any]) -> str:
    """A row per op and a column per kind of tensor and backend; reasons are footnotes."""
    reasons: dict[str, int] = {}

    def cell(answer: str) -> str:
        return (
            answer if answer == "yes" else f"no [{reasons.setdefault(answer.removeprefix('no: '), len(reasons) + 1)}]"
        )

    rows = [["op", *(backend for backends in COLUMNS.values() for backend in backends)]]
    for op, kinds in support.items():
        failed = isinstance(kinds, str)
        answers = (
            [kinds] * (len(rows[0]) - 1) if failed else [text for kind in kinds.values() for text in kind.values()]
        )
        rows.append([op, *map(cell, answers)])
    name_width = max(len(row[0]) for row in rows)
    width = 2 + max(len(text) for row in rows for text in row[1:])
    kinds = "".join(f"{f'{kind} tensors':{width * len(backends)}}" for kind, backends in COLUMNS.items())
    lines = [
        f"{'':{name_width}}  {kinds}",
        *(f"{op:{name_width}}  {''.join(f'{x:{width}}' for x in row)}" for op, *row in rows),
    ]
    notes = [f"[{number}] {reason}" for reason, number in reasons.items()]
    chosen = "A call runs on the first backend from the left that says yes."
    return "\n".join([*map(str.rstrip, lines), "", chosen, *notes])
