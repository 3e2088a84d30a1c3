"""Measures IQE beside every contender of bench_iqe.py: a row for each in benchmarks/results/iqe_<device>.csv.

    QMKERNELS_TORCHQMET=<checkout> python benchmarks/measure_iqe.py --threads 2
    QMKERNELS_TORCHQMET=<checkout> python benchmarks/measure_iqe.py --threads 2 --batch-sizes --seconds 2

All contenders of a case run in this one process with the same inputs and threads, taking turns; a row has the median
and the 20% and 80% quantiles of one call's time, its peak memory above its inputs and results, its error against
float64, and the floor: the least time that the bytes (elementwise) or the operations (pairwise) of the case take here.
benchmarks/tables.py makes the tables of the rows. With --batch-sizes the rows are those that benchmarks/figure.py
draws, in batch_sizes_<device>.csv: forward and backward by batch size.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from bench_iqe import BATCH_SIZES, CASES, CONTENDERS, SHOWN_BY_BATCH_SIZE, Case, inputs, step
from comparison import (
    DIRECTIONS,
    HERE,
    Step,
    Unavailable,
    append_rows,
    largest_error,
    megahertz,
    peak_mib,
    quantiles,
    warn_if_loaded,
)
from torch import Tensor

import qmkernels as qm
from qmkernels.backends.native import core
from qmkernels.definitions import iqe as definition
from qmkernels.measurement import interleaved_times_ms

COLUMNS = (
    "date", "commit", "machine", "cores", "threads", "load_average", "python", "torch", "qmkernels", "isa", "command",
    "op", "form", "rows", "columns", "size", "dim_per_component", "direction", "contender", "median_ms", "low_ms",
    "high_ms", "rounds", "peak_mib", "max_error", "floor_kind", "floor_ms", "note",
)  # fmt: skip
# All intervals of a matrix in float32; the definition in float64 would keep gigabytes for backward beyond it.
LARGEST_MATRIX_IN_FLOAT64_MIB = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="for every contender")
    parser.add_argument("--rounds", type=int, default=25, help="at most; slow cases get fewer, see --seconds")
    parser.add_argument("--seconds", type=float, default=20.0, help="timing budget of a case and direction")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", default="", help="cases whose name holds this text, such as pairwise")
    parser.add_argument("--batch-sizes", action="store_true", help="measure what figure.py draws instead")
    parser.add_argument("--out", type=Path, default=None, help="CSV to append to")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", category=DeprecationWarning)

    warn_if_loaded()
    cases, contenders, directions = CASES, tuple(CONTENDERS), DIRECTIONS
    if options.batch_sizes:
        cases, contenders, directions = BATCH_SIZES, SHOWN_BY_BATCH_SIZE, DIRECTIONS[1:]
    measured, device = "batch_sizes" if options.batch_sizes else "iqe", torch.device(options.device)
    rows = (
        row
        for case in cases
        for direction in (directions if options.only in case.name else ())
        for row in measure(case, direction, contenders, device, options.rounds, options.seconds)
    )
    out = options.out or HERE / "results" / f"{measured}_{device.type}.csv"
    append_rows(out, COLUMNS, options.device, rows)


def measure(
    case: Case, direction: str, contenders: Iterable[str], device: torch.device, rounds: int, seconds: float
) -> list[dict[str, object]]:
    """One row per contender, of those that cannot run with a note that says why."""
    truth = in_float64(case, direction, device)
    floor_kind, floor = floor_step(case, direction, device)
    base = {"op": "iqe", "form": case.form, "rows": case.rows, "columns": case.columns or "", "size": case.size,
            "dim_per_component": case.dim_per_component, "direction": direction}  # fmt: skip
    rows: dict[str, dict[str, object]] = {}
    steps: dict[str, Step] = {}
    call_ms: dict[str, float] = {}
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    for name in contenders:
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
    """Rows of x whose results are checked: all, or the first 32 of a large matrix."""
    is_large = case.columns is not None and case.whole_matrix_mib > LARGEST_MATRIX_IN_FLOAT64_MIB
    return 32 if is_large else case.rows


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
    clock = megahertz()
    if device.type != "cpu" or clock is None or core.why_not("cpu"):
        return "not known", 0.0
    lanes = {"avx512": 16, "avx2": 8}.get(core.isa_in_use(), 4)
    cycles = 2.0 * case.elements / lanes * (1 if direction == "forward" else 2) / torch.get_num_threads()
    return f"operations at {clock:.0f} MHz", cycles / (1e3 * clock)


if __name__ == "__main__":
    main()
