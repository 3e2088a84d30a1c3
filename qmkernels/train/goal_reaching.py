"""Experiments with agents that reach goals: success as the measure, and what a maze's figure shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..agents.goal_agent import GoalAgent
from ..data import Dataset, GoalSampler, ReplayBuffer, check_goal_environment
from . import mazes
from .environments import EVALUATION, Policy, Step, episode, episode_seed, tells
from .experiment import Curve, Experiment, Panel
from .ogbench_tasks import eval_csv, task_names
from .settings import Settings

# Whose mean and deviation the inputs are standardised by.
STANDARDISED_ROWS = 20_000
NUM_TRAJECTORIES = 4


@dataclass(frozen=True)
class GoalSettings(Settings):
    """The settings that agents that reach goals share."""

    goals: Literal["set", "observation"] = "set"
    """set: a goal stands for all states that achieve it, with an input of its own; in OGBench's environments, where
    every observation is a goal, it is an observation. observation: a goal is an observation, the goal's values where an
    observation begins and zeros behind; for environments whose observations begin with what they achieve, such as
    positions before velocities."""
    standardise: bool = True
    """Observations and goals go into the networks less their mean and over their deviation, which are those of the
    dataset, or of the episodes of random actions. No published code does so."""

    smallest_batch: ClassVar[int] = 1
    """2 where the agent compares the rows of a batch with each other."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size < self.smallest_batch:
            raise ValueError(
                f"batch_size must be at least {self.smallest_batch}, as its rows are compared with each other; got "
                f"{self.batch_size}."
            )


class GoalExperiment(Experiment):
    """A method gives ``presets``, ``agent_class`` and, of its settings, `goal_samplers`."""

    agent_class: ClassVar[type[GoalAgent]]
    unit_of_distance: ClassVar[str] = "agent's steps"
    settings: Any

    def __init__(self, settings: GoalSettings, environment: Any, device: torch.device, group: Any = None) -> None:
        check_goal_environment(environment)
        self.maze, self.tasks = mazes.maze_of(environment), task_names(environment)
        super().__init__(settings, environment, device, group)
        self.samplers = self.goal_samplers()

    def goal_samplers(self) -> dict[str, GoalSampler]:
        """Names of the goals in a batch to how they are drawn."""
        raise NotImplementedError

    def make_agent(self, group: Any, **arguments: Any) -> GoalAgent:
        return super().make_agent(group, goal_size=self.goal_size, **arguments)

    @property
    def goal_size(self) -> int | None:
        """Values in a goal; None where goals are observations."""
        if self.settings.goals == "observation" or self.tasks:
            return None
        return self.environment.observation_space["achieved_goal"].shape[0]

    def remarks(self) -> list[str]:
        self.environment.reset(seed=self.settings.seed)
        info = self.environment.step(self.random(numpy.random.default_rng(self.settings.seed)))[-1]
        if tells(info):
            return []
        return [f"{self.settings.env}: no success in info; an episode counts as a success where it terminates."]

    def check_data(self, data: Dataset) -> None:
        if "achieved_goal" not in data.arrays and self.goal_size is not None:
            raise ValueError(f"--dataset {self.settings.dataset} has no achieved_goal; use --goals observation.")

    def begin(self, data: Dataset | ReplayBuffer) -> None:
        """Standardises the agent's inputs, where asked for."""
        if self.settings.standardise:
            generator = numpy.random.default_rng(self.settings.seed)
            rows = data.sample(STANDARDISED_ROWS, self.samplers, generator)
            rows = {name: value.to(self.device) for name, value in rows.items()}
            self.agent.standardise(rows["observation"], rows.get("achieved_goal"))

    def batch(
        self, data: Dataset | ReplayBuffer, size: int, generator: numpy.random.Generator
    ) -> dict[str, torch.Tensor]:
        batch = data.sample(size, self.samplers, generator)
        if "achieved_goal" in batch:
            batch |= {name: self.as_goal(batch[name]) for name in self.samplers}
        return batch

    def condition(self, observation: dict[str, numpy.ndarray]) -> torch.Tensor:
        return self.as_goal(self.as_tensor(observation["desired_goal"]))

    def as_goal(self, goal: torch.Tensor) -> torch.Tensor:
        """The environment's goals (..., g) as the agent takes them."""
        if self.goal_size is not None:
            return goal
        size = self.environment.observation_space["observation"].shape[0]
        return torch.nn.functional.pad(goal, (0, size - goal.shape[-1]))

    def measure(self, policies: dict[str, Policy]) -> dict[str, float]:
        """Shares of episodes with a success at any step, by kind of episode and policy.

        success: from the environment's own starts to its goals. success_end_to_end: between the two ends of a maze.
        In OGBench's environments success_task1 and so on, and success is their mean.
        """
        return {
            kind + name: value
            for name, policy in policies.items()
            for kind, value in (self._of_tasks(policy) if self.tasks else self._of_starts(policy)).items()
        }

    def _of_tasks(self, policy: Policy) -> dict[str, float]:
        success = {
            f"success_{task}": self._success(policy, lambda _, number=number: {"task_id": number})
            for number, task in enumerate(self.tasks, start=1)
        }
        return {"success": sum(success.values()) / len(success), **success}

    def _of_starts(self, policy: Policy) -> dict[str, float]:
        measures = {"success": self._success(policy, lambda _: None)}
        if self.maze is not None:
            measures["success_end_to_end"] = self._success(policy, self._end_to_end)
        return measures

    def _success(self, policy: Policy, options: Callable[[int], dict | None]) -> float:
        """Of the evaluation's episodes; ``options``: of the reset of each, by its number."""
        count = self.settings.evaluation_episodes
        return sum(self.evaluation_episode(n, policy, options(n))[-1].success for n in range(count)) / count

    def _end_to_end(self, number: int) -> dict[str, numpy.ndarray]:
        return mazes.end_to_end_options(self.maze, number)

    def evaluation_episode(self, number: int, policy: Policy, options: dict | None = None) -> list[Step]:
        """The steps of an episode up to the first success."""
        seed = episode_seed(self.settings.seed, EVALUATION, number)
        return episode(self.environment, policy, seed, options=options, stop_at_success=True)

    def tables(self, curve: Curve) -> dict[str, str]:
        return {"eval.csv": eval_csv(curve, self.tasks)} if self.tasks else {}

    def panels(self, curve: Curve) -> list[Panel]:
        """The success curve and, for mazes, learned distances to one goal with trajectories towards it."""

        def success(_: Figure, panel: Axes) -> None:
            draw_success(panel, curve, f"{self.settings.env}, seed {self.settings.seed}")

        return [success] if self.maze is None else [success, self._draw_maze]

    def _draw_maze(self, figure: Figure, panel: Axes) -> None:
        """Towards one end of the maze, or of OGBench's first task."""
        policy = self.policies()[""]
        episodes = [
            # Even episodes go to the same end.
            self.evaluation_episode(number, policy, {"task_id": 1} if self.tasks else self._end_to_end(number))
            for number in range(0, 2 * NUM_TRAJECTORIES, 2)
        ]
        start = episodes[0][0].observation
        positions, is_free = mazes.position_grid(self.maze)
        has_distance = hasattr(self.agent, "distance")
        if has_distance:
            # An observation begins with the position; what follows is as at the start.
            observations = numpy.tile(start["observation"].astype(numpy.float32), (int(is_free.sum()), 1))
            observations[:, :2] = positions[is_free]
            learned = self.agent.distance(self.as_tensor(observations), self.condition(start))
            distance = numpy.full(is_free.shape, numpy.nan)
            distance[is_free] = learned.cpu().numpy()
            shown = panel.pcolormesh(*positions.transpose(2, 0, 1), distance, cmap="viridis", rasterized=True)
            figure.colorbar(shown, ax=panel, label=self.unit_of_distance)
        else:
            panel.pcolormesh(*positions.transpose(2, 0, 1), is_free, cmap="gray", vmin=-2, vmax=2, rasterized=True)
        for steps in episodes:
            passed = [steps[0].observation, *(step.next_observation for step in steps)]
            path = numpy.stack([observation["achieved_goal"][:2] for observation in passed])
            panel.plot(*path.T, color="white" if steps[-1].success else "red", linewidth=1)
        panel.plot(*start["desired_goal"][:2], marker="*", color="white", markeredgecolor="black", markersize=12)
        panel.set(aspect="equal", xlabel="x", ylabel="y", facecolor="0.85")
        title = "Learned distance to the star, and trajectories" if has_distance else "Trajectories to the star"
        panel.set_title(title, fontsize=11)


def draw_success(panel: Axes, curve: Curve, title: str) -> None:
    """Every measure of success by updates."""
    kinds = {
        "success_end_to_end": "between opposite ends",
        **{name: name.removeprefix("success_") for name in curve[0] if name.startswith("success_task")},
        "success": "starts and goals of the environment",
    }
    for key in dict.fromkeys(name for entry in curve for name in entry if name.startswith("success")):
        kind = next(kind for kind in kinds if key.startswith(kind))
        points = [(entry["step"], entry[key]) for entry in curve if key in entry]
        label = ", ".join([kinds[kind], key.removeprefix(kind).removeprefix("_")]).removesuffix(", ")
        panel.plot(*zip(*points, strict=True), marker="o", markersize=3, label=label)
    panel.set(xlabel="updates", ylabel="share of episodes with a success", ylim=(-0.03, 1.03))
    panel.set_title(title, fontsize=11)
    panel.legend(loc="lower right", fontsize=8)
