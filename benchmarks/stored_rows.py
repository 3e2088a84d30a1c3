"""Rows of benchmarks/results/*.csv: the last run of each case, how its numbers are written, and where they are from."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from pathlib import Path

Row = dict[str, str]
Case = dict[str, Row]  # by contender

NOTHING_STORED = "No measurements are stored yet.\n"
FIELDS_OF_A_CASE = {
    "batch_sizes": ("form", "rows", "columns", "size", "dim_per_component", "direction"),
    "jax": ("case",),
    "iqe": ("form", "rows", "columns", "size", "dim_per_component", "direction"),
    "ops": ("op", "case", "direction"),
    "training_step": ("case",),
}


def rows(results: Path, measured: str, device: str = "cpu") -> list[Row]:
    """All that is stored, in the order of measurement; none if nothing is."""
    path = results / f"{measured}_{device}.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def last_runs(results: Path, measured: str, device: str = "cpu") -> list[Case]:
    """For each case the rows of its last run, by contender; cases in the order of their first measurement."""
    cases: dict[tuple[str, ...], Case] = {}
    for row in rows(results, measured, device):
        case = cases.setdefault(tuple(row[field] for field in FIELDS_OF_A_CASE[measured]), {})
        if case and next(iter(case.values()))["date"] < row["date"]:
            case.clear()
        case[row["contender"]] = row
    return list(cases.values())


def median_ms(case: Case, contender: str) -> float | None:
    text = case.get(contender, {}).get("median_ms", "")
    return float(text) if text else None


def fastest(case: Case, contenders: Iterable[str]) -> str | None:
    """The contender with the least time, None if none ran."""
    times_ms = {name: median_ms(case, name) for name in contenders}
    ran = {name: time_ms for name, time_ms in times_ms.items() if time_ms is not None}
    return min(ran, key=ran.__getitem__) if ran else None


def cell(case: Case, contender: str, field: str, unit: str) -> str:
    """The stored value, or in short why there is none."""
    row = case.get(contender, {})
    if row.get(field):
        return row[field] + unit
    needs = re.search(r"needs about (\S+ GiB)", row.get("note", ""))
    return f"not run: needs {needs[1]}" if needs else "not run"


def milliseconds(case: Case, contender: str) -> str:
    return cell(case, contender, "median_ms", " ms")


def ratio(case: Case, contender: str | None) -> str:
    """How many times faster ours is; empty if either did not run."""
    ours, theirs = median_ms(case, "ours"), median_ms(case, contender or "")
    return "" if ours is None or theirs is None else times(theirs / ours)


def times(factor: float) -> str:
    return f"{factor:.0f}x" if factor >= 10 else f"{factor:.2g}x"


def provenance(measured: Iterable[Row]) -> list[str]:
    """Where rows are from, a line for each machine and its software: dates, commits, and commands but for the cases
    that they choose."""
    machines: dict[tuple[str, ...], list[Row]] = {}
    for row in measured:
        library = f"JAX {row['jax']}" if "jax" in row else f"torch {row['torch']}"
        key = (*(row[field] for field in ("machine", "cores", "threads", "isa")), library, row["python"])
        machines.setdefault(key, []).append(row)
    lines = []
    for (machine, cores, threads, isa, library, python), own in machines.items():
        days = sorted({row["date"][:10] for row in own})
        commits = list(dict.fromkeys(row["commit"] for row in own))
        commands = dict.fromkeys(re.sub(r" --(only|out) ('[^']*'|\S+)", "", row["command"]) for row in own)
        lines.append(
            f"Measured {' to '.join(dict.fromkeys([days[0], days[-1]]))} at commit{'s' * (len(commits) > 1)} "
            f"{', '.join(commits)} on {machine}, {counted(cores, 'core')}, {counted(threads, 'thread')}, {isa}, "
            f"{library}, Python {python}, with {', '.join(f'`{command}`' for command in commands)}."
        )
    return lines


def counted(number: str, noun: str) -> str:
    return f"{number} {noun}{'' if number == '1' else 's'}"
