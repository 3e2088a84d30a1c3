"""Measures QRL's whole training step beside other heads: rows in benchmarks/results/training_step_<device>.csv.

    QMKERNELS_TORCHQMET=<checkout> python benchmarks/measure_training_step.py --threads 2

All contenders of a case run in this one process with the same batch and threads, taking turns: first ours and the
ceiling, then each other one with ours. A row has the median and the 20% and 80% quantiles of one update's time, the
peak memory of one, and ``times_ours``: the median over the rounds of its time divided by ours of the same round, which
a machine that is busy for a while changes least. benchmarks/tables.py makes the table of the rows.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from pathlib import Path

import torch
from bench_training_step import CASES, CONTENDERS, Case
from comparison import HERE, Unavailable, append_rows, peak_mib, quantiles, warn_if_loaded

from qmkernels.measurement import interleaved_times_ms

COLUMNS = (
    "date", "commit", "machine", "cores", "threads", "load_average", "python", "torch", "qmkernels", "isa", "command",
    "case", "contender", "median_ms", "low_ms", "high_ms", "times_ours", "rounds", "peak_mib", "note",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="for every contender")
    parser.add_argument("--seconds", type=float, default=60.0, help="timing budget of a case and pair")
    parser.add_argument("--only", default="", help="cases whose name holds this text, such as 'batch 256'")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=None, help="CSV to append to")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warn_if_loaded()

    device = torch.device(options.device)
    chosen = (case for case in CASES if options.only in case.name)
    rows = (row for case in chosen for row in measure(case, device, options.seconds))
    out = options.out or HERE / "results" / f"training_step_{device.type}.csv"
    append_rows(out, COLUMNS, options.device, rows)


def measure(case: Case, device: torch.device, seconds: float) -> list[dict[str, object]]:
    """One row for each contender; that of ours is from its rounds with the ceiling."""
    rows: dict[str, dict[str, object]] = {}
    our_update = None
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    for name, build in CONTENDERS.items():
        row = rows[name] = {"case": case.name, "contender": name, "note": ""}
        try:
            with torch.device(device):
                update = build(case)
            for _ in range(2):  # the optimizers' moments are made, and what compiles does
                update()
        except (Unavailable, RuntimeError) as reason:  # as where memory does not suffice
            row["note"] = f"skipped: {' '.join(str(reason).split())[:200]}"
            continue
        row["peak_mib"] = peak_mib(update, 0, device)
        if our_update is None:
            our_update = update
            continue
        begin = time.perf_counter()
        our_update()
        update()
        synchronize()
        count = max(3, min(100, int(seconds / (time.perf_counter() - begin))))
        our_times, times = interleaved_times_ms([our_update, update], count, synchronize)
        if "median_ms" not in rows["ours"]:
            rows["ours"].update(timed(our_times), times_ours="1")
        ratio = statistics.median(one / other for one, other in zip(times, our_times, strict=True))
        row.update(timed(times), times_ours=f"{ratio:.3f}")
    for row in rows.values():
        print(
            f"{case.name:52} {row['contender']:26} {row.get('median_ms', '-'):>9} ms  {row.get('times_ours', ''):>6} "
            f"times ours  peak {row.get('peak_mib', ''):>8} MiB  {row['note']}",
            flush=True,
        )
    return list(rows.values())


def timed(times: list[float]) -> dict[str, object]:
    low, high = quantiles(times)
    figures = {"median_ms": statistics.median(times), "low_ms": low, "high_ms": high}
    return {**{name: f"{value:.4g}" for name, value in figures.items()}, "rounds": len(times)}


if __name__ == "__main__":
    main()
