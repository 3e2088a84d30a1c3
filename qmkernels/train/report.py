"""What a training run leaves behind: metrics.json and success.png."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from typing import Any

import numpy
import torch
from matplotlib.figure import Figure

from . import mazes
from .checkpoint import write_whole
from .trainer import Trainer

METRICS_NAME = "metrics.json"
FIGURE_NAME = "success.png"
NUM_TRAJECTORIES = 4
PACKAGES = ("qmkernels", "torch", "numpy", "gymnasium", "gymnasium-robotics", "mujoco", "minari")


def metrics(trainer: Trainer) -> dict[str, Any]:
    """What metrics.json holds; ``curve`` has an entry for each evaluation, the last is ``final``.

    success: share of evaluation episodes with a success at any step; success_end_to_end: of those between the two ends
    of a maze; success_WAY, success_end_to_end_WAY: of the further ways to act in evaluate_with. random: the same of
    uniformly random actions. seconds: wall-clock time of updates, collections and evaluations, of all parts of a
    resumed run.
    """
    return {
        "final": trainer.curve[-1] if trainer.curve else None,
        "random": trainer.random_success,
        "curve": trainer.curve,
        "step": trainer.step,
        "environment_steps": trainer.environment_steps,
        "seconds": trainer.seconds,
        "settings": trainer.settings.plain(),
        "device": str(trainer.device),
        "versions": {name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
    }


def figure(trainer: Trainer) -> Figure:
    """The success curve and, for mazes, the learned distances to one end with trajectories towards it."""
    has_maze = trainer.maze is not None and len(trainer.maze.maze_map) > 0
    drawn = Figure(figsize=(11 if has_maze else 6, 4.4), dpi=150, layout="constrained")
    panels = drawn.subplots(1, 2 if has_maze else 1, squeeze=False)[0]
    kinds = {"success_end_to_end": "between opposite ends", "success": "starts and goals of the environment"}
    for key in dict.fromkeys(name for entry in trainer.curve for name in entry if name.startswith("success")):
        kind = next(kind for kind in kinds if key.startswith(kind))
        points = [(entry["step"], entry[key]) for entry in trainer.curve if key in entry]
        label = ", ".join([kinds[kind], key.removeprefix(kind).removeprefix("_")]).removesuffix(", ")
        panels[0].plot(*zip(*points, strict=True), marker="o", markersize=3, label=label)
    panels[0].set(xlabel="updates", ylabel="share of episodes with a success", ylim=(-0.03, 1.03))
    panels[0].set_title(f"{trainer.settings.env}, seed {trainer.settings.seed}", fontsize=11)
    panels[0].legend(loc="lower right", fontsize=8)
    if has_maze:
        _draw_maze(trainer, drawn, panels[1])
    return drawn


def _draw_maze(trainer: Trainer, drawn: Figure, panel: Any) -> None:
    positions, is_free = mazes.position_grid(trainer.maze)
    _, end = mazes.opposite_ends(trainer.maze)
    goal = trainer.maze.cell_rowcol_to_xy(numpy.array(end))
    # An observation begins with the position, and the rest are velocities or joints at rest.
    observations = numpy.zeros((int(is_free.sum()), trainer.agent.observation_size), numpy.float32)
    observations[:, :2] = positions[is_free]
    as_tensor = dict(dtype=torch.float32, device=trainer.device)
    target = trainer.as_goal(torch.as_tensor(goal, **as_tensor))
    distance = numpy.full(is_free.shape, numpy.nan)
    distance[is_free] = trainer.agent.distance(torch.as_tensor(observations, **as_tensor), target).cpu().numpy()
    shown = panel.pcolormesh(*positions.transpose(2, 0, 1), distance, cmap="viridis", rasterized=True)
    # Even episodes go to the end that the distances are drawn for.
    for number in range(0, 2 * NUM_TRAJECTORIES, 2):
        steps = trainer.evaluation_episode(number, end_to_end=True)
        passed = [steps[0].observation, *(step.next_observation for step in steps)]
        path = numpy.stack([observation["achieved_goal"] for observation in passed])
        panel.plot(*path.T, color="white" if steps[-1].success else "red", linewidth=1)
    panel.plot(*goal, marker="*", color="white", markeredgecolor="black", markersize=12)
    panel.set(aspect="equal", xlabel="x", ylabel="y", facecolor="0.85")
    panel.set_title("Learned distance to the star, and trajectories", fontsize=11)
    drawn.colorbar(shown, ax=panel, label="agent's steps")


def write(trainer: Trainer) -> None:
    """Writes both files; each replaces an earlier one only when it is whole."""
    text = json.dumps(metrics(trainer), indent=2) + "\n"
    write_whole(trainer.settings.out / METRICS_NAME, lambda file: file.write(text.encode()))
    drawn = figure(trainer)
    write_whole(trainer.settings.out / FIGURE_NAME, lambda file: drawn.savefig(file, format="png"))


def summary(trainer: Trainer, finished: bool) -> str:
    """What the command prints at the end."""
    final = trainer.curve[-1] if trainer.curve else {}
    rates = ", ".join(f"{name} {final[name]:.2f}" for name in final if name.startswith("success"))
    lines = [f"{'Trained' if finished else 'Stopped after'} {trainer.step} steps in {trainer.seconds:.0f} s: {rates}."]
    if not finished:
        lines.append("The same command goes on from here.")
    lines.append(f"Wrote {trainer.settings.out / METRICS_NAME} and {trainer.settings.out / FIGURE_NAME}.")
    return "\n".join(lines)


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
