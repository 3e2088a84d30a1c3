"""The table of the CUDA kernels' instructions, from the rows that gpu_budget.py stores."""

from __future__ import annotations

import csv
from pathlib import Path

from stored_rows import NOTHING_STORED

PIPES = ("fma", "imad", "alu", "xu", "shared", "global", "other")


def budget(results: Path) -> str:
    path = results / "gpu_budget.csv"
    if not path.exists():
        return NOTHING_STORED
    with path.open(newline="") as file:
        stored = list(csv.DictReader(file))
    lines = [
        f"| kernel | instructions | {' | '.join(PIPES)} | busiest: slots | floor | share | registers | barriers "
        "| shared | warps |",
        f"|---|--:|{'--:|' * len(PIPES)}--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in stored:
        cells = [row["kernel"], row["instructions"], *(row[pipe] for pipe in PIPES)]
        cells += [f"{row['busiest']}: {row['busiest_slots']}", f"{row['floor']} ({row['floor_of']})"]
        cells += [f"{float(row['share_of_floor']):.0%}", row["registers"], row["barriers"], row["shared_bytes"]]
        lines.append(f"| {' | '.join([*cells, row['warps']])} |")
    first = stored[0]
    lines += [
        "",
        f"Read on {first['date']} at commit {first['commit']} from what nvcc {first['nvcc']} makes for sm_90.",
    ]
    return "\n".join([*lines, ""])
