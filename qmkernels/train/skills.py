"""Experiments with agents that learn skills: the states that skills cover, and goals reached without practice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..data import has_goals, is_image
from .environments import EVALUATION, Policy, Step, episode, episode_seed
from .experiment import Curve, Experiment, Panel
from .settings import Settings

Path = numpy.ndarray

# Parts of an observation that begin with a position, the first one that it has counts.
POSITIONS = "achieved_goal", "state", "observation"


@dataclass(frozen=True)
class SkillSettings(Settings):
    """The settings that agents that learn skills share."""

    position_size: Literal[1, 2] = 2
    """Values of a position, which achieved goals begin with; without goals observations, or the state beside images."""


class SkillExperiment(Experiment):
    """A method gives ``presets``, `make_agent` and `batch`, and an agent that has ``skill_of(direction)`` and
    ``skill_towards(observation, goal)``, and ``skill_size`` and ``discrete_skills`` in its configuration."""

    example = "qmkernels/PointArena-v0"
    settings: Any
    skill: torch.Tensor | None = None
    """Of the current episode, (skill_size,); None: at each step the one towards the environment's goal."""

    def __init__(self, settings: Any, environment: Any, device: torch.device, group: Any = None) -> None:
        space = environment.observation_space
        if is_image(space["observation"]) and not any(name in space.spaces for name in POSITIONS[:-1]):
            raise ValueError(
                f"{settings.env}: observations are images alone, which do not tell where the agent is. Make them a "
                "Dict of observation and state, as gymnasium's AddRenderObservation does with render_only=False and "
                'render_key="observation".'
            )
        super().__init__(settings, environment, device, group)

    def extra(self) -> dict[str, tuple[int, ...]]:
        return {"skill": (self.settings.agent.skill_size,)}

    def begin_episode(self, number: int, generator: numpy.random.Generator) -> dict[str, numpy.ndarray]:
        self.skill = self.any_skills(1, generator)[0]
        return {"skill": self.skill.cpu().numpy()}

    def any_skills(self, count: int, generator: numpy.random.Generator) -> torch.Tensor:
        """(count, skill_size), all alike."""
        return self.agent.skill_of(self.as_tensor(generator.normal(size=(count, self.settings.agent.skill_size))))

    def condition(self, observation: dict[str, numpy.ndarray]) -> torch.Tensor:
        if self.skill is not None:
            return self.skill
        state, goal = self.state(observation), self.as_tensor(observation["desired_goal"])
        # What an observation has behind it, such as velocities, is 0 at the goal.
        return self.agent.skill_towards(state, torch.nn.functional.pad(goal, (0, len(state) - len(goal))))

    def measure(self, policies: dict[str, Policy]) -> dict[str, float]:
        """coverage: bins of side 1 of the positions that episodes of any skills visit.

        zero_shot_success: where the environment has goals that are beginnings of observations, the share of episodes
        that reach theirs at any step, with the skill towards it at each. Behind both, with ``_random``, stands what a
        run has found of random actions in as many episodes.
        """
        measures = {f"coverage{name}": float(num_bins(self.paths(policy))) for name, policy in policies.items()}
        if self.goals_are_observed:
            for name, policy in policies.items():
                measures[f"zero_shot_success{name}"] = self.zero_shot_success(policy)
        return measures | {f"{name}_random": value for name, value in self.chance.items()}

    @cached_property
    def goals_are_observed(self) -> bool:
        """Whether there are goals, and observations begin with what they achieve."""
        space = self.environment.observation_space
        if not has_goals(space) or is_image(space["observation"]):
            return False
        observation, _ = self.environment.reset(seed=self.settings.seed)
        achieved = observation["achieved_goal"]
        return bool(numpy.allclose(observation["observation"][: len(achieved)], achieved))

    @cached_property
    def evaluation_skills(self) -> torch.Tensor:
        """The same in every evaluation of a seed."""
        generator = numpy.random.default_rng([self.settings.seed, EVALUATION, 1])
        return self.any_skills(self.settings.evaluation_episodes, generator)

    def paths(self, policy: Policy) -> list[Path]:
        """Of an episode of each evaluation skill."""
        paths = []
        for number, skill in enumerate(self.evaluation_skills):
            self.skill = skill
            steps = episode(self.environment, policy, episode_seed(self.settings.seed, EVALUATION, number))
            paths.append(path_of(steps, self.settings.position_size))
        return paths

    def zero_shot_success(self, policy: Policy) -> float:
        self.skill, count, seed = None, self.settings.evaluation_episodes, self.settings.seed
        seeds = (episode_seed(seed, EVALUATION, number) for number in range(count))
        return sum(episode(self.environment, policy, each, stop_at_success=True)[-1].success for each in seeds) / count

    def panels(self, curve: Curve) -> list[Panel]:
        """Trajectories coloured by skill, those of random actions at the same scale, and coverage by the environment's
        steps."""
        colours = self.colours()

        def trajectories(title: str, policy: Policy) -> Panel:
            def draw(figure: Figure, panel: Axes) -> None:
                if panel is not figure.axes[0]:
                    panel.sharex(figure.axes[0])
                    panel.sharey(figure.axes[0])
                draw_paths(panel, self.paths(policy), colours, title)

            return draw

        title = f"{self.settings.env}, seed {self.settings.seed}"
        drawn = [trajectories("Skills", self.most_likely), trajectories("Random actions", self.at_random())]
        return [*drawn, lambda _, panel: draw_coverage(panel, curve, title)]

    def colours(self) -> numpy.ndarray:
        """(N, 4), of the evaluation skills: around the circle by their first two values, or by their number."""
        skills, size = self.evaluation_skills.cpu().numpy(), self.settings.agent.skill_size
        if self.settings.agent.discrete_skills:
            return colormaps["hsv"](skills.argmax(axis=1) / size)
        return colormaps["hsv"](numpy.arctan2(skills[:, min(1, size - 1)], skills[:, 0]) / (2 * numpy.pi) % 1)


def path_of(steps: Sequence[Step], size: int) -> Path:
    """Positions of an episode, (T + 1, size)."""
    passed = [steps[0].observation, *(step.next_observation for step in steps)]
    key = next(name for name in POSITIONS if name in passed[0])
    return numpy.stack([observation[key][:size] for observation in passed])


def num_bins(paths: Sequence[Path]) -> int:
    """Bins of side 1 that any of the paths visits."""
    return len(numpy.unique(numpy.floor(numpy.concatenate(paths)), axis=0))


def draw_paths(panel: Axes, paths: Sequence[Path], colours: Sequence[Any], title: str) -> None:
    """On the plane; of one coordinate, by steps."""
    for path, colour in zip(paths, colours, strict=True):
        line = path.T if path.shape[1] == 2 else (numpy.arange(len(path)), path[:, 0])
        panel.plot(*line, color=colour, linewidth=0.8)
    if paths[0].shape[1] == 2:
        panel.set(aspect="equal", xlabel="x", ylabel="y")
    else:
        panel.set(xlabel="agent's steps", ylabel="x")
    panel.set_title(f"{title}: {num_bins(paths)} bins", fontsize=11)


def draw_coverage(panel: Axes, curve: Curve, title: str) -> None:
    """Every measure of coverage by the environment's steps."""
    for key in dict.fromkeys(name for entry in curve for name in entry if name.startswith("coverage")):
        points = [(entry["environment_steps"], entry[key]) for entry in curve if key in entry]
        label = key.removeprefix("coverage").removeprefix("_") or "skills"
        panel.plot(*zip(*points, strict=True), marker="o", markersize=3, label=label)
    panel.set(xlabel="environment steps", ylabel="bins visited")
    panel.set_ylim(bottom=0)
    panel.set_title(title, fontsize=11)
    panel.legend(fontsize=8)
