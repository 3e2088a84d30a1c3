"""``qmkernels info``: all that a bug report needs. It never fails: what cannot be found out says why instead."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from .backends import dispatch
from .backends.native import core

Rows = list[tuple[str, str]]

# The C++ runtimes that bring their own pool of OpenMP threads.
_OPENMP_FILE = re.compile(r"lib(?:gomp|omp|iomp5)\b[^/]*\.(?:so|dylib)|libgomp-[^/]*\.so")


def run(arguments: Sequence[str] = ()) -> int:
    """Prints the report; always returns 0, so that a broken installation can be reported too."""
    if arguments:
        print(f"usage: qmkernels info    (it takes no options, got {' '.join(arguments)})\n")
    print(report())
    return 0


def report() -> str:
    sections = [
        ("versions", version_rows),
        ("compiled core", core_rows),
        ("machine", machine_rows),
        ("GPUs", gpu_rows),
        ("backends", backend_rows),
    ]
    return "\n\n".join(_section(title, find) for title, find in sections)


def _section(title: str, find: Callable[[], Rows]) -> str:
    try:
        rows = find()
    except Exception as error:  # a report of a broken installation is what this is for
        rows = [("could not be found out", f"{type(error).__name__}: {error}")]
    width = max(len(label) for label, _ in rows)
    return "\n".join([title, *(f"  {label:{width}}  {value}" for label, value in rows)])


def version_of(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def version_rows() -> Rows:
    return [
        ("qmkernels", version_of("qmkernels")),
        ("python", platform.python_version()),
        ("torch", torch.__version__),
        ("numpy", version_of("numpy")),
        ("triton", version_of("triton")),
    ]


def core_rows() -> Rows:
    """What the core says of itself, or why it is not in use."""
    build = core.build_info() or {}
    rows = [(str(key).replace("_", " "), _as_text(value)) for key, value in build.items()]
    reason = core.why_not("cpu")
    return [*rows, ("isa in use", str(core.isa_in_use()))] if reason is None else [("not in use", reason), *rows]


def _as_text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


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


def loaded_openmp_runtimes() -> list[str] | None:
    """Paths of the OpenMP runtimes in this process; None where the operating system does not tell."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return None
    paths = {line.split(maxsplit=5)[5] for line in maps.read_text().splitlines() if len(line.split(maxsplit=5)) == 6}
    return sorted(path for path in paths if _OPENMP_FILE.search(Path(path).name))


def machine_rows() -> Rows:
    runtimes = loaded_openmp_runtimes()
    runtimes_text = "not known on this system" if runtimes is None else ", ".join(runtimes) or "none"
    if runtimes is not None and len(runtimes) > 1:
        runtimes_text += "  (more than one: each has its own threads, which then compete)"
    return [
        ("system", platform.platform()),
        ("CPU", f"{cpu_model()}, {usable_cores()} cores usable"),
        ("torch threads", str(torch.get_num_threads())),
        ("OpenMP runtimes", runtimes_text),
        ("QMKERNELS_BACKEND", os.environ.get("QMKERNELS_BACKEND", "not set")),
    ]


def gpu_rows() -> Rows:
    if not torch.cuda.is_available():
        built_for = torch.version.cuda or torch.version.hip
        why = "torch finds none" if built_for else "this torch is built for the CPU alone"
        return [("none", why)]
    rows = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        size = properties.total_memory / 2**30
        rows.append((f"cuda:{index}", f"{properties.name}, {size:.0f} GiB, sm_{properties.major}{properties.minor}"))
    return rows


def backend_rows() -> Rows:
    """One row for each op, kind of tensor and backend: "yes" or the reason why not."""
    return [
        (f"{op:6} {device_type} tensor on {backend}", _runs(backend, op, device_type))
        for op in dispatch.OPS
        for device_type in ("cpu", "cuda")
        for backend in dispatch.BACKENDS
    ]


def _runs(backend: str, op: str, device_type: str) -> str:
    reason = dispatch.why_not(backend, op, device_type)
    if reason is None and device_type == "cuda" and not torch.cuda.is_available():
        reason = "torch finds no GPU"
    return "yes" if reason is None else f"no: {reason}"
