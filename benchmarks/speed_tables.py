"""Tables of time, memory and error, as Markdown, from the rows that the measure_*.py scripts store."""

from __future__ import annotations

from pathlib import Path

from stored_rows import (
    NOTHING_STORED,
    Case,
    Row,
    cell,
    fastest,
    last_runs,
    median_ms,
    milliseconds,
    provenance,
    ratio,
    rows,
    times,
)

SORT_FORMS = ("sort", "sort compiled")
PLAIN_FORMS = (*SORT_FORMS, "unrolled", "unrolled compiled", "endpoints compiled")
EAGER_FORMS = ("eager", "reference")

FIGURE = "batch_sizes.png"
# The README's table: what a row is called there, the stored results that have it, and the case's name in them.
HEADLINE = (
    ("`IQE`, batch of 256, D=512", "iqe", "elementwise (256, 512), K=8"),
    ("`IQE`, all 128 x 128 pairs, D=512", "iqe", "pairwise 128 x 128, D=512, K=8"),
    ("`IQE`, all 1,024 x 1,024 pairs, D=512", "iqe", "pairwise 1024 x 1024, D=512, K=8"),
    ("`LatentMRN`, all 512 x 512 pairs, D=512", "ops", "mrn pairwise 512 x 512, D=512, tmd"),
    ("`qrl_critic`, batch of 1,024, D=2,048", "ops", "qrl critic (1024, 2048), IQE K=32"),
    ("`tmd_critic`, 2 x 512 x 512 pairs, D=512", "ops",
     "tmd_critic ensemble of 2, 512 x 512, D=512, MRN of 8 components"),
    ("`nearest`, 1,024 queries, bank of 100,000 (forward)", "ops",
     "nearest 1,024 queries, bank of 100,000, D=512, IQE K=8, k=10"),
    ("`agents.QRL`, one update, batch of 1,024", "training_step",
     "online networks, batch 1024, goals are observations"),
)  # fmt: skip


def headline(results: Path) -> str:
    """The README's table: ours beside torchqmet and the fastest compiled form, time and memory in one cell."""
    stored = {measured: cases_by_name(results, measured) for _, measured, _ in HEADLINE}
    lines, shown, notes = [], [], []
    for label, measured, name in HEADLINE:
        if not stored[measured]:
            continue
        if name not in stored[measured]:
            raise ValueError(f"no case {name!r} is among the results of {measured}.")
        case = stored[measured][name]
        published, compiled = published_and_compiled(case)
        cells = [time_and_memory(case, contender) for contender in ("ours", published, compiled)]
        if published in EAGER_FORMS:
            cells[1] = f"eager: {cells[1]}"
        lines.append(f"| {' | '.join([label, *cells])} |")
        for contender, row in ((contender, case[contender]) for contender in (published, compiled)):
            shown.append(row)
            if row["note"] and row["median_ms"]:
                notes.append(f"{contender} {row['note']}")
    if not lines:
        return NOTHING_STORED
    return "\n".join(
        [
            "| forward + backward, float32 | qmkernels | torchqmet, or eager PyTorch | fastest compiled PyTorch |",
            "|---|--:|--:|--:|",
            *lines,
            "",
            " ".join([*([f"\\* {'; '.join(notes)}."] if notes else []), *provenance(shown)]),
            "",
        ]
    )


def cases_by_name(results: Path, measured: str) -> dict[str, Case]:
    """The cases with backward, and of the others those forward."""
    cases = {}
    for case in sorted(last_runs(results, measured), key=lambda case: case["ours"].get("direction", "")):
        row = case["ours"]
        cases[size_of(row) if "form" in row else " ".join([row.get("op", ""), row["case"]]).strip()] = case
    return cases


def published_and_compiled(case: Case) -> tuple[str, str]:
    """torchqmet, or where it has no such case eager PyTorch; and the fastest compiled form."""
    compiled = [contender for contender in case if contender.endswith("compiled")]
    published = "torchqmet" if "torchqmet" in case else next(name for name in EAGER_FORMS if name in case)
    return published, fastest(case, compiled) or compiled[0]


def time_and_memory(case: Case, contender: str) -> str:
    row, time_ms = case[contender], median_ms(case, contender)
    if time_ms is None:
        return milliseconds(case, contender)
    is_slower = "" if contender == "ours" else f" ({times_ours(case, contender)}{'*' if row['note'] else ''})"
    time = f"{time_ms:.3g} ms" if time_ms < 1000 else f"{time_ms / 1000:,.3g} s"
    if time_ms >= 1e6:
        time = f"{time_ms / 1000:,.0f} s"
    peak = float(row["peak_mib"])
    memory = f"{peak / 1024:.2g} GiB" if peak >= 1024 else f"{peak:.0f} MiB" if peak >= 10 else f"{peak:.2g} MiB"
    return f"{time}{is_slower}, {memory}"


def times_ours(case: Case, contender: str) -> str:
    """How many times as long it takes; the median over the rounds where that is stored."""
    stored = case[contender].get("times_ours")
    return times(float(stored)) if stored else ratio(case, contender)


def figure(results: Path, folder: str = "benchmarks/results") -> str:
    """The line that shows what figure.py drew; empty if it has drawn nothing yet."""
    about = "Time and memory of IQE by batch size: qmkernels, torchqmet, compiled PyTorch"
    return f"![{about}]({folder}/{FIGURE})\n" if (results / FIGURE).exists() else ""


def batch_sizes(results: Path) -> str:
    """What figure.py draws, and its numbers: time and memory by batch size."""
    cases = last_runs(results, "batch_sizes")
    if not cases:
        return NOTHING_STORED
    lines = []
    for case in cases:
        published, compiled = published_and_compiled(case)
        cells = [time_and_memory(case, contender) for contender in ("ours", published, compiled)]
        lines.append(f"| {size_of(case['ours'])} | {' | '.join(cells)} |")
    table = ["| forward + backward | ours | torchqmet | fastest compiled |", "|---|--:|--:|--:|", *lines]
    return "\n".join([figure(results, "results"), *table, "", *provenance(case["ours"] for case in cases), ""])


def iqe(results: Path) -> str:
    """The tables of every device that was measured."""
    devices = sorted(path.stem.removeprefix("iqe_") for path in results.glob("iqe_*.csv"))
    return "\n".join(iqe_on(results, device) for device in devices) or NOTHING_STORED


def iqe_on(results: Path, device: str) -> str:
    cases = last_runs(results, "iqe", device)
    lines = [
        "Median time of one call, all in one process with the same threads, taking turns; in brackets how many times "
        "faster ours is. *Sort* is plain PyTorch as sort x, gather y, `cummax`, eager or compiled, whichever is "
        "faster; *fastest plain* is the fastest of all plain PyTorch forms that we could think of.",
        "",
        *header("size", "ours", "torchqmet", "sort", "fastest plain"),
        *(iqe_speed(case) for case in cases),
        "",
        "Peak memory of one call above its inputs and results; largest error against float64, relative to the largest "
        "value, of distances and gradients; and the floor: the time this machine needs for the bytes (elementwise: a "
        "torch copy of as many) or the vector operations (pairwise).",
        "",
        *header("size", "memory ours", "torchqmet", "fastest plain", "error ours", "torchqmet", "fastest plain",
                "floor", "ours / floor"),
        *(iqe_quality(case) for case in cases),
        "",
        *provenance(case["ours"] for case in cases),
        "",
    ]  # fmt: skip
    return "\n".join(lines)


def iqe_speed(case: Case) -> str:
    plain = fastest(case, PLAIN_FORMS)
    cells = [
        *size_and_pass(case),
        milliseconds(case, "ours"),
        compared(case, "torchqmet"),
        compared(case, fastest(case, SORT_FORMS) or "sort"),
        compared(case, plain or "sort") + (f", {plain}" if plain else ""),
    ]
    return f"| {' | '.join(cells)} |"


def iqe_quality(case: Case) -> str:
    contenders = ("ours", "torchqmet", fastest(case, PLAIN_FORMS) or "sort")
    floor, ours = case["ours"]["floor_ms"], median_ms(case, "ours")
    cells = [
        *size_and_pass(case),
        *(cell(case, contender, "peak_mib", " MiB") for contender in contenders),
        *(cell(case, contender, "max_error", "") for contender in contenders),
        f"{floor} ms" if floor else "not known",
        f"{ours / float(floor):.1f}" if floor and ours else "",
    ]
    return f"| {' | '.join(cells)} |"


def size_and_pass(case: Case) -> list[str]:
    return [size_of(case["ours"]), case["ours"]["direction"].replace("+", " + ")]


def size_of(row: Row) -> str:
    count, columns, size = row["rows"], row["columns"], row["size"]
    shape = f"{count} x {columns}, D={size}" if columns else f"({count}, {size})"
    return f"{row['form']} {shape}, K={row['dim_per_component']}"


def ops(results: Path) -> str:
    """One table of what measure_ops.py measures: each case beside every contender."""
    cases = last_runs(results, "ops")
    if not cases:
        return NOTHING_STORED
    lines = [
        "Median time of one call, all in one process with the same threads, taking turns; in brackets how many times "
        "faster ours is. Memory is the peak of one call above inputs and results; the error is the largest against "
        "float64, relative to the largest value, of distances and gradients.",
        "",
        *header("op", "ours", "plain PyTorch, eager", "compiled", "other", "memory ours", "eager", "error ours",
                "eager"),
        *(ops_row(case) for case in cases),
        "",
        *provenance(case["ours"] for case in cases),
        "",
    ]  # fmt: skip
    return "\n".join(lines)


def ops_row(case: Case) -> str:
    ours = case["ours"]
    others = [f"{name}: {compared(case, name)}" for name in case if name not in ("ours", "eager", "compiled")]
    if ours["copy_ms"]:
        others.append(f"a copy of as many bytes: {ours['copy_ms']} ms")
    cells = [
        f"{ours['op']} {ours['case']}",
        ours["direction"].replace("+", " + "),
        milliseconds(case, "ours"),
        *(compared(case, name) if name in case else "" for name in ("eager", "compiled")),
        "; ".join(others),
        *(cell(case, name, "peak_mib", " MiB") if name in case else "" for name in ("ours", "eager")),
        *(case.get(name, {}).get("max_error", "") for name in ("ours", "eager")),
    ]
    return f"| {' | '.join(cells)} |"


def compared(case: Case, contender: str) -> str:
    """A contender's time and how many times faster ours is, or why it did not run."""
    factor, note = ratio(case, contender), case.get(contender, {}).get("note", "")
    if not factor:
        return milliseconds(case, contender)
    return f"{milliseconds(case, contender)} ({factor}{f'; {note}' if note else ''})"


def training_step(results: Path) -> str:
    """QRL's whole update, measured by measure_training_step.py: each case with every head."""
    cases = last_runs(results, "training_step")
    if not cases:
        return NOTHING_STORED
    others = [name for name in dict.fromkeys(name for case in cases for name in case) if name != "ours"]
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
    return "\n".join([*lines, "", *provenance(case["ours"] for case in cases), ""])


def step_cell(case: Case, contender: str) -> str:
    row = case.get(contender, {})
    if not row.get("median_ms"):
        return "not run"
    factor = "" if contender == "ours" else f"{float(row['times_ours']):.2f}x, "
    return f"{row['median_ms']} ms ({factor}{row['peak_mib']} MiB)"


def overhead(results: Path) -> str:
    """The cost of a call beside its arithmetic, measured by measure_overhead.py: each case at each commit that the last
    machine measured."""
    stored = rows(results, "overhead")
    if not stored:
        return NOTHING_STORED
    stored = [row for row in stored if row["machine"] == stored[-1]["machine"]]
    latest = {(row["case"], row["commit"]): row for row in stored}
    commits = list(dict.fromkeys(row["commit"] for row in stored))
    lines = [
        "CPU time of one call, forward and backward, of two rows of 16 values, divided by that of an "
        "`autograd.Function` that only allocates its results; one thread, taking turns.",
        "",
        f"| call | {' | '.join(commits)} |",
        f"|---|{'--:|' * len(commits)}",
    ]
    for case in dict.fromkeys(row["case"] for row in stored):
        cells = (latest[case, commit]["times_empty"] if (case, commit) in latest else "" for commit in commits)
        lines.append(f"| {case} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *provenance(stored), ""])


def header(first: str, *columns: str) -> list[str]:
    return [f"| {first} | pass | {' | '.join(columns)} |", f"|---|---|{'--:|' * len(columns)}"]
