"""Measures the ops but IQE, and the losses, beside plain PyTorch: rows in benchmarks/results/ops_<device>.csv.

    QMKERNELS_TORCHQMET=<checkout> python benchmarks/measure_ops.py --threads 2

All contenders of a case run in this one process with the same inputs and threads, taking turns; a row has the median
and the 20% and 80% quantiles of one call's time, its peak memory above its inputs and results, and its error against
the eager contender in float64. On a GPU ours is also timed on Triton, and replayed from a CUDA graph.
benchmarks/tables.py makes the table of the rows.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import time
import warnings
from pathlib import Path

import torch
from comparison import (
    HERE,
    Case,
    Step,
    Unavailable,
    append_rows,
    largest_error,
    peak_mib,
    quantiles,
    warn_if_loaded,
)

import qmkernels as qm
from qmkernels.backends import dispatch
from qmkernels.measurement import in_cuda_graph, interleaved_times_ms

# Beside the ops.
_MORE = ("losses", "planning", "eikonal")
MODULES = [importlib.import_module(f"bench_{op}") for op in (*dispatch.OPS, *_MORE) if op != "iqe"]
CASES = [case for module in MODULES for case in module.CASES]
PARTS = {"nearest": importlib.import_module("bench_nearest").PARTS}
COLUMNS = (
    "date", "commit", "machine", "cores", "threads", "load_average", "python", "torch", "qmkernels", "isa", "command",
    "op", "case", "direction", "contender", "aim", "median_ms", "low_ms", "high_ms", "rounds", "peak_mib", "max_error",
    "copy_ms", "note",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="for every contender")
    parser.add_argument("--seconds", type=float, default=20.0, help="timing budget of a case and direction")
    parser.add_argument("--only", default="", help="cases whose op and name hold this text, such as 'pqe elementwise'")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=None, help="CSV to append to")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warn_if_loaded()

    device = torch.device(options.device)
    rows = (
        row
        for case in CASES
        for direction in (case.directions if options.only in f"{case.op} {case.name}" else ())
        for row in measure(case, direction, device, options.seconds)
    )
    out = options.out or HERE / "results" / f"ops_{device.type}.csv"
    append_rows(out, COLUMNS, options.device, rows)


def on_triton(step: Step) -> Step:
    def run() -> tuple[torch.Tensor, ...]:
        with qm.use_backend("triton"):
            return step()

    return run


WAYS_ON_A_GPU = {"ours, Triton": on_triton, "ours, CUDA graph": in_cuda_graph}


def measure(case: Case, direction: str, device: torch.device, seconds: float) -> list[dict[str, object]]:
    """One row for each contender; of one that cannot run here, or fails, with a note that says why."""
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    truth = in_float64(case, direction, device)
    rows, steps, call_ms = {}, {}, {}
    for name in (*case.contenders, *(WAYS_ON_A_GPU if device.type == "cuda" else ())):
        rows[name] = {"op": case.op, "case": case.name, "direction": direction, "contender": name, "note": ""}
        rows[name]["aim"] = case.aims.get((name, direction), "")
        try:
            if name in WAYS_ON_A_GPU:
                step = WAYS_ON_A_GPU[name](case.step("ours", direction, device))
            else:
                step = case.step(name, direction, device)
            results = step()
        except (Unavailable, RuntimeError) as reason:  # as where memory does not suffice
            rows[name]["note"] = f"skipped: {' '.join(str(reason).split())[:200]}"
            continue
        steps[name] = step
        returned = sum(result.numel() * result.element_size() for result in results)
        if truth is not None:
            rows[name]["max_error"] = f"{largest_error(results, truth):.1e}"
        del results
        begin = time.perf_counter()
        rows[name]["peak_mib"] = peak_mib(steps[name], returned, device)
        synchronize()
        call_ms[name] = 1e3 * (time.perf_counter() - begin)
    timed = dict(steps)
    if case.moved:
        timed["copy"] = copy_of(case.moved[direction != "forward"], device)
    rounds = max(3, min(200, int(1e3 * seconds / sum(max(0.2, time_ms) for time_ms in call_ms.values()))))
    times = dict(zip(timed, interleaved_times_ms(list(timed.values()), rounds, synchronize), strict=True))
    for name in steps:
        parts = PARTS.get(case.op, {}).get(name, 1)
        low, high = quantiles(times[name])
        rows[name].update(
            median_ms=f"{parts * statistics.median(times[name]):.4g}", low_ms=f"{parts * low:.4g}",
            high_ms=f"{parts * high:.4g}", rounds=rounds,
        )  # fmt: skip
        if parts > 1:
            rows[name]["note"] = f"measured on 1/{parts} of the bank, times {parts}"
        if case.moved:
            rows[name]["copy_ms"] = f"{statistics.median(times['copy']):.3g}"
    for row in rows.values():
        print(
            f"{case.op:8} {case.name:52} {direction:17} {row['contender']:24} {row.get('median_ms', '-'):>9} ms  peak "
            f"{row.get('peak_mib', ''):>8} MiB  error {row.get('max_error', ''):>8}  {row['note']}",
            flush=True,
        )
    return list(rows.values())


def copy_of(values: int, device: torch.device) -> Step:
    """A torch copy that moves that many float32 values, half of them read, half written."""
    source = torch.ones(values // 2, device=device)
    target = torch.empty_like(source)
    return lambda: (target.copy_(source),)


def in_float64(case: Case, direction: str, device: torch.device) -> tuple[torch.Tensor, ...] | None:
    """The eager contender's results on the same numbers in float64, where it solves the whole case; None for fsq, whose
    codes jump by a level where the dtypes round to different sides."""
    if "eager" not in case.contenders or "eager" in PARTS.get(case.op, {}) or case.op == "fsq":
        return None
    exact = Case(case.op, case.name, lambda: [tensor.double() for tensor in case.inputs()], case.contenders)
    return exact.step("eager", direction, device)()


if __name__ == "__main__":
    main()
