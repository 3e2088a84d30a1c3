"""Draws the README's figure from benchmarks/results/batch_sizes_cpu.csv: benchmarks/results/batch_sizes.png.

    python benchmarks/figure.py

Time and peak memory of IQE, forward and backward, by batch size, as measure_iqe.py --batch-sizes stores them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes
from speed_tables import FIGURE, published_and_compiled
from stored_rows import Case, Row, counted, last_runs, median_ms

ROOT = Path(__file__).resolve().parent.parent
TITLES = {"elementwise": "B distances, D=512", "pairwise": "B x B distances, D=512"}
# Label and colour of ours, torchqmet and the fastest compiled form.
LINES = (("qmkernels", "tab:blue"), ("torchqmet", "tab:red"), ("fastest compiled PyTorch", "tab:gray"))
SMALLEST_MIB = 0.1  # below, the axis of memory is linear


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the CSV file")
    options = parser.parse_args()
    cases = last_runs(options.results, "batch_sizes")
    if not cases:
        print(f"{options.results} has no batch_sizes_cpu.csv: run measure_iqe.py --batch-sizes.", file=sys.stderr)
        return 1
    figure, panels = pyplot.subplots(2, 2, figsize=(9, 5.6), sharex="col", layout="constrained")
    for column, (form, title) in enumerate(TITLES.items()):
        own = [case for case in cases if case["ours"]["form"] == form]
        panels[0, column].set_title(title)
        draw(panels[0, column], own, "median_ms")
        draw(panels[1, column], own, "peak_mib")
        panels[1, column].set_yscale("symlog", linthresh=SMALLEST_MIB)
        panels[1, column].set_ylim(0, 3 * panels[1, column].get_ylim()[1])  # room for the annotation
        panels[1, column].set_xlabel("batch size B")
    panels[0, 0].set_ylabel("time, ms")
    panels[1, 0].set_ylabel("peak memory, MiB")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(f"IQE, 8 values per component, forward + backward\n{where(cases[0]['ours'])}", fontsize=10)
    figure.savefig(options.results / FIGURE, dpi=150)
    return 0


def draw(panel: Axes, cases: list[Case], field: str) -> None:
    for number, (label, colour) in enumerate(LINES):
        contenders = [("ours", *published_and_compiled(case))[number] for case in cases]
        ran = [(case, name) for case, name in zip(cases, contenders, strict=True) if median_ms(case, name) is not None]
        sizes = [int(case["ours"]["rows"]) for case, _ in ran]
        panel.plot(sizes, [float(case[name][field]) for case, name in ran], marker="o", color=colour, label=label)
        if len(ran) < len(cases):
            last, name = ran[-1]
            panel.annotate(
                "then over 4 GiB, not run", (sizes[-1], float(last[name][field])), (0, 6), textcoords="offset points",
                ha="right", color=colour, fontsize=8,
            )  # fmt: skip
    sizes = [int(case["ours"]["rows"]) for case in cases]
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    panel.set_xticks(sizes, [f"{size:,}" for size in sizes])
    panel.grid(alpha=0.3)


def where(row: Row) -> str:
    machine = f"{row['machine']}, {counted(row['threads'], 'thread')}, {row['isa']}"
    return f"{machine}, torch {row['torch']}, commit {row['commit']}"


if __name__ == "__main__":
    sys.exit(main())
