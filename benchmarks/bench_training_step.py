"""A whole training step of QRL, `agent.update(batch)`, with our head and with others, for pytest-benchmark and
measure_training_step.py.

pytest benchmarks/bench_training_step.py --benchmark-group-by=group
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from bench_iqe import PlainIQE, endpoint_form, unrolled_sort_form
from comparison import Unavailable, compiled, randn, torchqmet
from torch import Tensor, nn

import qmkernels as qm
from qmkernels.agents import QRL, QRLConfig

# FetchPush's observations, goals and actions.
OBSERVATION_SIZE, GOAL_SIZE, ACTION_SIZE = 25, 3, 4

Update = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """Batches of ``rows``; goals are observations, or sets of states, for which the critic compares twice the rows."""

    rows: int
    goals: str = "observations"
    config: QRLConfig = field(default_factory=QRLConfig.online)

    @property
    def name(self) -> str:
        return f"online networks, batch {self.rows}, goals are {self.goals}"

    def agent(self, head: Callable[[int], nn.Module] | None = None) -> QRL:
        torch.manual_seed(0)
        goal_size = GOAL_SIZE if self.goals == "sets" else None
        return QRL(OBSERVATION_SIZE, ACTION_SIZE, self.config, goal_size=goal_size, head=head)

    def batch(self) -> dict[str, Tensor]:
        goal_size = GOAL_SIZE if self.goals == "sets" else OBSERVATION_SIZE
        sizes = {"observation": OBSERVATION_SIZE, "next_observation": OBSERVATION_SIZE, "achieved_goal": goal_size}
        rows = {name: randn(self.rows, size, seed=seed) for seed, (name, size) in enumerate(sizes.items())}
        return {**rows, "goal": randn(self.rows, goal_size, seed=3), "action": randn(self.rows, ACTION_SIZE).tanh()}


CASES = (Case(256), Case(1024), Case(256, "sets"))
SMALL = dict(encoder_sizes=(64,), projector_sizes=(64,), dynamics_sizes=(64,), actor_sizes=(64,), embedding_size=64)
QUICK_CASE = Case(32, config=QRLConfig.online(**SMALL, dim_per_component=8))


def ours(case: Case) -> Update:
    agent, batch = case.agent(), case.batch()
    return lambda: agent.update(batch)


def reference(case: Case) -> Update:
    agent, batch = case.agent(), case.batch()

    def update() -> None:
        with qm.use_backend("reference"):
            agent.update(batch)

    return update


def with_torchqmet(case: Case) -> Update:
    module, batch = torchqmet(), case.batch()
    agent = case.agent(lambda size: module.IQE(size, case.config.dim_per_component))
    return lambda: agent.update(batch)


def with_compiled(form: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Case], Update]:
    """The head in plain PyTorch under torch.compile; it compiles for a minute."""

    def build(case: Case) -> Update:
        if case is QUICK_CASE:
            raise Unavailable("it compiles for a minute: measure_training_step.py runs it")
        batch = case.batch()
        head = compiled(PlainIQE(form, case.config.dim_per_component))()
        agent = case.agent(lambda size: head)
        return lambda: agent.update(batch)

    return build


class FirstValue(nn.Module):
    def forward(self, embedding: Tensor) -> Tensor:
        return embedding[..., :1]


class OneDimensional(nn.Module):
    """d(x, y) = max(y - x, 0), a quasimetric on numbers."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (y - x).relu().squeeze(-1)


def ceiling(case: Case) -> Update:
    """What no head beats: the same networks, but of an embedding only its first value is compared.

    What the head and the critic's loss do to embeddings, copies for goals included, is then done to single numbers. The
    projector still computes whole embeddings, and is handed whole gradients, zeros but for a column: written once.
    """
    agent, batch = case.agent(lambda size: OneDimensional()), case.batch()
    for critic in agent.critics:
        critic.projector.append(FirstValue())
    return lambda: agent.update(batch)


CONTENDERS: dict[str, Callable[[Case], Update]] = {
    "ours": ours,
    "ceiling": ceiling,
    "reference": reference,
    "running maximum, compiled": with_compiled(unrolled_sort_form),
    "endpoints, compiled": with_compiled(endpoint_form),
    "torchqmet": with_torchqmet,
}


@pytest.mark.parametrize("contender", CONTENDERS)
def test_training_step(benchmark: Callable, contender: str) -> None:
    """Small networks: what the published ones take is measured by measure_training_step.py."""
    benchmark.group = "QRL's update, small networks"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            update = CONTENDERS[contender](QUICK_CASE)
        except Unavailable as reason:
            pytest.skip(str(reason))
        update()
    benchmark(update)
