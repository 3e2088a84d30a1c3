"""The table of heads that were fitted to a city's travel times, as Markdown, from what measure_road_graph.py stores."""

from __future__ import annotations

import csv
import statistics
from pathlib import Path

from stored_rows import NOTHING_STORED, Row, provenance

HEADINGS = (
    "head", "parameters of its own", "relative error, held out", "triangles broken", "nearest facility to / from",
    "longer drive to / from",
)  # fmt: skip


def table(results: Path) -> str:
    """A row per head, the most accurate first: means over the seeds of the last run of each."""
    path = results / "road_graph" / "road_graph.csv"
    if not path.exists():
        return NOTHING_STORED
    with path.open(newline="") as file:
        last_runs = {(row["head"], row["seed"]): row for row in csv.DictReader(file)}
    by_head: dict[str, list[Row]] = {}
    for (head, _), row in last_runs.items():
        by_head.setdefault(head, []).append(row)
    seeds = sorted({int(seed) for _, seed in last_runs})
    lines = [
        f"| {head} | {int(runs[0]['head_parameters']):,} | {percent(runs, 'relative_error')} | "
        f"{percent(runs, 'triangle_violations')} | {percent(runs, 'nearest_to')} / {percent(runs, 'nearest_from')} | "
        f"{percent(runs, 'detour_to')} / {percent(runs, 'detour_from')} |"
        for head, runs in sorted(by_head.items(), key=lambda item: mean(item[1], "relative_error"))
    ]
    return "\n".join(
        [
            f"| {' | '.join(HEADINGS)} |",
            f"|---|{'--:|' * (len(HEADINGS) - 1)}",
            *lines,
            "",
            f"Means over the seeds {', '.join(map(str, seeds))}. {' '.join(provenance(last_runs.values()))}",
            "",
        ]
    )


def mean(runs: list[Row], measure: str) -> float:
    return statistics.fmean(float(row[measure]) for row in runs)


def percent(runs: list[Row], measure: str) -> str:
    return f"{100 * mean(runs, measure):.1f}%"
