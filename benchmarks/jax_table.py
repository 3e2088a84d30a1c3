"""The table of the JAX front end beside jax.numpy and public code, as Markdown, from what measure_jax.py stores."""

from __future__ import annotations

from pathlib import Path

from stored_rows import NOTHING_STORED, Case, last_runs, milliseconds, provenance, ratio

CONTENDERS = {"ours": "ours", "jax.numpy": "`jax.numpy`", "public": "public code"}


def table(results: Path) -> str:
    """A row per case and a column per contender."""
    cases = last_runs(results, "jax")
    if not cases:
        return NOTHING_STORED
    lines = [
        "Median time under `jit` on both sides, in brackets divided by ours, and peak memory above inputs and results.",
        "",
        f"| | {' | '.join(CONTENDERS.values())} |",
        f"|---|{'--:|' * len(CONTENDERS)}",
    ]
    for case in cases:
        name = next(iter(case.values()))["case"]
        lines.append(f"| {name} | {' | '.join(cell(case, contender) for contender in CONTENDERS)} |")
    return "\n".join([*lines, "", *provenance(row for case in cases for row in case.values()), ""])


def cell(case: Case, contender: str) -> str:
    if contender not in case:
        return ""
    factor = "" if contender == "ours" else f" ({ratio(case, contender)})"
    if not case[contender]["median_ms"]:
        return "not run"
    memory = case[contender]["peak_mib"]
    return f"{milliseconds(case, contender)}{factor}" + (f", {float(memory):.0f} MiB" if memory else "")
