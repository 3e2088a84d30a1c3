"""How well QRL's critic knows MountainCar's distances to single states, not to the flag, and what bounds it: rows in
benchmarks/results/mountaincar/state_goals.csv, and with ``--figure`` the last seed's distances in a picture.

    python benchmarks/measure_mountaincar_goals.py

Of 40 random goals, from every state that can reach them: Spearman between learned and true steps, the median over goals
and over all pairs together; beside it the same of the fewest steps within the observed transitions, unreached states
last, which is what the data hold without generalising. These goals are hard: a state just past a goal is a whole swing
away from it.

By the column ``objective``: ``qrl`` is the demo's critic without its abstract goal, from the observed transitions;
``qrl_near`` is the same with most of the pushed pairs near each other on the grid; ``qrl_closure`` holds random pairs
at the fewest steps within the observed transitions, not single transitions at one step: these constraints follow from
those, but bind at every range. Two more say what bounds these:
``regression`` fits the same critic, in as many updates, to the true steps to other goals by the mean absolute error, so
that neither data nor objective are in its way (``transition_mean``, the mean learned distance of an observed step,
is 1 in truth); ``landmarks`` is not learned: an IQE of a quarter of the critic's size
whose embeddings hold the true steps to and from random states, so that no network is in its way either.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import NamedTuple

import numpy
import torch
from comparison import HERE, append_rows
from matplotlib.figure import Figure
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra
from torch import Tensor

from qmkernels.demo.correlation import spearman
from qmkernels.demo.mountaincar import NUM_ACTIONS, Dynamics, FloatArray, Grid, IntArray, random_actor_transitions
from qmkernels.demo.settings import Settings
from qmkernels.demo.train import Data, Learner
from qmkernels.nn import IQE

OBJECTIVES = ["qrl", "qrl_near", "qrl_closure", "regression", "landmarks"]
NUM_GOALS, EVALUATIONS = 40, 4
# A goal that fewer states reach says little.
FEWEST_STATES = 1000
# True steps between which the learned distance is compared by itself: on the way to a goal, and past it, a swing away.
NEAR, FAR = (10, 30), (60, 80)
QRL = dict(
    steps=2400, abstract_goal_share=0.0, link_batch_size=0, softplus_offset=500.0, softplus_beta=0.01, epsilon=0.25,
    learning_rate=1e-3, dim_per_component=8, embedding_size=512, initial_multiplier=1.0, multiplier_learning_rate=0.1,
)  # fmt: skip
# Of qrl_near: the share of the pushed pairs that are near, and how far apart they are at most, in points of the grid.
NEAR_SHARE, NEAREST_POINTS = 0.8, 20
# Of qrl_closure, beside QRL's: constraints of tens of steps may be broken by more than those of one.
CLOSURE = dict(steps=5000, epsilon=3.0)
# Of qrl_closure and regression: the goals whose steps are known.
NUM_KNOWN_GOALS = 1500
# Observed steps whose learned distance is taken.
NUM_TRANSITIONS = 10_000
NUM_LANDMARKS = 64
# What the landmarks' embeddings say where no way leads, in steps.
UNREACHABLE = 150.0
COLUMNS = (
    "date", "commit", "machine", "cores", "threads", "python", "torch", "qmkernels", "isa", "command",
    "objective", "trajectories", "seed", "step", "median_spearman", "pairs_spearman", "median_ratio", "near_mean",
    "far_mean", "transition_mean", "data_median_spearman",
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--trajectories", type=int, nargs="+", default=[3000, 20_000])
    parser.add_argument("--objectives", nargs="+", default=OBJECTIVES, choices=OBJECTIVES)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "mountaincar" / "state_goals.csv")
    parser.add_argument("--figure", type=Path, help="picture of the last seed's distances by objective, such as x.png")
    options = parser.parse_args()
    torch.set_num_threads(1)
    grid = Grid(Dynamics.of_gymnasium())
    for trajectories in options.trajectories:
        for seed in options.seeds:
            problem = Problem(grid, Settings(seed=seed, trajectories=trajectories, **QRL))
            rows, shown = [], {"true": problem.true}
            for objective in options.objectives:
                if objective == "landmarks":
                    shown[objective] = steps_by_landmarks(problem)
                    rows.append({"objective": objective, **quality(problem, shown[objective])})
                else:
                    points, shown[objective] = fit(problem) if objective == "regression" else train(problem, objective)
                    rows += points
            rows = [{"trajectories": trajectories, "seed": seed, **row} for row in rows]
            append_rows(options.out, COLUMNS, "cpu", rows)
            for row in rows:
                print({name: row.get(name) for name in COLUMNS[-11:]}, flush=True)
    if options.figure:
        figure(problem, shown).savefig(options.figure)
    return 0


class Problem:
    """The goals of one seed, the true steps to them, and what the data hold of these."""

    def __init__(self, grid: Grid, settings: Settings) -> None:
        self.grid, self.settings = grid, settings
        sources, targets = random_actor_transitions(
            grid, settings.trajectories, settings.trajectory_length, numpy.random.default_rng(settings.seed)
        )
        self.transitions = sources, targets
        self.visited = numpy.union1d(sources, targets)
        drawn = numpy.random.default_rng([settings.seed, 1]).choice(self.visited, NUM_GOALS, replace=False)
        true = steps_to(drawn, *self.every_step, grid.num_states)
        kept = numpy.isfinite(true).sum(axis=1) >= FEWEST_STATES
        self.goals, self.true = drawn[kept], true[kept]
        observed = steps_to(self.goals, sources, targets, grid.num_states)
        observed[~numpy.isfinite(observed)] = 10 * self.true[numpy.isfinite(self.true)].max()
        self.data_median_spearman = float(numpy.median(correlations(observed, self.true)))

    @property
    def every_step(self) -> tuple[IntArray, IntArray]:
        """States and next states of every action, (num_states * NUM_ACTIONS,) each."""
        return numpy.repeat(numpy.arange(self.grid.num_states), NUM_ACTIONS), self.grid.next_states.reshape(-1)


class PushedBatch(NamedTuple):
    """A `Batch` with the inputs of the pushed goals."""

    x: Tensor
    y: Tensor
    cost: Tensor
    goal: Tensor


class NearData(Data):
    """Pushes most states from visited ones that are near on the grid, before and behind them."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.grid, problem.settings, torch.device("cpu"))
        self._size = problem.grid.size
        self._visited = torch.zeros(problem.grid.num_states, dtype=torch.bool)
        self._visited[torch.as_tensor(problem.visited)] = True

    def draw(self, generator: torch.Generator) -> PushedBatch:
        steps = torch.randint(len(self._sources), (self._settings.batch_size,), generator=generator)
        state, goal = self._sources[steps], self._targets[steps].roll(1)
        moved = torch.randint(-NEAREST_POINTS, NEAREST_POINTS + 1, (2, len(state)), generator=generator)
        position, velocity = (torch.stack([state // self._size, state % self._size]) + moved).clamp(0, self._size - 1)
        near = position * self._size + velocity
        is_near = self._visited[near] & (torch.arange(len(near)) < NEAR_SHARE * len(near))
        rows = state, self._targets[steps], torch.where(is_near, near, goal)
        x, y, goal = (self.inputs[each] for each in rows)
        return PushedBatch(x, y, self._cost, goal)


class ClosureData(Data):
    """Holds random pairs at the fewest steps within the data."""

    def __init__(self, problem: Problem, settings: Settings) -> None:
        super().__init__(problem.grid, settings, torch.device("cpu"))
        generator = torch.Generator().manual_seed(settings.seed)
        self._size = settings.batch_size
        self._visited = torch.as_tensor(problem.visited)
        self._goals = known_goals(problem, generator)
        self._steps = torch.as_tensor(steps_to(self._goals.numpy(), *problem.transitions, problem.grid.num_states))

    def draw(self, generator: torch.Generator) -> PushedBatch:
        row = torch.randint(len(self._goals), (4 * self._size,), generator=generator)
        state = self._visited[torch.randint(len(self._visited), row.shape, generator=generator)]
        connected = self._steps[row, state].isfinite().nonzero().flatten()[: self._size]
        row, state = row[connected], state[connected]
        cost = self._steps[row, state].float()
        x, y = self.inputs[state], self.inputs[self._goals[row]]
        return PushedBatch(x, y, cost, y.roll(1, dims=0))


class PushedLearner(Learner):
    def embeddings(self, batch: PushedBatch) -> tuple[Tensor, Tensor, Tensor]:
        return self.critic.embed(torch.cat([batch.x, batch.y, batch.goal])).split(len(batch.x))


def train(problem: Problem, objective: str) -> tuple[list[dict[str, object]], FloatArray]:
    """A row for each of some points of one training run of QRL's critic, and the steps to the goals at its end."""
    settings = problem.settings
    if objective == "qrl_closure":
        settings = dataclasses.replace(settings, **CLOSURE)
        learner = PushedLearner(data := ClosureData(problem, settings), settings)
    elif objective == "qrl_near":
        learner = PushedLearner(data := NearData(problem), settings)
    else:
        learner = Learner(data := Data(problem.grid, settings, torch.device("cpu")), settings)
    generator, rows = torch.Generator().manual_seed(settings.seed), []
    for step in range(1, settings.steps + 1):
        learner.step(data.draw(generator))
        if step % (settings.steps // EVALUATIONS) == 0:
            columns, found = evaluate(learner, data, problem)
            rows.append({"objective": objective, "step": step, **columns})
    return rows, found


def fit(problem: Problem) -> tuple[list[dict[str, object]], FloatArray]:
    """As `train`, but fits the critic to the true steps from visited states to random goals: what it could know."""
    settings = problem.settings
    data = Data(problem.grid, settings, torch.device("cpu"))
    learner = Learner(data, settings)
    generator = torch.Generator().manual_seed(settings.seed)
    visited, goals = torch.as_tensor(problem.visited), known_goals(problem, generator)
    true = torch.as_tensor(steps_to(goals.numpy(), *problem.every_step, problem.grid.num_states)).float()
    optimiser = torch.optim.AdamW(learner.critic.parameters(), lr=settings.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.steps)
    rows = []
    for step in range(1, settings.steps + 1):
        row = torch.randint(len(goals), (settings.batch_size,), generator=generator)
        state = visited[torch.randint(len(visited), (settings.batch_size,), generator=generator)]
        x, y = learner.critic.embed(data.inputs[torch.cat([state, goals[row]])]).chunk(2)
        error = learner.critic.head(x, y) - true[row, state]
        optimiser.zero_grad()
        error[error.isfinite()].abs().mean().backward()  # no way leads from the others
        optimiser.step()
        schedule.step()
        if step % (settings.steps // EVALUATIONS) == 0:
            columns, found = evaluate(learner, data, problem)
            rows.append({"objective": "regression", "step": step, **columns})
    return rows, found


def known_goals(problem: Problem, generator: torch.Generator) -> Tensor:
    """Random visited states, (NUM_KNOWN_GOALS,)."""
    return torch.as_tensor(problem.visited)[
        torch.randint(len(problem.visited), (NUM_KNOWN_GOALS,), generator=generator)
    ]


def quality(problem: Problem, found: FloatArray) -> dict[str, object]:
    """The columns that compare steps to the goals, (goals, num_states), with the true ones."""
    reached = numpy.isfinite(problem.true)
    found_there, true = found[reached], problem.true[reached]
    near, far = (found_there[(true >= low) & (true < high)].mean() for low, high in (NEAR, FAR))
    return {
        "median_spearman": f"{numpy.median(correlations(found, problem.true)):.3f}",
        "pairs_spearman": f"{spearman(found_there, true):.3f}",
        "median_ratio": f"{numpy.median(found_there / true.clip(min=1)):.2f}",
        "near_mean": f"{near:.1f}",
        "far_mean": f"{far:.1f}",
        "data_median_spearman": f"{problem.data_median_spearman:.3f}",
    }


@torch.no_grad()
def evaluate(learner: Learner, data: Data, problem: Problem) -> tuple[dict[str, object], FloatArray]:
    """The columns of one point of the training, and the learned steps to each goal from every state."""
    embedded = torch.cat([learner.critic.embed(chunk) for chunk in data.inputs[:-1].split(4096)])
    found = learner.critic.head.pairwise(embedded, embedded[problem.goals]).T.double().numpy()
    source, target = (
        torch.as_tensor(states[:: max(1, len(states) // NUM_TRANSITIONS)]) for states in problem.transitions
    )
    transition_mean = learner.critic.head(embedded[source], embedded[target]).mean()
    return {"transition_mean": f"{transition_mean:.2f}", **quality(problem, found)}, found


def steps_by_landmarks(problem: Problem) -> FloatArray:
    """The largest of the triangle inequality's lower bounds by way of landmarks l, (goals, num_states).

    max_l max(d(x, l) - d(y, l), d(l, y) - d(l, x), 0) over random visited states l: an IQE of one value per component
    and the maximum as reduction.
    """
    drawn = numpy.random.default_rng([problem.settings.seed, 2])
    landmarks = drawn.choice(problem.visited, NUM_LANDMARKS, replace=False)
    sources, targets = problem.every_step
    num_states = problem.grid.num_states
    to, since = steps_to(landmarks, sources, targets, num_states), steps_to(landmarks, targets, sources, num_states)
    embedded = torch.as_tensor(numpy.concatenate([-to, since])).clamp(-UNREACHABLE, UNREACHABLE).T.contiguous()
    return IQE(2 * NUM_LANDMARKS, 1, reduction="max").pairwise(embedded, embedded[problem.goals]).T.numpy()


def steps_to(goals: IntArray, sources: IntArray, targets: IntArray, num_states: int) -> FloatArray:
    """The fewest steps to each goal from every state, (goals, num_states); infinite where no way leads there."""
    backwards = csr_array((numpy.ones(len(sources)), (targets, sources)), shape=(num_states,) * 2)
    return dijkstra(backwards, indices=goals, unweighted=True)


def correlations(found: FloatArray, true: FloatArray) -> list[float]:
    """Spearman of each goal, over the states that reach it."""
    return [spearman(f[reached], t[reached]) for f, t in zip(found, true, strict=True) if any(reached := t < numpy.inf)]


def figure(problem: Problem, by_name: dict[str, FloatArray]) -> Figure:
    """Steps to three goals on one colour scale, a column per name, the true ones first; the goals are the quartiles of
    Spearman by the second."""
    by_quality = numpy.argsort(correlations(list(by_name.values())[1], problem.true))
    shown = by_quality[[len(by_quality) * quartile // 4 for quartile in (1, 2, 3)]]
    grid, reached = problem.grid, numpy.isfinite(problem.true)
    highest = problem.true[shown][reached[shown]].max()
    drawn = Figure(figsize=(11, 9), dpi=110, layout="constrained")
    panels = drawn.subplots(len(shown), len(by_name), sharex=True, sharey=True)
    for axes, goal in zip(panels, shown, strict=True):
        position, velocity = divmod(problem.goals[goal], grid.size)
        true = problem.true[goal][reached[goal]]
        for panel, (name, values) in zip(axes, by_name.items(), strict=True):
            steps = numpy.where(reached[goal], values[goal], numpy.nan).reshape(grid.size, grid.size)
            mesh = panel.pcolormesh(grid.positions, grid.velocities, steps.T, vmin=0, vmax=highest, rasterized=True)
            panel.plot(grid.positions[position], grid.velocities[velocity], "r*", markersize=12)
            agreement = "" if name == "true" else f", Spearman {spearman(values[goal][reached[goal]], true):.2f}"
            panel.set_title(name + agreement, fontsize=10)
    drawn.supxlabel("position (track length)")
    drawn.supylabel("velocity (track length per step)")
    drawn.colorbar(mesh, ax=panels, extend="max", label="steps to the goal (star)")
    return drawn


if __name__ == "__main__":
    sys.exit(main())
