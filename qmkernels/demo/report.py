"""What the demo writes: mountaincar.png, V* beside the learned d, and metrics.json."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import math
import os
import platform
from pathlib import Path
from typing import Any

import numpy
from matplotlib.figure import Figure

from .correlation import pearson, spearman
from .mountaincar import Grid
from .settings import Settings
from .train import Outcome

FIGURE_NAME = "mountaincar.png"
METRICS_NAME = "metrics.json"


def metrics(grid: Grid, settings: Settings, outcome: Outcome, backend_used: str) -> dict[str, Any]:
    """What metrics.json holds. A number that was not measured, as after 0 steps, is None.

    Keys:
        steps, interrupted: Training steps done, and whether Ctrl-C ended them early.
        spearman_flag, pearson_flag: Correlation of learned d with V*, both to the flag, over all non-goal states.
        median_ratio: Median of d / V* over the same states: 1 where d is in steps, as it should be.
        seconds: Wall-clock time of the training loop, its evaluations and timing rounds included.
        ms_per_step, ms_per_step_reference: Medians over ``timing_rounds`` rounds in this run, in which a step with
            ``backend`` and one with the reference head take turns.
        head_ms, head_ms_reference: The head alone, forward and backward, at a step's embeddings; same rounds.
        head_share, head_share_reference: The head's time over its step's.
        backend, backend_used: As asked for, and what "auto" came to.
        curve: Pairs of training steps done and Spearman's correlation over a seventh of the non-goal states.
    """
    elsewhere = ~grid.at_flag
    learned, true = outcome.distance_to_flag[elsewhere], grid.steps_to_flag[elsewhere]
    times = outcome.step_time
    found = {
        "steps": outcome.steps,
        "interrupted": outcome.interrupted,
        "seconds": outcome.seconds,
        "spearman_flag": spearman(learned, true),
        "pearson_flag": pearson(learned, true),
        "median_ratio": float(numpy.median(learned / true)),
        "ms_per_step": times.step,
        "ms_per_step_reference": times.step_reference,
        "head_ms": times.head,
        "head_ms_reference": times.head_reference,
        "head_share": _ratio(times.head, times.step),
        "head_share_reference": _ratio(times.head_reference, times.step_reference),
        "timing_rounds": outcome.timing_rounds,
        "backend": settings.backend,
        "backend_used": backend_used,
        "seed": settings.seed,
        "curve": outcome.curve,
        "settings": dataclasses.asdict(settings),
        "versions": {name: _version(name) for name in ("qmkernels", "torch", "gymnasium", "numpy")},
        "threads": settings.threads,
        "device": outcome.device,
        "platform": platform.platform(),
    }
    return _without_nan(found)


def figure(grid: Grid, outcome: Outcome, title: str) -> Figure:
    """V* and learned d to the flag over position and velocity: two panels, one colour scale in steps."""
    true = grid.steps_to_flag.reshape(grid.size, grid.size)
    learned = outcome.distance_to_flag.reshape(grid.size, grid.size)
    # Room for what d overestimates, but not for a d that is out of all proportion.
    longest = float(true[numpy.isfinite(true)].max())
    highest = min(max(longest, float(learned.max())), 1.5 * longest)
    flag = grid.dynamics.flag_position
    drawn = Figure(figsize=(11, 4.6), dpi=150, layout="constrained")
    panels = drawn.subplots(1, 2, sharex=True, sharey=True)
    names = ("V*: fewest steps to the flag", f"d: learned in {outcome.steps} training steps")
    for panel, values, name in zip(panels, (true, learned), names, strict=True):
        axes = grid.positions, grid.velocities, values.T
        mesh = panel.pcolormesh(*axes, vmin=0, vmax=highest, cmap="viridis", rasterized=True)
        panel.contour(*axes, levels=range(20, 101, 20), colors="white", linewidths=0.5, alpha=0.6)
        panel.axvline(flag, color="white", linestyle="--", linewidth=1.2)
        panel.text(flag - 0.02, 0.92 * grid.dynamics.max_speed, "flag", color="white", ha="right", va="top")
        panel.set_title(name, fontsize=11)
        panel.set_xlabel("position (track length)")
    panels[0].set_ylabel("velocity (track length per step)")
    extend = "max" if learned.max() > highest else "neither"
    drawn.colorbar(mesh, ax=panels, extend=extend, label="steps to the flag", pad=0.015)
    drawn.suptitle(title, fontsize=12)
    return drawn


def title(found: dict[str, Any]) -> str:
    """The figure's title, from `metrics`."""
    correlation = _number(found["spearman_flag"], ".3f")
    return f"MountainCar from random actions: steps to the flag, true and learned (Spearman {correlation})"


def summary(found: dict[str, Any]) -> str:
    """What the demo prints at the end, from `metrics`."""
    lines = [
        f"{'Interrupted after' if found['interrupted'] else 'Trained'} {found['steps']} steps "
        f"in {found['seconds']:.0f} s on {found['device']}, {found['threads']} thread{'s' * (found['threads'] > 1)}.",
        f"Learned d to the flag against V*: Spearman {_number(found['spearman_flag'], '.3f')}, "
        f"Pearson {_number(found['pearson_flag'], '.3f')}.",
    ]
    if found["timing_rounds"]:
        lines.append(
            f"A training step takes {found['ms_per_step']:.2f} ms, of which the head {found['head_ms']:.2f} ms "
            f"({found['head_share']:.0%}); with the reference head {found['ms_per_step_reference']:.2f} ms "
            f"(head {found['head_ms_reference']:.2f} ms)."
        )
    return "\n".join(lines)


def write(folder: Path, found: dict[str, Any], drawn: Figure) -> None:
    """Writes both files into ``folder``, made where missing; each replaces an earlier one only when it is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found, indent=2, default=str, allow_nan=False) + "\n"
    unfinished = folder / ".unfinished"
    unfinished.write_text(text)
    os.replace(unfinished, folder / METRICS_NAME)
    drawn.savefig(unfinished, format="png")
    os.replace(unfinished, folder / FIGURE_NAME)


def _number(value: float | None, form: str) -> str:
    return "undefined" if value is None else format(value, form)


def _ratio(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _without_nan(value: Any) -> Any:
    """JSON has no NaN and no infinity: None in their place."""
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
