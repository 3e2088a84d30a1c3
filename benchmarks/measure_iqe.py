"""Measures IQE beside every contender of bench_iqe.py: a row for each in benchmarks/results/iqe_<device>.csv.

    QMKERNELS_TORCHQMET=<checkout> python benchmarks/measure_iqe.py --threads 2

All contenders of a case run in this one process with the same inputs and threads, taking turns; a row has the median
and the 20% and 80% quantiles of one call's time, its peak memory above its inputs and results, its error against
float64, and the floor: the least time that the bytes (elementwise) or the operations (pairwise) of the case take here.
benchmarks/tables.py makes the README's tables of the rows.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import gc
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from bench_iqe import (
    CASES,
    CONTENDERS,
    DIRECTIONS,
    LARGEST_MATRIX_FOR_REFERENCE_MIB,
    Case,
    Unavailable,
    inputs,
    step,
)
from torch import Tensor

import qmkernels as qm
from qmkernels.backends import native
from qmkernels.bench import interleaved_times_ms
from qmkernels.info import cpu_model, usable_cores, version_of
from qmkernels.reference import iqe as definition

HERE = Path(__file__).resolve().parent
COLUMNS = (
    "date", "commit", "machine", "cores", "threads", "load_average", "python", "torch", "qmkernels", "isa", "command",
    "op", "form", "rows", "columns", "size", "dim_per_component", "direction", "contender", "median_ms", "low_ms",
    "high_ms", "rounds", "peak_mib", "max_error", "floor_kind", "floor_ms", "note",
)  # fmt: skip
Step = Callable[[], tuple[Tensor, ...]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="for every contender")
    parser.add_argument("--rounds", type=int, default=25, help="at most; slow cases get fewer, see --seconds")
    parser.add_argument("--seconds", type=float, default=20.0, help="timing budget of a case and direction")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", default="", help="cases whose name holds this text, such as pairwise")
    parser.add_argument("--out", type=Path, default=None, help="CSV to append to")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", category=DeprecationWarning)

    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"Load average {load:.1f}: other work is running, and the times will show it.", file=sys.stderr)

    out = options.out or HERE / "results" / f"iqe_{options.device.split(':')[0]}.csv"
    out.parent.mkdir(parents=True, exist_ok=True)
    is_new = not out.exists()
    with out.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if is_new:
            writer.writeheader()
        run = run_columns(options.device)
        for case in CASES:
            for direction in DIRECTIONS if options.only in case.name else ():
                for row in measure(case, direction, torch.device(options.device), options.rounds, options.seconds):
                    writer.writerow({**run, "load_average": f"{os.getloadavg()[0]:.1f}", **row})
                    file.flush()


def run_columns(device: str) -> dict[str, object]:
    """What all rows of a run share."""
    is_cuda = device.startswith("cuda")
    environment = "".join(f"{name}=... " for name in ("QMKERNELS_TORCHQMET",) if name in os.environ)
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit(),
        "machine": torch.cuda.get_device_name(device) if is_cuda else cpu_model(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "qmkernels": version_of("qmkernels"),
        "isa": native.isa_in_use() or "none",
        "command": environment + shlex.join(["python", "benchmarks/measure_iqe.py", *sys.argv[1:]]),
    }


def commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", str(HERE), *arguments], capture_output=True, text=True).stdout.strip()

    changed = [line for line in git("status", "--porcelain").splitlines() if "benchmarks/results/" not in line]
    return (git("rev-parse", "--short", "HEAD") or "none") + ("+changes" if changed else "")


def measure(case: Case, direction: str, device: torch.device, rounds: int, seconds: float) -> list[dict[str, object]]:
    """One row for each contender that there can be for this case, in the order of CONTENDERS."""
    truth = in_float64(case, direction, device)
    floor_kind, floor = floor_step(case, direction, device)
    base = {"op": "iqe", "form": case.form, "rows": case.rows, "columns": case.columns or "", "size": case.size,
            "dim_per_component": case.dim_per_component, "direction": direction}  # fmt: skip
    rows: dict[str, dict[str, object]] = {}
    steps: dict[str, Step] = {}
    call_ms: dict[str, float] = {}
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    for name in CONTENDERS:
        rows[name] = {**base, "contender": name, "note": ""}
        try:
            steps[name] = step(name, case, direction, device)
        except Unavailable as reason:
            rows[name]["note"] = f"skipped: {reason}"
            continue
        results = steps[name]()
        returned = sum(result.numel() * result.element_size() for result in results)
        rows[name]["max_error"] = f"{largest_error(results, truth):.1e}"
        del results
        begin = time.perf_counter()
        rows[name]["peak_mib"] = peak_mib(steps[name], returned, device)
        call_ms[name] = 1e3 * (time.perf_counter() - begin)
    for is_slow in (False, True):
        # The slowest take turns among themselves: one turn of theirs may be worth hundreds of the others.
        together = [name for name in steps if (call_ms[name] > 1e3 * seconds / 20) is is_slow]
        affordable = int(1e3 * seconds / max(1e-3, sum(max(5.0, call_ms[name]) for name in together)))
        count = max(1 if is_slow else 5, min(rounds, affordable))
        with_floor = [steps[name] for name in together] + ([floor] if callable(floor) and together else [])
        times = interleaved_times_ms(with_floor, count, synchronize) if together else []
        for name, own_times in zip(together, times, strict=False):
            floor_ms = statistics.median(times[-1]) if callable(floor) else floor
            low, high = quantiles(own_times)
            rows[name].update(
                median_ms=f"{statistics.median(own_times):.4g}", low_ms=f"{low:.4g}", high_ms=f"{high:.4g}",
                rounds=count, floor_kind=floor_kind, floor_ms=f"{floor_ms:.3g}" if floor_ms else "",
            )  # fmt: skip
    for row in rows.values():
        peak, error = row.get("peak_mib", ""), row.get("max_error", "")
        print(
            f"{case.name:32} {direction:17} {row['contender']:19} {row.get('median_ms', '-'):>9} ms  peak {peak:>8} MiB"
            f"  error {error:>8}  floor {row.get('floor_ms', ''):>8} ms  {row['note']}",
            flush=True,
        )
    return list(rows.values())


def quantiles(times: list[float]) -> tuple[float, float]:
    ordered = sorted(times)
    return ordered[int(0.2 * (len(ordered) - 1))], ordered[-1 - int(0.2 * (len(ordered) - 1))]


def in_float64(case: Case, direction: str, device: torch.device) -> tuple[Tensor, ...]:
    """The definition's results on the same numbers in float64; of a large matrix those of its first rows of x."""
    head = qm.nn.IQE(case.size, case.dim_per_component).to(device).double()
    x, y, grad_out = (tensor.double() for tensor in inputs(case, device))
    rows = checked_rows(case)
    x, grad_out = x[:rows], grad_out[:rows]
    needs_gradients = direction != "forward"
    leaves = [x.requires_grad_(needs_gradients), y.requires_grad_(needs_gradients), *head.parameters()]
    with torch.set_grad_enabled(needs_gradients):
        from_x = x if case.columns is None else x.unsqueeze(-2)
        out = head.reduction(definition.components(from_x, y, case.dim_per_component))
    results = (out.detach(), *torch.autograd.grad(out, leaves, grad_out)) if needs_gradients else (out,)
    return results[:2] if rows < case.rows else results


def checked_rows(case: Case) -> int:
    """Rows of x whose results are checked: all, but 32 where float64 would keep gigabytes for backward."""
    return 32 if case.whole_matrix_mib > LARGEST_MATRIX_FOR_REFERENCE_MIB else case.rows


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
    gc.collect()
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        peak = torch.cuda.max_memory_allocated(device) - before
    elif platform.system() == "Linux":
        # Freed heap goes back to the system first, or a call could reuse it unseen; then the high-water mark restarts.
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = _status_kib("VmRSS")
        run()
        peak = 1024 * (_status_kib("VmHWM") - before)
    else:
        return ""
    return f"{max(0, peak - returned) / 2**20:.2f}"


def _status_kib(field: str) -> int:
    return int(re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE).group(1))


def floor_step(case: Case, direction: str, device: torch.device) -> tuple[str, Callable[[], object] | float]:
    """What bounds the case from below: a call that moves the same bytes, or milliseconds from an operation count.

    Elementwise: x and y are read, and with backward their gradients written; torch's copy moves as many bytes.
    Pairwise: the scan's four vector operations an element, two a cycle, and once more for backward.
    """
    if case.form == "elementwise":
        moved = (2 if direction == "forward" else 4) * case.rows * case.size
        source = torch.ones(moved // 2, device=device)
        target = torch.empty_like(source)
        return "bytes moved", lambda: target.copy_(source)
    found = re.search(r"^cpu MHz\s*:\s*([\d.]+)", _cpu_information(), re.MULTILINE)
    if device.type != "cpu" or found is None or native.why_not("cpu"):
        return "not known", 0.0
    lanes = {"avx512": 16, "avx2": 8}.get(native.isa_in_use(), 4)
    megahertz = float(found.group(1))
    cycles = 2.0 * case.elements / lanes * (1 if direction == "forward" else 2) / torch.get_num_threads()
    return f"operations at {megahertz:.0f} MHz", cycles / (1e3 * megahertz)


def _cpu_information() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.exists() else ""


if __name__ == "__main__":
    main()
