"""Compares the speed of two commits, benchmark by benchmark, with a verdict that knows the noise.

    pytest benchmarks/bench_*.py --benchmark-json=new.json
    python benchmarks/compare.py benchmarks/results/speed/COMMIT.json new.json
    python benchmarks/compare.py --in-turn COMMIT COMMIT --passes 5 --pytest "-k iqe"

A and B are files that pytest-benchmark wrote or, with --in-turn, commits: both are built, and the benchmarks of this
checkout measure them in turn, once per pass.

A benchmark's ratio is B's median time divided by A's and by the drift of the machine. The drift is the median of the
same ratio over the contenders that are not ours, plain PyTorch and torchqmet: their code is the same in A and B. How
far they scatter around the drift also says how far apart two runs of the same code lie on this machine. The deviation
of a ratio, in logarithms, sums this scatter and the spread of both medians over their rounds. Ratios of several passes
are averaged; where they scatter more than that, their own scatter counts. The interval is three deviations each way,
which one ratio in 370 leaves by chance. The verdict:

    faster, slower  the interval excludes 1
    same            the interval lies within 5% of 1
    unclear         neither: measure in turn, with more passes

The exit status is 0 whatever the verdicts: no check fails because of a time.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
YARDSTICKS = {
    "compiled", "eager", "endpoints compiled", "sort", "sort compiled", "torchqmet", "unrolled", "unrolled compiled",
}  # fmt: skip
FEWEST_YARDSTICKS = 5
DEVIATIONS = 3.0
SAME = 0.05

Run = dict[str, dict]  # what pytest-benchmark says of a benchmark, by the benchmark's name


class Drift(NamedTuple):
    """How much slower B's run was on code that is the same: the logarithm, and the deviation around it."""

    log_ratio: float
    deviation: float
    count: int


class Comparison(NamedTuple):
    """B's time over A's, without the machine's drift, and the interval in which it lies."""

    name: str
    median_a: float
    median_b: float
    ratio: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        if self.low > 1:
            return "slower"
        if self.high < 1:
            return "faster"
        return "same" if self.low > 1 - SAME and self.high < 1 + SAME else "unclear"


def read(path: Path) -> Run:
    """The benchmarks of a file by name; ValueError for a file of another kind."""
    try:
        benchmarks = json.loads(path.read_text())["benchmarks"]
        return {benchmark["name"]: benchmark for benchmark in benchmarks}
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no file that pytest --benchmark-json wrote: {error!r}") from error


def log_ratio(a: Run, b: Run, name: str) -> float:
    return math.log(b[name]["stats"]["median"] / a[name]["stats"]["median"])


def deviation_of_median(benchmark: dict) -> float:
    """Of the median's logarithm, from the rounds, as if they were normal and independent. They are not, since one slow
    second holds many rounds; the scatter of the yardsticks has the rest."""
    stats = benchmark["stats"]
    return 1.2533 * stats["iqr"] / 1.349 / math.sqrt(stats["rounds"]) / stats["median"]


def is_yardstick(benchmark: dict) -> bool:
    return (benchmark["params"] or {}).get("contender") in YARDSTICKS


def drift_between(a: Run, b: Run) -> Drift:
    """Between two runs, by what is not ours; none where too few contenders are."""
    ratios = [log_ratio(a, b, name) for name in a.keys() & b.keys() if is_yardstick(a[name])]
    if len(ratios) < FEWEST_YARDSTICKS:
        return Drift(0.0, 0.0, len(ratios))
    drift = statistics.median(ratios)
    return Drift(drift, 1.4826 * statistics.median(abs(ratio - drift) for ratio in ratios), len(ratios))


def compare(passes: Sequence[tuple[Run, Run]]) -> list[Comparison]:
    """Every benchmark of ours that all runs have, the slowest ratio first."""
    drifts = [drift_between(a, b) for a, b in passes]
    names = set.intersection(*(set(run) for pair in passes for run in pair))
    comparisons = [_compare(name, passes, drifts) for name in names if not is_yardstick(passes[0][0][name])]
    return sorted(comparisons, key=lambda comparison: -comparison.ratio)


def _compare(name: str, passes: Sequence[tuple[Run, Run]], drifts: Sequence[Drift]) -> Comparison:
    ratios = [log_ratio(a, b, name) - drift.log_ratio for (a, b), drift in zip(passes, drifts, strict=True)]
    variance = statistics.fmean(
        deviation_of_median(a[name]) ** 2 + deviation_of_median(b[name]) ** 2 + drift.deviation**2
        for (a, b), drift in zip(passes, drifts, strict=True)
    )
    if len(ratios) > 2:
        variance = max(variance, statistics.variance(ratios))
    mean, reach = statistics.fmean(ratios), DEVIATIONS * math.sqrt(variance / len(ratios))
    medians = (statistics.median(pair[side][name]["stats"]["median"] for pair in passes) for side in (0, 1))
    return Comparison(name, *medians, *(math.exp(mean + step) for step in (0.0, -reach, reach)))


def report(passes: Sequence[tuple[Run, Run]]) -> str:
    """The table, what it was corrected by, and how many verdicts of each kind there are."""
    comparisons = compare(passes)
    width = max((len(comparison.name) for comparison in comparisons), default=0)
    lines = [f"{'benchmark':{width}}  {'A ms':>9}  {'B ms':>9}  {'B / A':>6}  interval       verdict"]
    for row in comparisons:
        lines.append(
            f"{row.name:{width}}  {1e3 * row.median_a:9.4g}  {1e3 * row.median_b:9.4g}  {row.ratio:6.3f}  "
            f"{row.low:.3f}..{row.high:.3f}  {row.verdict}"
        )
    lines.append("")
    for drift in (drift_between(a, b) for a, b in passes):
        if drift.count < FEWEST_YARDSTICKS:
            lines.append(
                f"Drift unknown: only {drift.count} contenders are not ours. Intervals show the rounds' spread alone."
            )
        else:
            lines.append(
                f"Drift {math.exp(drift.log_ratio):.3f}, taken out; deviation {100 * drift.deviation:.1f}%, "
                f"of {drift.count} contenders that are not ours."
            )
    for kept, other, side in ((0, 1, "A"), (1, 0, "B")):
        alone = set().union(*(set(pair[kept]) - set(pair[other]) for pair in passes))
        if alone:
            lines.append(f"In {side} alone: {', '.join(sorted(alone))}.")
    verdicts = [row.verdict for row in comparisons]
    counts = (f"{verdicts.count(verdict)} {verdict}" for verdict in ("slower", "faster", "same", "unclear"))
    return "\n".join([*lines, f"{len(verdicts)} benchmarks: {', '.join(counts)}."])


def install(commit: str, folder: Path) -> Path:
    """The package as it was at a commit, compiled, in a folder of its own."""
    sources, site = folder / "sources" / commit, folder / "site" / commit
    sources.mkdir(parents=True)
    archive = subprocess.run(["git", "-C", ROOT, "archive", commit], check=True, stdout=subprocess.PIPE).stdout
    subprocess.run(["tar", "-x", "-C", sources], check=True, input=archive)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site]
    subprocess.run([*pip, sources], check=True)
    return site


def measure(site: Path, path: Path, arguments: Sequence[str]) -> Run:
    """One run of this checkout's benchmarks on the package of ``site``."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])}
    where = "import qmkernels; print(qmkernels.__file__)"
    python = {"cwd": path.parent, "env": environment, "text": True}
    found = subprocess.run([sys.executable, "-c", where], check=True, stdout=subprocess.PIPE, **python).stdout.strip()
    if not Path(found).is_relative_to(site):
        raise ValueError(f"the package is imported from {found}, not from {site}: is there an editable installation?")
    benchmarks = sorted((ROOT / "benchmarks").glob("bench_*.py"))
    pytest = [
        sys.executable,
        "-m",
        "pytest",
        "--quiet",
        "--benchmark-quiet",
        "-c",
        ROOT / "pyproject.toml",
        *benchmarks,
        *arguments,
    ]
    subprocess.run([*pytest, f"--benchmark-json={path}"], check=False, stdout=sys.stderr, **python)
    return read(path)


def measure_in_turn(commits: Sequence[str], num_passes: int, arguments: Sequence[str]) -> list[tuple[Run, Run]]:
    """Both commits once a pass; which is first changes from pass to pass."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        sites = [install(commit, folder) for commit in commits]
        passes = []
        for number in range(num_passes):
            runs = {}
            for side in (0, 1) if number % 2 == 0 else (1, 0):
                print(f"pass {number + 1} of {num_passes}: {commits[side]}", file=sys.stderr)
                runs[side] = measure(sites[side], folder / f"{number}_{side}.json", arguments)
            passes.append((runs[0], runs[1]))
        return passes


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("a", help="what is compared with: a file, or with --in-turn a commit")
    parser.add_argument("b", help="what is compared: a file, or with --in-turn a commit")
    parser.add_argument("--in-turn", action="store_true", help="build both commits and measure them in turn")
    parser.add_argument("--passes", type=int, default=3, help="of --in-turn (default: 3)")
    parser.add_argument("--pytest", default="", help="of --in-turn: options for pytest, for example '-k iqe'")
    options = parser.parse_args(arguments)
    try:
        if options.in_turn:
            passes = measure_in_turn((options.a, options.b), options.passes, shlex.split(options.pytest))
        else:
            passes = [(read(Path(options.a)), read(Path(options.b)))]
    except (OSError, ValueError) as error:
        parser.error(str(error))
    print(report(passes))
    return 0


if __name__ == "__main__":
    sys.exit(main())
