"""Tables of what agents learned, as Markdown, from the metrics that measure_agents.py stores for each seed."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path

from stored_rows import NOTHING_STORED

# By kind of task, the measures that are shown, with the headings of their columns.
MEASURES = {
    "Reaching goals": {
        "success": "success, environment's starts and goals",
        "success_end_to_end": "between opposite ends",
        "monotonic_triplets": "monotonic triplets",
    },
    "Skills": {"coverage": "coverage", "zero_shot_success": "zero-shot goals"},
    "Rewards": {"return": "return"},
}

# The README's table: method, what it learns, the experiment that shows it and the measure of that.
HEADLINE = (
    ("QRL", "the fewest steps to a goal; acts by an actor, greedily or by MPPI", "umaze_qrl", "success_end_to_end"),
    ("TMD", "successor distances, contrastively and along transitions", "umaze_tmd", "success_end_to_end"),
    ("MetricRL", "latents whose distances order states by steps", "umaze_metric_rl", "success_end_to_end"),
    ("METRA", "skills that travel far in latents, without rewards", "arena_metra", "coverage"),
    ("IQRL", "quantised latents and TD3 on them, from rewards", "pendulum_iqrl", "return"),
)  # fmt: skip
UNITS = {"success_end_to_end": "success between opposite ends", "coverage": "bins visited", "return": "return"}


def headline(results: Path) -> str:
    """The README's table: a row per method."""
    lines = []
    for method, learns, experiment, measure in HEADLINE:
        seeds = seeds_of(results / "agents" / experiment)
        shown = "not measured yet"
        if seeds:
            env = seeds[0]["command"].split()[4].removeprefix("qmkernels/")
            shown = f"{env}: {UNITS[measure]} {result(seeds, measure)}"
        lines.append(f"| `{method}` | {learns} | {shown} |")
    return "\n".join(["| agent | learns | measured (random actions) |", "|---|---|---|", *lines, ""])


def every_experiment(results: Path) -> str:
    """For each kind of task a table with a row per experiment: mean and deviation of its seeds, and of random actions
    the mean."""
    experiments = [seeds_of(folder) for folder in sorted((results / "agents").glob("*")) if folder.is_dir()]
    if not experiments:
        return NOTHING_STORED
    lines = [
        "After the last update: mean ± standard deviation over the seeds, in brackets the mean of random actions in "
        "the same episodes. A row's command is `qmkernels train METHOD --env ENVIRONMENT OPTIONS --seed SEED`.",
        "",
    ]
    for kind, names in MEASURES.items():
        own = [seeds for seeds in experiments if names.keys() & seeds[0]["final"].keys()]
        measured = {key for seeds in own for seed in seeds for key in seed["final"]}
        shown = {key: name for key, name in names.items() if key in measured}
        if own:
            columns = [kind, "method and options", *shown.values(), "updates", "environment steps", "minutes", "seeds",
                       "commit"]  # fmt: skip
            lines += [
                f"| {' | '.join(columns)} |",
                f"|---|---|{'---|' * len(shown)}{'--:|' * 3}---|---|",
                *sorted(experiment_row(seeds, list(shown)) for seeds in own),
                "",
            ]
    return "\n".join([*lines, *sorted({provenance(seeds) for seeds in experiments}), ""])


def seeds_of(folder: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("seed_*.json"))]


def experiment_row(seeds: list[dict], shown: list[str]) -> str:
    first = seeds[0]
    method, _, env, *options = re.sub(r" --seed \d+", "", first["command"]).split()[2:]
    # A dataset is collected before the first update, or given; online the buffer's steps are counted.
    collected = first["settings"]["collect_steps"] * first["settings"]["action_repeat"]
    steps = f"{collected if first['settings']['offline'] else first['environment_steps']:,}"
    if first["settings"].get("dataset"):
        steps = "those of the dataset"
    cells = [
        env, f"`{' '.join([method, *options])}`", *(result(seeds, key) for key in shown), f"{first['step']:,}",
        steps, f"{statistics.mean(seed['seconds'] for seed in seeds) / 60:.1f}",
        ", ".join(str(seed["settings"]["seed"]) for seed in seeds), first["commit"],
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def result(seeds: list[dict], key: str) -> str:
    """Mean and deviation of a measure, for each way to act, and the mean of random actions; empty if not measured."""
    evaluated = seeds[0]["settings"].get("evaluate_with", ["actor"])
    ways = {way: "" if number == 0 else f"_{way}" for number, way in enumerate(evaluated)}
    spreads = {way: spread([seed["final"].get(key + suffix) for seed in seeds]) for way, suffix in ways.items()}
    text = "; ".join(f"{way} {value}" if len(ways) > 1 else value for way, value in spreads.items() if value)
    by_chance = [{**seed["random"], **of_random_actions(seed["final"])} for seed in seeds]
    chance = [measures[key] for measures in by_chance if key in measures]
    return f"{text} ({number_of(statistics.mean(chance))})" if text and chance else text


def of_random_actions(entry: dict[str, float]) -> dict[str, float]:
    """The measures that a run has of random actions too, with ``_random`` behind their names."""
    return {name.removesuffix("_random"): value for name, value in entry.items() if name.endswith("_random")}


def spread(values: list[float | None]) -> str:
    """Mean and standard deviation of the seeds, as a sample of all, or the value of the only one; empty if one has
    none."""
    if None in values:
        return ""
    if len(values) == 1:
        return f"{number_of(values[0])}, one seed"
    return f"{number_of(statistics.mean(values))} ± {number_of(statistics.stdev(values))}"


def number_of(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.0f}"


def provenance(seeds: list[dict]) -> str:
    versions = ", ".join(f"{name} {seeds[0]['versions'][name]}" for name in ("gymnasium-robotics", "mujoco", "torch"))
    return f"Run by `benchmarks/measure_agents.py`, one thread on {seeds[0]['machine']}, {versions}."
