"""What a training run leaves behind: metrics.json, metrics.csv and success.png."""

from __future__ import annotations

import csv
import importlib.metadata
import io
import json
import platform
from typing import Any

from matplotlib.figure import Figure

from .checkpoint import write_whole
from .trainer import Trainer, measures

METRICS_NAME = "metrics.json"
TABLE_NAME = "metrics.csv"
FIGURE_NAME = "success.png"
PACKAGES = (
    "qmkernels", "torch", "numpy", "gymnasium", "gymnasium-robotics", "mujoco", "dm-control", "minigrid", "minari"
)  # fmt: skip


def metrics(trainer: Trainer) -> dict[str, Any]:
    """What metrics.json holds; ``curve`` has an entry for each evaluation, the last is ``final``.

    An entry has the measures of the experiment: of agents that reach goals ``success`` and, in mazes,
    ``success_end_to_end``, with the name of a further way to act behind, of agents that collect rewards ``return``.
    random: the same of uniformly random actions.
    seconds: wall-clock time of updates, collections and evaluations, of all parts of a resumed run.
    """
    return {
        "method": trainer.experiment.method,
        "final": trainer.curve[-1] if trainer.curve else None,
        "random": trainer.random,
        "curve": trainer.curve,
        "step": trainer.step,
        "environment_steps": trainer.environment_steps,
        "seconds": trainer.seconds,
        "settings": trainer.settings.plain(),
        "device": str(trainer.device),
        "versions": {name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
    }


def table(trainer: Trainer) -> str:
    """What metrics.csv holds: a line for each number of the curve, and the measures of random actions at step 0 with
    ``_random`` behind their names."""
    lines, settings = io.StringIO(), trainer.settings
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(("method", "env", "seed", "step", "measure", "value"))
    by_chance = {f"{name}_random": value for name, value in trainer.random.items()}
    first, *others = trainer.curve or [{"step": 0}]
    for entry in ({**by_chance, **first}, *others):
        for name, value in entry.items():
            if name != "step":
                writer.writerow((trainer.experiment.method, settings.env, settings.seed, entry["step"], name, value))
    return lines.getvalue()


def figure(trainer: Trainer) -> Figure:
    """The panels of the experiment, beside each other."""
    panels = trainer.experiment.panels(trainer.curve)
    drawn = Figure(figsize=(6 if len(panels) == 1 else 5.5 * len(panels), 4.4), dpi=150, layout="constrained")
    for draw, panel in zip(panels, drawn.subplots(1, len(panels), squeeze=False)[0], strict=True):
        draw(drawn, panel)
    return drawn


def write(trainer: Trainer) -> None:
    """Writes the files; each replaces an earlier one only when it is whole."""
    text = json.dumps(metrics(trainer), indent=2) + "\n"
    texts = {METRICS_NAME: text, TABLE_NAME: table(trainer), **trainer.experiment.tables(trainer.curve)}
    for name, text in texts.items():
        write_whole(trainer.settings.out / name, lambda file, text=text: file.write(text.encode()))
    drawn = figure(trainer)
    write_whole(trainer.settings.out / FIGURE_NAME, lambda file: drawn.savefig(file, format="png"))


def summary(trainer: Trainer, finished: bool) -> str:
    """What the command prints at the end."""
    final = trainer.curve[-1] if trainer.curve else {}
    numbers = ", ".join(f"{name} {value:.2f}" for name, value in measures(final).items())
    ended = "Trained" if finished else "Stopped after"
    lines = [f"{ended} {trainer.step} steps in {trainer.seconds:.0f} s: {numbers}."]
    if not finished:
        lines.append("The same command resumes from here.")
    lines.append(f"Wrote {METRICS_NAME}, {TABLE_NAME} and {FIGURE_NAME} to {trainer.settings.out}.")
    return "\n".join(lines)


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
