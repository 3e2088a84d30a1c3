"""How well QRL's critic knows MountainCar's distances to single states, not to the flag: rows in
benchmarks/results/mountaincar/state_goals.csv.

    python benchmarks/measure_mountaincar_goals.py

The demo's critic without its abstract goal, on the demo's data and on more of it. Of 40 random goals, from every state
that can reach them: Spearman between learned and true steps, the median over goals and over all pairs together; beside
it the same of the fewest steps within the observed transitions, unreached states last, which is what the data hold
without generalising. These goals are hard: a state just past a goal is a whole swing away from it.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

import numpy
import torch
from comparison import HERE, run_columns
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

from qmkernels.demo.correlation import spearman
from qmkernels.demo.mountaincar import NUM_ACTIONS, Dynamics, FloatArray, Grid, IntArray, random_actor_transitions
from qmkernels.demo.settings import Settings
from qmkernels.demo.train import Data, Learner

NUM_GOALS, EVALUATIONS = 40, 4
# A goal that fewer states reach says little.
FEWEST_STATES = 1000
CHANGES = dict(
    steps=2400, abstract_goal_share=0.0, link_batch_size=0, softplus_offset=500.0, softplus_beta=0.01, epsilon=0.25,
    learning_rate=1e-3, dim_per_component=8, embedding_size=512, initial_multiplier=1.0, multiplier_learning_rate=0.1,
)  # fmt: skip
COLUMNS = (
    "date", "commit", "machine", "cores", "threads", "python", "torch", "qmkernels", "isa", "command",
    "trajectories", "seed", "step", "median_spearman", "pairs_spearman", "median_ratio", "data_median_spearman",
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--trajectories", type=int, nargs="+", default=[3000, 20_000])
    parser.add_argument("--out", type=Path, default=HERE / "results" / "mountaincar" / "state_goals.csv")
    options = parser.parse_args()
    torch.set_num_threads(1)
    grid = Grid(Dynamics.of_gymnasium())
    is_new = not options.out.exists()
    with options.out.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if is_new:
            writer.writeheader()
        for trajectories in options.trajectories:
            for seed in options.seeds:
                for row in measure(grid, Settings(seed=seed, trajectories=trajectories, **CHANGES)):
                    row = {**run_columns("cpu"), "trajectories": trajectories, "seed": seed, **row}
                    writer.writerow(row)
                    file.flush()
                    print({name: row[name] for name in COLUMNS[-7:]}, flush=True)
    return 0


def measure(grid: Grid, settings: Settings) -> list[dict[str, object]]:
    """A row for each of some points of one training run."""
    sources, targets = random_actor_transitions(
        grid, settings.trajectories, settings.trajectory_length, numpy.random.default_rng(settings.seed)
    )
    every = numpy.repeat(numpy.arange(grid.num_states), NUM_ACTIONS)
    visited = numpy.union1d(sources, targets)
    goals = numpy.random.default_rng([settings.seed, 1]).choice(visited, NUM_GOALS, replace=False)
    true = steps_to(goals, every, grid.next_states.reshape(-1), grid.num_states)
    kept = numpy.isfinite(true).sum(axis=1) >= FEWEST_STATES
    goals, true = goals[kept], true[kept]
    observed = steps_to(goals, sources, targets, grid.num_states)
    observed[~numpy.isfinite(observed)] = 10 * true[numpy.isfinite(true)].max()
    of_data = numpy.median(correlations(observed, true))

    learner, rows = Learner(data := Data(grid, settings, torch.device("cpu")), settings), []
    generator = torch.Generator().manual_seed(settings.seed)
    for step in range(1, settings.steps + 1):
        learner.step(data.draw(generator))
        if step % (settings.steps // EVALUATIONS) == 0:
            found = learned(learner, data, goals)
            reached = numpy.isfinite(true)
            ratio = found[reached] / true[reached].clip(min=1)
            rows.append(
                {
                    "step": step,
                    "median_spearman": f"{numpy.median(correlations(found, true)):.3f}",
                    "pairs_spearman": f"{spearman(found[reached], true[reached]):.3f}",
                    "median_ratio": f"{numpy.median(ratio):.2f}",
                    "data_median_spearman": f"{of_data:.3f}",
                }
            )
    return rows


def steps_to(goals: IntArray, sources: IntArray, targets: IntArray, num_states: int) -> FloatArray:
    """The fewest steps to each goal from every state, (goals, num_states); infinite where no way leads there."""
    backwards = csr_array((numpy.ones(len(sources)), (targets, sources)), shape=(num_states,) * 2)
    return dijkstra(backwards, indices=goals, unweighted=True)


def correlations(found: FloatArray, true: FloatArray) -> list[float]:
    """Spearman of each goal, over the states that reach it."""
    return [spearman(f[reached], t[reached]) for f, t in zip(found, true, strict=True) if any(reached := t < numpy.inf)]


@torch.no_grad()
def learned(learner: Learner, data: Data, goals: IntArray) -> FloatArray:
    """Learned steps to each goal from every state, (goals, num_states)."""
    embedded = torch.cat([learner.critic.embed(chunk) for chunk in data.inputs[:-1].split(4096)])
    return learner.critic.head.pairwise(embedded, embedded[goals]).T.double().numpy()


if __name__ == "__main__":
    sys.exit(main())
