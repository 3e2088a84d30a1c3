"""QRL's critic on MountainCar: networks, loss, training loop, and the time of a step by head.

Source: Wang et al. 2023, "Optimal Goal-Reaching Reinforcement Learning via Quasimetric Learning" (arXiv 2304.01203).
The critic maximises the distances between random pairs while no observed step may be longer than its cost; what is
left is the cost of the shortest way. The set of flag states is a goal of its own: an abstract state that each of them
reaches at cost 0.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..backends.dispatch import resolve, use_backend
from ..nn import IQE
from ..progress import progress
from .correlation import spearman
from .mountaincar import FloatArray, Grid, random_actor_transitions
from .settings import Settings

# Of the training: correlations for the progress bar, and rounds of `StepClock`.
NUM_EVALUATIONS = 30
NUM_TIMING_ROUNDS = 50
# Reading the loss waits for a GPU, so it is not read every step.
POSTFIX_INTERVAL = 20
# A stride prime to the grid's size: every position and every velocity is among the evaluated states.
EVALUATED = slice(None, None, 7)


@contextlib.contextmanager
def num_threads(threads: int) -> Iterator[None]:
    """torch's CPU threads within the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def device_for(backend: str) -> torch.device:
    """The GPU where there is one and ``backend`` can use it, otherwise the CPU."""
    return torch.device("cuda" if backend != "cpu" and torch.cuda.is_available() else "cpu")


def backend_for(backend: str) -> str:
    """The backend that "auto" stands for here; ValueError for an unknown name, RuntimeError where it cannot run."""
    with use_backend(backend):
        return resolve("iqe", device_for(backend).type, backend).name


def multilayer_perceptron(*sizes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for size, following in zip(sizes[:-1], sizes[1:], strict=True):
        layers += [nn.Linear(size, following), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def network_inputs(coordinates: FloatArray) -> Tensor:
    """One row for each state and a last one for the abstract goal: (n + 1, 17) float32.

    sin and cos at pi * {1/2, 1, 2, 4} of both coordinates (-1..1), so that the smooth MLP can follow the sharp ridges
    of V*, and an indicator of the abstract goal, whose other inputs are 0.
    """
    angles = (torch.as_tensor(coordinates)[:, :, None] * (math.pi * torch.tensor([0.5, 1.0, 2.0, 4.0]))).flatten(1)
    states = functional.pad(torch.cat([angles.sin(), angles.cos()], dim=1), (0, 1))
    goal = functional.one_hot(torch.tensor([states.shape[1] - 1]), states.shape[1])
    return torch.cat([states, goal]).float()


class Critic(nn.Module):
    """Encoder MLP -> projector MLP -> IQE head; both sides of a pair go through the same MLPs."""

    def __init__(self, input_size: int, settings: Settings) -> None:
        super().__init__()
        hidden = settings.hidden_size
        self.encoder = multilayer_perceptron(input_size, hidden, hidden, hidden, settings.latent_size)
        self.projector = multilayer_perceptron(settings.latent_size, hidden, settings.embedding_size)
        self.head = IQE(settings.embedding_size, settings.dim_per_component)

    def embed(self, inputs: Tensor) -> Tensor:
        """(n, input_size) to (n, embedding_size)."""
        return self.projector(self.encoder(inputs))


class Distances(NamedTuple):
    """What the head computes in one step, in environment steps."""

    local: Tensor
    """Along the observed steps and links, (batch + links,)."""
    pushed: Tensor
    """From each observed step's state to its pushed goal, (batch,)."""


def distances(head: nn.Module, x: Tensor, y: Tensor, goal: Tensor) -> Distances:
    """The step's two calls of the head: x to y, and the first len(goal) rows of x to goal."""
    return Distances(head(x, y), head(x[: len(goal)], goal))


class CriticLoss(NamedTuple):
    """The Lagrangian and its parts: scalars."""

    loss: Tensor
    """push + multiplier * (mean squared violation - epsilon^2)."""
    push: Tensor
    squared_violation: Tensor
    """In steps squared."""
    multiplier: Tensor


def critic_loss(measured: Distances, cost: Tensor, raw_multiplier: Tensor, settings: Settings) -> CriticLoss:
    """QRL's critic objective; minimised over the critic and **maximised** over ``raw_multiplier``.

    ``mean softplus_beta(offset - d(x, goal)) + lambda * (mean relu(d(x, y) - cost)^2 - epsilon^2)``,
    lambda = softplus(raw_multiplier). The first term pushes random pairs apart, less so past ``offset``; the second
    holds every observed step at its cost, so distances cannot grow past the cheapest way through the data.

    Args:
        measured: From `distances`; in units of cost (steps).
        cost: Of each observed step or link, (batch + links,).
        raw_multiplier: Scalar.

    Source: Wang et al. 2023 (arXiv 2304.01203); the numbers are `Settings`'.
    """
    push = functional.softplus(settings.softplus_offset - measured.pushed, beta=settings.softplus_beta).mean()
    squared_violation = functional.relu(measured.local - cost).square().mean()
    multiplier = functional.softplus(raw_multiplier)
    loss = push + multiplier * (squared_violation - settings.epsilon**2)
    return CriticLoss(loss, push.detach(), squared_violation.detach(), multiplier.detach())


class Batch(NamedTuple):
    """Rows of the network's inputs."""

    x: Tensor
    """Where the observed steps, then the links, begin: (batch + links, input_size)."""
    y: Tensor
    """Where they end: (batch + links, input_size)."""
    cost: Tensor
    """1 for a step, 0 for a link: (batch + links,)."""


class Data:
    """The offline transitions of one seed and the batches drawn from them, on one device."""

    def __init__(self, grid: Grid, settings: Settings, device: torch.device) -> None:
        sources, targets = random_actor_transitions(
            grid, settings.trajectories, settings.trajectory_length, numpy.random.default_rng(settings.seed)
        )
        self.inputs = network_inputs(grid.coordinates).to(device)
        self._settings = settings
        self._abstract_goal = grid.num_states
        self._sources, self._targets = torch.as_tensor(sources), torch.as_tensor(targets)
        self._flag_states = torch.as_tensor(numpy.flatnonzero(grid.at_flag))
        links = settings.link_batch_size
        self._cost = torch.cat([torch.ones(settings.batch_size), torch.zeros(links)]).to(device)
        self._link_targets = torch.full((links,), self._abstract_goal)

    def draw(self, generator: torch.Generator) -> Batch:
        """Steps and links, both uniform with replacement."""
        size, links = self._settings.batch_size, self._settings.link_batch_size
        steps = torch.randint(len(self._sources), (size,), generator=generator)
        flags = torch.randint(len(self._flag_states), (links,), generator=generator)
        x = torch.cat([self._sources[steps], self._flag_states[flags]])
        y = torch.cat([self._targets[steps], self._link_targets])
        device = self.inputs.device
        return Batch(self.inputs[x.to(device)], self.inputs[y.to(device)], self._cost)

    @property
    def abstract_goal(self) -> Tensor:
        """The abstract goal's input row, (1, input_size)."""
        return self.inputs[self._abstract_goal :]


class Learner:
    """The critic, the multiplier and their optimiser: one training step at a time."""

    def __init__(self, data: Data, settings: Settings) -> None:
        self._data, self._settings = data, settings
        self.steps_done = 0
        # The global generator is left as it was found.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.critic = Critic(data.inputs.shape[1], settings).to(data.inputs.device)
        # The inverse of softplus, log(e^m - 1), in a form that does not overflow.
        raw = settings.initial_multiplier + math.log(-math.expm1(-settings.initial_multiplier))
        self.raw_multiplier = nn.Parameter(torch.tensor(raw, device=data.inputs.device))
        multiplier_group = {"lr": settings.multiplier_learning_rate, "weight_decay": 0.0, "maximize": True}
        self._optimiser = torch.optim.AdamW(
            [{"params": self.critic.parameters()}, {"params": [self.raw_multiplier], **multiplier_group}],
            lr=settings.learning_rate,
        )

    def embeddings(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """x, y and the pushed goals, each (rows, embedding_size): the arguments of `distances`.

        The first pushed goals are the abstract goal, the others the batch's next states rolled by one.
        """
        rows = torch.cat([batch.x, batch.y, self._data.abstract_goal])
        x, y, abstract_goal = self.critic.embed(rows).split([len(batch.x), len(batch.y), 1])
        size = self._settings.batch_size
        num_abstract = round(self._settings.abstract_goal_share * size)
        goal = torch.cat([abstract_goal.expand(num_abstract, -1), y[:size].roll(1, dims=0)[num_abstract:]])
        return x, y, goal

    def step(self, batch: Batch) -> CriticLoss:
        """One update of critic and multiplier."""
        progress = min(1.0, self.steps_done / max(1, self._settings.steps))
        self._optimiser.param_groups[0]["lr"] = self._settings.learning_rate * (1 + math.cos(math.pi * progress)) / 2
        measured = distances(self.critic.head, *self.embeddings(batch))
        losses = critic_loss(measured, batch.cost, self.raw_multiplier, self._settings)
        self._optimiser.zero_grad()
        losses.loss.backward()
        self._optimiser.step()
        self.steps_done += 1
        return losses

    @torch.no_grad()
    def distance_to_flag(self, states: slice = slice(None)) -> FloatArray:
        """Learned steps from the grid's states to the abstract goal, (n,)."""
        goal = self.critic.embed(self._data.abstract_goal)
        chunks = self._data.inputs[:-1][states].split(4096)
        found = [self.critic.head(self.critic.embed(chunk), goal) for chunk in chunks]
        return torch.cat(found).double().cpu().numpy()


class StepTime(NamedTuple):
    """Medians over the timing rounds, in milliseconds; None where no round was run."""

    step: float | None
    """One training step: drawing the batch, forward, backward, optimiser."""
    step_reference: float | None
    """The same step with the head on the reference backend."""
    head: float | None
    """The head alone, forward and backward, on one step's embeddings."""
    head_reference: float | None


class StepClock:
    """Times the step by head in rounds spread over the training, each contender once a round.

    The timed steps train a copy of the critic, so that the result does not depend on how often the time was taken. The
    share of the head is measured on the head alone, forward and backward, at a step's own embeddings: a stand-in head
    of no cost would leave the difference of two far larger times, less than their noise.
    """

    def __init__(self, data: Data, settings: Settings) -> None:
        self._data, self._settings = data, settings
        self._learner = Learner(data, settings)
        self._generator = torch.Generator().manual_seed(settings.seed)
        self._times: dict[str, list[float]] = {name: [] for name in StepTime._fields}

    def round(self, learner: Learner, batch: Batch) -> None:
        """Times every contender once, from the learner's present state; the first round warms each of them up."""
        self._learner.critic.load_state_dict(learner.critic.state_dict())
        self._learner.steps_done = learner.steps_done
        embeddings = [each.detach().requires_grad_() for each in self._learner.embeddings(batch)]

        def step() -> None:
            self._learner.step(self._data.draw(self._generator))

        def head() -> None:
            measured = distances(self._learner.critic.head, *embeddings)
            leaves = [*embeddings, *self._learner.critic.head.parameters()]
            torch.autograd.grad(measured.local.sum() + measured.pushed.sum(), leaves)

        contenders = {"step": step, "step_reference": step, "head": head, "head_reference": head}
        for name, contender in contenders.items():
            with use_backend("reference" if name.endswith("reference") else self._settings.backend):
                if not self._times[name]:
                    contender()
                self._times[name].append(self._milliseconds(contender))

    def _milliseconds(self, contender: Callable[[], None]) -> float:
        is_cuda = self._data.inputs.is_cuda
        if is_cuda:
            torch.cuda.synchronize()
        start = time.perf_counter()
        contender()
        if is_cuda:
            torch.cuda.synchronize()
        return (time.perf_counter() - start) * 1e3

    @property
    def rounds(self) -> int:
        return min(len(times) for times in self._times.values())

    def medians(self) -> StepTime:
        return StepTime(*(statistics.median(times) if times else None for times in self._times.values()))


@dataclass(frozen=True)
class Outcome:
    """What a training run leaves behind."""

    steps: int
    """Training steps done; fewer than asked for where the run was interrupted."""
    interrupted: bool
    seconds: float
    """Wall-clock time of the training loop, its evaluations and timing rounds included."""
    distance_to_flag: FloatArray
    """Learned d to the abstract goal from every state, in steps: (num_states,)."""
    step_time: StepTime
    timing_rounds: int
    device: str
    curve: list[tuple[int, float]]
    """Training steps done, and Spearman's correlation with V* over a seventh of the non-goal states."""


def train(grid: Grid, settings: Settings) -> Outcome:
    """Trains from scratch with a progress bar on stderr. Ctrl-C ends the training and keeps what was learned."""
    data = Data(grid, settings, device_for(settings.backend))
    learner = Learner(data, settings)
    clock = StepClock(data, settings)
    generator = torch.Generator().manual_seed(settings.seed)
    true_steps = grid.steps_to_flag[EVALUATED]
    elsewhere = ~grid.at_flag[EVALUATED]
    evaluation_interval = math.ceil(settings.steps / NUM_EVALUATIONS) or 1
    timing_interval = math.ceil(settings.steps / NUM_TIMING_ROUNDS) or 1
    curve: list[tuple[int, float]] = []
    interrupted = False
    start = time.perf_counter()
    bar = progress(settings.steps, "step")
    with use_backend(settings.backend), num_threads(settings.threads), bar:
        try:
            for step in range(settings.steps):
                batch = data.draw(generator)
                losses = learner.step(batch)
                if step % timing_interval == timing_interval // 2:
                    clock.round(learner, batch)
                if learner.steps_done % evaluation_interval == 0:
                    found = learner.distance_to_flag(EVALUATED)
                    curve.append((learner.steps_done, spearman(found[elsewhere], true_steps[elsewhere])))
                if step % POSTFIX_INTERVAL == 0 or learner.steps_done == settings.steps:
                    shown = {"loss": f"{losses.loss.item():.1f}", "multiplier": f"{losses.multiplier.item():.2f}"}
                    if curve:
                        shown["spearman"] = f"{curve[-1][1]:.3f}"
                    bar.set_postfix(shown, refresh=False)
                bar.update()
        except KeyboardInterrupt:
            interrupted = True
        seconds = time.perf_counter() - start
        return Outcome(
            steps=learner.steps_done,
            interrupted=interrupted,
            seconds=seconds,
            distance_to_flag=learner.distance_to_flag(),
            step_time=clock.medians(),
            timing_rounds=clock.rounds,
            device=data.inputs.device.type,
            curve=curve,
        )
