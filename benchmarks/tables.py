"""Writes the README's results tables from benchmarks/results/, between ``<!-- results:NAME -->`` and
``<!-- /results -->``; with ``--check`` writes nothing and exits 1 where the README is not what would be written.

    python benchmarks/tables.py [--check]
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"

SORT_FORMS = ("sort", "sort compiled")
PLAIN_FORMS = (*SORT_FORMS, "unrolled", "unrolled compiled", "endpoints compiled")
# Times faster than torchqmet, as set before the kernels were written: (form, rows, size) to direction to target.
TARGETS = {
    ("elementwise", "256", "512"): {"forward": 100, "forward+backward": 50},
    ("elementwise", "256", "128"): {"forward": 25, "forward+backward": 15},
    ("elementwise", "1024", "2048"): {"forward": 60, "forward+backward": 30},
    ("pairwise", "128", "512"): {"forward": 1500, "forward+backward": 500},
}
PLAIN_TARGETS = {"elementwise": 20, "pairwise": 80}

# Of the measures of agents' runs those that are shown, to the headings of their columns.
MEASURES = {
    "success": "success, environment's starts and goals",
    "success_end_to_end": "between opposite ends",
    "zero_shot_success": "zero-shot goals",
    "coverage": "coverage",
    "return": "return",
    "monotonic_triplets": "monotonic triplets",
}

Row = dict[str, str]
CASE_FIELDS = ("form", "rows", "columns", "size", "dim_per_component", "direction")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where the README is stale")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the CSV files")
    options = parser.parse_args()
    if not options.readme.exists():
        print(f"{options.readme} does not exist.", file=sys.stderr)
        return 1
    before = options.readme.read_text()
    makers = {
        "iqe": iqe_tables,
        "ops": ops_tables,
        "agents": agents_table,
        "training_step": training_step_table,
        "overhead": overhead_table,
    }
    after, count = replace_blocks(before, {name: make(options.results) for name, make in makers.items()})
    if count != len(makers):
        wanted = ", ".join(f"<!-- results:{name} -->" for name in makers)
        print(f"{options.readme} must have the blocks {wanted}.", file=sys.stderr)
        return 1
    if options.check:
        if after != before:
            print(f"{options.readme} is not what benchmarks/tables.py makes of the results: run it.", file=sys.stderr)
        return int(after != before)
    options.readme.write_text(after)
    return 0


def replace_blocks(text: str, blocks: dict[str, str]) -> tuple[str, int]:
    """``text`` with each named block's content replaced, and how many were."""
    count = 0
    for name, content in blocks.items():
        pattern = re.compile(rf"(<!-- results:{name} -->\n).*?(<!-- /results -->)", re.DOTALL)
        text, replaced = pattern.subn(lambda match, content=content: match[1] + content + match[2], text)
        count += replaced
    return text, count


def iqe_tables(results: Path) -> str:
    """The tables of every device that was measured, as Markdown."""
    parts = []
    for path in sorted(results.glob("iqe_*.csv")):
        with path.open(newline="") as file:
            parts.append(device_tables(latest_by_case(csv.DictReader(file)), has_targets=path.stem == "iqe_cpu"))
    return "\n".join(parts) if parts else "No measurements are stored yet.\n"


def latest_by_case(rows: Iterable[Row], fields: tuple[str, ...] = CASE_FIELDS) -> list[dict[str, Row]]:
    """For each case the rows of its last run, by contender; cases in the order of their first measurement."""
    cases: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in rows:
        key = tuple(row[field] for field in fields)
        case = cases.setdefault(key, {})
        if case and next(iter(case.values()))["date"] < row["date"]:
            case.clear()
        case[row["contender"]] = row
    return list(cases.values())


def ops_tables(results: Path) -> str:
    """One table of the ops measured by measure_ops.py: each case against every contender."""
    path = results / "ops_cpu.csv"
    if not path.exists():
        return "No measurements are stored yet.\n"
    with path.open(newline="") as file:
        cases = latest_by_case(csv.DictReader(file), ("op", "case", "direction"))
    runs = {tuple(case["ours"][field] for field in ("date", "commit")): case["ours"] for case in cases}
    lines = [
        "Median time of one call, all in one process with the same threads, taking turns; in brackets how many times "
        "faster than that ours is, and how many were aimed at. Memory is the peak of one call above inputs and "
        "results; the error is the largest against float64, relative to the largest value, of distances and gradients.",
        "",
        *header("ours", "plain PyTorch, eager", "compiled", "other", "memory ours", "eager", "error ours", "eager"),
        *(ops_row(case) for case in cases),
        "",
        *(provenance(run) for run in runs.values()),
        "",
    ]
    return "\n".join(lines)


def ops_row(case: dict[str, Row]) -> str:
    ours = case["ours"]
    known = ("ours", "eager", "compiled")
    others = [f"{name}: {compared(case, name)}" for name in case if name not in known]
    if ours["copy_ms"]:
        others.append(f"a copy of as many bytes: {ours['copy_ms']} ms")
    cells = [
        f"{ours['op']} {ours['case']}",
        ours["direction"].replace("+", " + "),
        milliseconds(case, "ours"),
        compared(case, "eager"),
        compared(case, "compiled"),
        "; ".join(others),
        *(cell(case, name, "peak_mib", " MiB") if name in case else "" for name in ("ours", "eager")),
        *(case.get(name, {}).get("max_error", "") for name in ("ours", "eager")),
    ]
    return f"| {' | '.join(cells)} |"


def compared(case: dict[str, Row], contender: str) -> str:
    """A contender's time and how many times faster ours is."""
    if contender not in case:
        return ""
    row, times = case[contender], ratio(case, contender, None)
    if not times:
        return "not run"
    aim = f", aim {float(row['aim']):g}x" if row["aim"] else ""
    note = f"; {row['note']}" if row["note"] else ""
    return f"{milliseconds(case, contender)} ({times}{aim}{note})"


def agents_table(results: Path) -> str:
    """A row an experiment of measure_agents.py; each measure that any of them has as mean and deviation of its seeds,
    and that of random actions behind it."""
    runs = [seeds_of(folder) for folder in sorted((results / "agents").glob("*")) if folder.is_dir()]
    if not runs:
        return "No measurements are stored yet.\n"
    measured = {key for seeds in runs for seed in seeds for key in seed["final"]}
    shown = {key: name for key, name in MEASURES.items() if key in measured}
    columns = ["environment", "method and options", *shown.values(), "updates", "environment steps", "minutes"]
    lines = [
        f"| {' | '.join(columns)} |",
        f"|---|---|{'---|' * len(shown)}{'--:|' * 3}",
        *sorted(agents_row(seeds, list(shown)) for seeds in runs),
        "",
        "After the last update: mean ± standard deviation over the seeds, in brackets the mean of random actions in "
        "the same episodes. A row's command is `qmkernels train METHOD --env ENVIRONMENT OPTIONS --seed SEED`.",
        "",
        *sorted({agents_provenance(seeds) for seeds in runs}),
        "",
    ]
    return "\n".join(lines)


def seeds_of(folder: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("seed_*.json"))]


def agents_row(seeds: list[dict], shown: list[str]) -> str:
    first = seeds[0]
    evaluated = first["settings"].get("evaluate_with", ["actor"])
    ways = {way: "" if number == 0 else f"_{way}" for number, way in enumerate(evaluated)}
    by_chance = [{**seed["random"], **of_random_actions(seed["final"])} for seed in seeds]

    def measured(key: str) -> str:
        finals = {way: spread([seed["final"].get(key + suffix) for seed in seeds]) for way, suffix in ways.items()}
        found = "; ".join(f"{way} {cell}" if len(ways) > 1 else cell for way, cell in finals.items() if cell)
        chance = [each[key] for each in by_chance if key in each]
        return f"{found} ({number_of(statistics.mean(chance))})" if found and chance else found

    method, _, env, *options = re.sub(r" --seed \d+", "", first["command"]).split()[2:]
    # A dataset is collected before the first update; online the buffer's steps are counted.
    collected = first["settings"]["collect_steps"] * first["settings"]["action_repeat"]
    steps = collected if first["settings"]["offline"] else first["environment_steps"]
    cells = [
        env, f"`{' '.join([method, *options])}`", *map(measured, shown), f"{first['step']:,}", f"{steps:,}",
        f"{statistics.mean(seed['seconds'] for seed in seeds) / 60:.1f}",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def of_random_actions(entry: dict[str, float]) -> dict[str, float]:
    """What stands beside a run's own measures with ``_random`` behind its name."""
    return {name.removesuffix("_random"): value for name, value in entry.items() if name.endswith("_random")}


def spread(values: list[float | None]) -> str:
    """Mean and standard deviation of the seeds, as a sample of all, or the value of the only one; "" where one has
    none."""
    if None in values:
        return ""
    if len(values) == 1:
        return f"{number_of(values[0])}, one seed"
    return f"{number_of(statistics.mean(values))} ± {number_of(statistics.stdev(values))}"


def number_of(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.0f}"


def agents_provenance(seeds: list[dict]) -> str:
    first = seeds[0]
    versions = ", ".join(f"{name} {first['versions'][name]}" for name in ("gymnasium-robotics", "mujoco", "torch"))
    numbers = ", ".join(str(seed["settings"]["seed"]) for seed in seeds)
    command = " ".join(first["command"].split()[:5])
    return (
        f"`{command}` run at commit {first['commit']} with `--seed` {numbers} by `benchmarks/measure_agents.py`, one "
        f"thread on {first['machine']}, {versions}."
    )


def training_step_table(results: Path) -> str:
    """QRL's whole update, measured by measure_training_step.py: each case with every head."""
    path = results / "training_step_cpu.csv"
    if not path.exists():
        return "No measurements are stored yet.\n"
    with path.open(newline="") as file:
        cases = latest_by_case(csv.DictReader(file), ("case",))
    others = [name for name in dict.fromkeys(name for case in cases for name in case) if name != "ours"]
    runs = {tuple(case["ours"][field] for field in ("date", "commit")): case["ours"] for case in cases}
    lines = [
        "Median time of one `agent.update(batch)`, each other contender taking turns with ours; in brackets its time "
        "divided by ours, the median over the rounds, and its peak memory. The *ceiling* is the same networks with a "
        "head that compares a single number.",
        "",
        f"| step | ours | {' | '.join(others)} | ours, of the ceiling's speed |",
        f"|---|{'--:|' * (len(others) + 2)}",
    ]
    for case in cases:
        cells = [next(iter(case.values()))["case"], *(step_cell(case, name) for name in ("ours", *others))]
        share = case.get("ceiling", {}).get("times_ours")
        lines.append(f"| {' | '.join(cells)} | {f'{100 * float(share):.0f}%' if share else ''} |")
    return "\n".join([*lines, "", *(provenance(run) for run in runs.values()), ""])


def overhead_table(results: Path) -> str:
    """What a call costs beside its arithmetic, measured by measure_overhead.py: each case at each commit that the last
    machine measured."""
    path = results / "overhead_cpu.csv"
    if not path.exists():
        return "No measurements are stored yet.\n"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows = [row for row in rows if row["machine"] == rows[-1]["machine"]]
    latest = {(row["case"], row["commit"]): row for row in rows}
    commits = list(dict.fromkeys(row["commit"] for row in rows))
    lines = [
        "CPU time of one call, forward and backward, of two rows of 16 values, divided by that of an "
        "`autograd.Function` that only allocates its results; one thread, taking turns.",
        "",
        f"| call | {' | '.join(commits)} |",
        f"|---|{'--:|' * len(commits)}",
    ]
    for case in dict.fromkeys(row["case"] for row in rows):
        cells = (latest[case, commit]["times_empty"] if (case, commit) in latest else "" for commit in commits)
        lines.append(f"| {case} | {' | '.join(cells)} |")
    runs = {row["commit"]: row for row in rows}
    return "\n".join([*lines, "", *(provenance(run) for run in runs.values()), ""])


def step_cell(case: dict[str, Row], contender: str) -> str:
    row = case.get(contender, {})
    if not row.get("median_ms"):
        return "not run"
    times = "" if contender == "ours" else f"{float(row['times_ours']):.2f}x, "
    return f"{row['median_ms']} ms ({times}{row['peak_mib']} MiB)"


def device_tables(cases: list[dict[str, Row]], has_targets: bool) -> str:
    runs = {tuple(case["ours"][field] for field in ("date", "commit")): case["ours"] for case in cases}
    lines = [
        "Median time of one call, both sides in one process with the same threads, taking turns. *Sort* is plain "
        "PyTorch as sort x, gather y, `cummax`, eager or compiled, whichever is faster; *fastest plain* is the fastest "
        "of all plain PyTorch forms that we could think of. The last columns say how many times faster ours is"
        + (", in brackets how many were aimed at." if has_targets else "."),
        "",
        *header("ours", "torchqmet", "sort", "fastest plain", "ours beside torchqmet", "beside sort", "beside fastest"),
        *(speed_row(case, has_targets) for case in cases),
        "",
        "Peak memory of one call above its inputs and results; largest error against float64, relative to the largest "
        "value, of distances and gradients; and the floor: the time this machine needs for the bytes (elementwise: a "
        "torch copy of as many) or the vector operations (pairwise).",
        "",
        *header(
            "memory ours",
            "torchqmet",
            "fastest plain",
            "error ours",
            "torchqmet",
            "fastest plain",
            "floor",
            "ours / floor",
        ),  # fmt: skip
        *(quality_row(case) for case in cases),
        "",
        *(provenance(run) for run in runs.values()),
        "",
    ]
    return "\n".join(lines)


def header(*columns: str) -> list[str]:
    return [f"| size | pass | {' | '.join(columns)} |", f"|---|---|{'--:|' * len(columns)}"]


def provenance(run: Row) -> str:
    return (
        f"Measured {run['date'][:10]} at commit {run['commit']} on {run['machine']}, {run['cores']} cores, "
        f"{run['threads']} threads, {run['isa']}, torch {run['torch']}, Python {run['python']}, with "
        f"`{run['command']}`."
    )


def case_cells(case: dict[str, Row]) -> list[str]:
    row = case["ours"]
    rows, columns, size = row["rows"], row["columns"], row["size"]
    shape = f"{rows} x {columns}, D={size}" if columns else f"({rows}, {size})"
    return [f"{row['form']} {shape}, K={row['dim_per_component']}", row["direction"].replace("+", " + ")]


def median(case: dict[str, Row], contender: str) -> float | None:
    text = case.get(contender, {}).get("median_ms", "")
    return float(text) if text else None


def fastest(case: dict[str, Row], contenders: Iterable[str]) -> str | None:
    """The name of the contender with the least time, None where none ran."""
    times = {name: median(case, name) for name in contenders}
    ran = {name: time_ms for name, time_ms in times.items() if time_ms is not None}
    return min(ran, key=ran.__getitem__) if ran else None


def speed_row(case: dict[str, Row], has_targets: bool) -> str:
    row = case["ours"]
    sort, plain = fastest(case, SORT_FORMS), fastest(case, PLAIN_FORMS)
    target = TARGETS.get((row["form"], row["rows"], row["size"]), {}).get(row["direction"]) if has_targets else None
    plain_target = PLAIN_TARGETS[row["form"]] if has_targets else None
    cells = [
        *case_cells(case),
        milliseconds(case, "ours"),
        milliseconds(case, "torchqmet"),
        milliseconds(case, sort or "sort"),
        milliseconds(case, plain or "sort") + (f" ({plain})" if plain else ""),
        ratio(case, "torchqmet", target),
        ratio(case, sort, plain_target),
        ratio(case, plain, plain_target),
    ]
    return f"| {' | '.join(cells)} |"


def quality_row(case: dict[str, Row]) -> str:
    plain = fastest(case, PLAIN_FORMS) or "sort"
    contenders = ("ours", "torchqmet", plain)
    floor, ours = case["ours"]["floor_ms"], median(case, "ours")
    cells = [
        *case_cells(case),
        *(cell(case, contender, "peak_mib", " MiB") for contender in contenders),
        *(cell(case, contender, "max_error", "") for contender in contenders),
        f"{floor} ms" if floor else "not known",
        f"{ours / float(floor):.1f}" if floor and ours else "",
    ]
    return f"| {' | '.join(cells)} |"


def cell(case: dict[str, Row], contender: str, field: str, unit: str) -> str:
    """The stored value, or in short why there is none."""
    row = case.get(contender, {})
    if row.get(field):
        return row[field] + unit
    needs = re.search(r"needs about (\S+ GiB)", row.get("note", ""))
    return f"not run: needs {needs[1]}" if needs else "not run"


def milliseconds(case: dict[str, Row], contender: str) -> str:
    return cell(case, contender, "median_ms", " ms")


def ratio(case: dict[str, Row], contender: str | None, target: int | None) -> str:
    ours, theirs = median(case, "ours"), median(case, contender or "")
    if ours is None or theirs is None:
        return ""
    times = theirs / ours
    return (f"{times:.0f}x" if times >= 10 else f"{times:.2g}x") + (f" [{target}x]" if target else "")


if __name__ == "__main__":
    sys.exit(main())
