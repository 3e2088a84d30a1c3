"""The aggregate of finished runs: interquartile means over seeds with bootstrap intervals, as a table and a figure.

As rliable has them (Agarwal et al. 2021, arXiv 2108.13264): the mean without the lowest and the highest quarter of the
runs, and the 2.5th and 97.5th percentiles of that mean over draws of as many seeds, with repetition, per environment.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy
from matplotlib.figure import Figure
from numpy.typing import NDArray

from .checkpoint import write_whole
from .trainer import measures

EVERYWHERE = "all"
NUM_DRAWS = 2000


class Row(NamedTuple):
    """A method's aggregate at one step, in one environment or in all of them."""

    method: str
    env: str
    step: int
    measure: str
    runs: int
    iqm: float
    low: float
    high: float


def interquartile_mean(values: NDArray) -> NDArray:
    """Over the last dimension, without its lowest and highest quarter, rounded down: (..., n) to (...)."""
    cut = values.shape[-1] // 4
    return numpy.sort(values, axis=-1)[..., cut : values.shape[-1] - cut].mean(axis=-1)


def interval(strata: Sequence[NDArray]) -> tuple[float, float]:
    """The 95 % bootstrap interval of the interquartile mean of all values, drawn anew within each stratum (n,)."""
    generator = numpy.random.default_rng(0)
    draws = [values[generator.integers(len(values), size=(NUM_DRAWS, len(values)))] for values in strata]
    low, high = numpy.percentile(interquartile_mean(numpy.concatenate(draws, axis=1)), (2.5, 97.5))
    return float(low), float(high)


def rows_of(runs: Iterable[tuple[str, dict[str, Any]]]) -> list[Row]:
    """From methods and metrics.json: a row for each method, environment and step that all its runs evaluated.

    The measure is the first of a method's in that environment: success, or what agents without goals have, such as the
    return, which is not comparable between environments: of success alone there are rows of all together.
    """
    curves: dict[str, dict[tuple[str, str], list[dict[int, float]]]] = {}
    for method, metrics in runs:
        measure = next(iter(measures(metrics["final"])))
        curve = {entry["step"]: entry[measure] for entry in metrics["curve"]}
        curves.setdefault(method, {}).setdefault((metrics["settings"]["env"], measure), []).append(curve)
    rows = []
    for method, of_envs in curves.items():
        groups = {which: [of_env] for which, of_env in of_envs.items()}
        if len(groups) > 1 and {measure for _, measure in groups} == {"success"}:
            groups[EVERYWHERE, "success"] = list(of_envs.values())
        for (env, measure), strata in groups.items():
            for step in sorted(set.intersection(*(set(curve) for stratum in strata for curve in stratum))):
                values = [numpy.array([curve[step] for curve in stratum]) for stratum in strata]
                every = numpy.concatenate(values)
                mean = float(interquartile_mean(every))
                rows.append(Row(method, env, step, measure, len(every), mean, *interval(values)))
    return rows


def write(rows: Sequence[Row], table: Path, figure: Path) -> None:
    """Writes the CSV file and the figure; each replaces an earlier one only when it is whole."""
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(Row._fields)
    writer.writerows(rows)
    write_whole(table, lambda file: file.write(lines.getvalue().encode()))
    drawn = draw(rows)
    write_whole(figure, lambda file: drawn.savefig(file, format="png"))


def draw(rows: Sequence[Row]) -> Figure:
    """A panel for each environment and measure, with a curve for each method."""
    panels = list(dict.fromkeys((row.env, row.measure) for row in rows))
    colors = {method: f"C{number}" for number, method in enumerate(dict.fromkeys(row.method for row in rows))}
    figure = Figure(figsize=(5.5 * len(panels), 4.4), dpi=150, layout="constrained")
    for (env, measure), panel in zip(panels, figure.subplots(1, len(panels), squeeze=False)[0], strict=True):
        for method, color in colors.items():
            curve = [row for row in rows if (row.method, row.env, row.measure) == (method, env, measure)]
            if curve:
                steps, means = [row.step for row in curve], [row.iqm for row in curve]
                low, high = [row.low for row in curve], [row.high for row in curve]
                panel.plot(steps, means, color=color, marker=".", label=f"{method}, {curve[0].runs} runs")
                panel.fill_between(steps, low, high, color=color, alpha=0.2, linewidth=0)
        title = "all environments" if env == EVERYWHERE else env
        panel.set(title=title, xlabel="updates", ylabel=f"{measure}, interquartile mean and 95 % interval")
        panel.legend(fontsize=8)
    return figure
