"""The training run of an agent: data, updates, evaluations, checkpoints."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import numpy
import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from ..agents import MPPI, QRL
from ..data import Dataset, GoalSampler, ReplayBuffer
from . import checkpoint, mazes
from .environments import (
    COLLECTION,
    EVALUATION,
    Policy,
    Step,
    collect_dataset,
    episode,
    episode_seed,
    make_environment,
)
from .processes import Processes, device_of
from .settings import Settings

CHECKPOINT_NAME = "checkpoint.pt"
DATASET_NAME = "dataset.npz"
# Whose mean and deviation the inputs are standardised by.
STANDARDISED_ROWS = 20_000
# What may differ between a checkpoint and the command that goes on from it.
FREE_TO_CHANGE = {"out", "restart", "steps", "device", "threads", "compile", "checkpoint_interval", "log_interval"}
FREE_TO_CHANGE |= {"evaluate_with", *(f"mppi.{setting.name}" for setting in fields(MPPI))}
NUM_CANDIDATES = 256


class Trainer:
    """One run, from its settings; `run` goes on from the checkpoint in its folder, if there is one.

    Episodes depend on the seed and their number alone, and whole episodes lie between two updates, so that the agent,
    the buffer and the states of the random generators are all that a checkpoint needs for a bit-exact continuation.

    Of several processes each draws batches of its own and, online, has episodes and a buffer of its own; the agent
    averages their gradients. The first one alone evaluates, reports and writes files, while the others wait.
    """

    def __init__(self, settings: Settings, processes: Processes | None = None) -> None:
        self.settings, self.processes = settings, processes or Processes()
        settings.out.mkdir(parents=True, exist_ok=True)
        self.environment = make_environment(settings.env, settings.action_repeat)
        self.maze = mazes.maze_of(self.environment)
        self.device = device_of(settings.device)
        self.generator = numpy.random.default_rng([settings.seed, 0, self.processes.rank])
        self.goal_sampler = GoalSampler(geometric=1.0, discount=settings.future_discount)
        torch.manual_seed(settings.seed)
        self.agent = self._make_agent()
        if self.agent.discrete and "mppi" in settings.evaluate_with:
            raise ValueError(f"--evaluate-with mppi: {settings.env} has discrete actions; use actor.")
        if not self.processes.is_first:
            # The networks are the same everywhere; what is drawn from here on is not.
            torch.manual_seed(int(self.generator.integers(2**63)))
        self.buffer = None if settings.is_offline else ReplayBuffer(self.environment, settings.buffer_capacity)
        self.data: Dataset | ReplayBuffer | None = self.buffer
        self.step = self.episodes = self.environment_steps = 0
        self.seconds = 0.0
        self.curve: list[dict[str, float]] = []
        self.random_success: dict[str, float] = {}
        self._resume()

    def run(self) -> bool:
        """Trains to the last step; False where a signal ended it before."""
        settings, before = self.settings, torch.get_num_threads()
        torch.set_num_threads(settings.threads)
        try:
            with _signals() as stop:
                self._train(stop)
        finally:
            torch.set_num_threads(before)
        return self.step >= settings.steps

    def _train(self, stop: threading.Event) -> None:
        settings = self.settings
        self._prepare_data()
        if self.step == 0 and settings.standardise:
            rows = self.data.sample(STANDARDISED_ROWS, self.goal_sampler, numpy.random.default_rng(settings.seed))
            rows = {name: value.to(self.device) for name, value in rows.items()}
            self.agent.standardise(rows["observation"], rows.get("achieved_goal"))
        if not self.curve:
            chance = numpy.random.default_rng([settings.seed, EVALUATION])
            if self.processes.is_first:
                self.random_success = self._success({"": lambda _: self._random_action(chance)})
            self._evaluate()
        is_first = self.processes.is_first
        writer = SummaryWriter(settings.out / "tensorboard", purge_step=self.step) if is_first else None
        bar = tqdm(
            total=settings.steps, initial=self.step, unit="step", mininterval=0.5, dynamic_ncols=True,
            disable=not is_first,
        )  # fmt: skip
        with contextlib.closing(writer) if writer else contextlib.nullcontext(), bar:
            try:
                self._train_on(stop, writer, bar)
            except Exception:
                # Not of several processes: the others would wait for this one.
                if self.processes.count == 1 and all(
                    each.isfinite().all() for each in self.agent.networks.parameters()
                ):
                    self._save()
                raise

    def _train_on(self, stop: threading.Event, writer: SummaryWriter | None, bar: tqdm) -> None:
        settings = self.settings
        last, saved = time.perf_counter(), -1
        while self.step < settings.steps and not self.processes.total(stop.is_set()):
            if self.buffer is not None and self.step > 0 and self.step % settings.updates_per_cycle == 0:
                self._collect(settings.episodes_per_cycle)
            metrics = self.agent.update(self._batch())
            self.step += 1
            bar.update()
            if writer and self.step % settings.log_interval == 0:
                for name, value in metrics.items():
                    writer.add_scalar(name, value.item(), self.step)
                writer.add_scalar("environment_steps", self.environment_steps, self.step)
            if self.step % settings.evaluation_interval == 0 or self.step == settings.steps:
                self._evaluate()
                if writer:
                    for name, value in self.curve[-1].items():
                        writer.add_scalar(f"evaluation/{name}", value, self.step)
                    bar.set_postfix(success=f"{self.curve[-1]['success']:.2f}", refresh=False)
            now = time.perf_counter()
            self.seconds, last = self.seconds + now - last, now
            if self.step % settings.checkpoint_interval == 0:
                self._save()
                saved = self.step
        if saved != self.step:
            self._save()

    def act(self, observation: dict[str, numpy.ndarray], deterministic: bool) -> numpy.ndarray:
        """The agent's action as the environment takes it."""
        return self._taken(self.agent.act(*self._state_and_goal(observation), deterministic))

    def _state_and_goal(self, observation: dict[str, numpy.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
        names = ("observation", "desired_goal")
        state, goal = (torch.as_tensor(observation[k], dtype=torch.float32, device=self.device) for k in names)
        return state, self.as_goal(goal)

    def _taken(self, action: torch.Tensor) -> numpy.ndarray:
        space, action = self.environment.action_space, action.cpu().numpy()
        return int(action) + int(space.start) if self.agent.discrete else action.clip(space.low, space.high)

    def policies(self) -> dict[str, Policy]:
        """The ways to act that are evaluated, by what stands behind "success"; without exploration, begun anew."""
        ways = self.settings.evaluate_with
        return {"" if number == 0 else f"_{way}": self._policy(way) for number, way in enumerate(ways)}

    def _policy(self, way: str) -> Policy:
        if way == "actor" or self.agent.discrete:
            return self._greedy_action
        generator = torch.Generator(self.device).manual_seed(self.settings.seed)
        how: dict[str, Any] = dict(mppi=self.settings.mppi, generator=generator)
        if way == "greedy":
            actor, size = self.agent.actor, (NUM_CANDIDATES, self.agent.action_size)
            unit = 2 * torch.rand(size, generator=generator, device=self.device) - 1
            how = dict(candidate_actions=actor.centre + actor.half_range * unit)
        return lambda observation: self._taken(self.agent.plan(*self._state_and_goal(observation), **how))

    def as_goal(self, goal: torch.Tensor) -> torch.Tensor:
        """The environment's goals (..., g) as the agent takes them."""
        if self.agent.goal_size is not None:
            return goal
        return torch.nn.functional.pad(goal, (0, self.agent.observation_size - goal.shape[-1]))

    def _make_agent(self) -> QRL:
        spaces, action = self.environment.observation_space.spaces, self.environment.action_space
        observation_size, goal_size = (spaces[key].shape[0] for key in ("observation", "achieved_goal"))
        discrete = hasattr(action, "n")
        if not discrete:
            bounds = dict(action_low=action.low, action_high=action.high)
        return QRL(
            observation_size,
            int(action.n) if discrete else action.shape[0],
            self.settings.agent,
            goal_size=goal_size if self.settings.goals == "set" else None,
            discrete=discrete,
            device=self.device,
            compile=self.settings.compile,
            group=self.processes.group,
            **({} if discrete else bounds),
        )

    def _prepare_data(self) -> None:
        settings = self.settings
        if self.buffer is not None:
            if self.episodes == 0:
                self._collect(settings.prefill_episodes, random=True)
        elif settings.dataset:
            self.data = Dataset.from_minari(settings.dataset)
            found = [self.data.arrays[name].shape[1:] for name in ("observation", "action")]
            wanted = [self.environment.observation_space["observation"].shape, self.environment.action_space.shape]
            if found != wanted:
                raise ValueError(
                    f"--dataset {settings.dataset} has observations and actions of {found}, {settings.env} of {wanted}."
                )
            if "achieved_goal" not in self.data.arrays and settings.goals == "set":
                raise ValueError(f"--dataset {settings.dataset} has no achieved_goal; use --goals observation.")
        else:
            path = settings.out / DATASET_NAME
            if self.processes.is_first and (not path.exists() or self.step == 0):
                noise = dict(reversion=settings.noise_reversion, scale=settings.noise_scale)
                print(f"Collecting {settings.collect_steps} steps of {settings.env} ...", flush=True)
                collect_dataset(self.environment, settings.collect_steps, settings.seed, **noise).save(path)
            self.processes.wait()
            self.data = Dataset.load(path)

    def _batch(self) -> dict[str, torch.Tensor]:
        batch = self.data.sample(self.settings.batch_size, self.goal_sampler, self.generator)
        if self.agent.goal_size is None and "achieved_goal" in batch:
            batch["goal"] = self.as_goal(batch["goal"])
        return {name: value.to(self.device, non_blocking=True) for name, value in batch.items()}

    def _collect(self, count: int, random: bool = False) -> None:
        """``count`` episodes of each process, no two of the same number."""
        policy = (lambda _: self._random_action(self.generator)) if random else self._exploring_action
        before, begun = self.buffer.num_added, self.episodes
        for number in range(self.processes.rank, count * self.processes.count, self.processes.count):
            seed = episode_seed(self.settings.seed, COLLECTION, begun + number)
            for step in episode(self.environment, policy, seed):
                self.buffer.add(*step[:6])
            self.episodes += self.processes.count
        added = self.processes.total(self.buffer.num_added - before)
        self.environment_steps += added * self.settings.action_repeat

    def _random_action(self, generator: numpy.random.Generator) -> numpy.ndarray:
        space = self.environment.action_space
        if self.agent.discrete:
            return int(generator.integers(space.n)) + int(space.start)
        return generator.uniform(space.low, space.high).astype(space.dtype)

    def _exploring_action(self, observation: dict[str, numpy.ndarray]) -> numpy.ndarray:
        space, exploration = self.environment.action_space, self.settings.exploration
        if self.agent.discrete:
            explores = self.generator.random() < exploration
            return self._random_action(self.generator) if explores else self._greedy_action(observation)
        noise = exploration * (space.high - space.low) / 2 * self.generator.normal(size=space.shape)
        return (self.act(observation, deterministic=False) + noise).clip(space.low, space.high).astype(space.dtype)

    def _evaluate(self) -> None:
        """Success over the environment's own starts and goals and, in a maze, between its opposite ends."""
        found = {"step": self.step, "environment_steps": self.environment_steps}
        self.curve.append(found | (self._success(self.policies()) if self.processes.is_first else {}))

    def _success(self, policies: dict[str, Policy]) -> dict[str, float]:
        """Shares of episodes with a success, by kind of episode and policy."""
        count = self.settings.evaluation_episodes
        kinds = {"success": False} if self.maze is None else {"success": False, "success_end_to_end": True}
        return {
            kind + name: sum(self.evaluation_episode(n, end_to_end, policy)[-1].success for n in range(count)) / count
            for name, policy in policies.items()
            for kind, end_to_end in kinds.items()
        }

    def evaluation_episode(self, number: int, end_to_end: bool = False, policy: Policy | None = None) -> list[Step]:
        """The steps of an episode up to the first success, of the first of `policies` where none is given."""
        return episode(
            self.environment,
            policy or self.policies()[""],
            episode_seed(self.settings.seed, EVALUATION, number),
            options=mazes.end_to_end_options(self.maze, number) if end_to_end else None,
            stop_at_success=True,
        )

    def _greedy_action(self, observation: dict[str, numpy.ndarray]) -> numpy.ndarray:
        return self.act(observation, deterministic=True)

    def _save(self) -> None:
        own = {"random": checkpoint.random_state(self.generator, self.device)}
        if self.buffer is not None:
            own["buffer"] = self.buffer.state_dict()
        of_processes = self.processes.gathered(own)
        if not self.processes.is_first:
            return
        state = {
            "settings": self._comparable(),
            "agent": self.agent.state_dict(),
            "of_processes": of_processes,
            "curve": self.curve,
            "random_success": self.random_success,
            **{name: getattr(self, name) for name in ("step", "episodes", "environment_steps", "seconds")},
        }
        checkpoint.save(self.settings.out / CHECKPOINT_NAME, state)

    def _resume(self) -> None:
        path = self.settings.out / CHECKPOINT_NAME
        if self.settings.restart and self.processes.is_first:
            path.unlink(missing_ok=True)  # or a crash before the first save would go on from it
        if self.settings.restart or not path.exists():
            return
        state = checkpoint.load(path)
        here, there = self._comparable(), state.get("settings", {})
        names = sorted({*here, *there} - FREE_TO_CHANGE)
        different = [name for name in names if here.get(name) != there.get(name)]
        if different:
            listed = "; ".join(f"{name} was {there.get(name)!r}, is {here.get(name)!r}" for name in different)
            raise ValueError(
                f"{path} is of a run with other settings: {listed}. Give another --out, or --restart to begin anew."
            )
        self.agent.load_state_dict(state["agent"])
        own = state["of_processes"][self.processes.rank]
        checkpoint.set_random_state(own["random"], self.generator, self.device)
        if self.buffer is not None:
            self.buffer.load_state_dict(own["buffer"])
        self.curve, self.random_success = state["curve"], state["random_success"]
        for name in ("step", "episodes", "environment_steps", "seconds"):
            setattr(self, name, state[name])
        if self.processes.is_first:
            print(f"Going on from step {self.step} of {path}.", flush=True)

    def _comparable(self) -> dict[str, Any]:
        """What a run is made of, for the next one that goes on from its checkpoint."""
        return {**self.settings.plain(), "processes": self.processes.count}


@contextlib.contextmanager
def _signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C or a termination signal sets; a second one acts as it always does."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: Any) -> None:
        stop.set()
        signal.signal(number, before[number])

    for each in before:
        signal.signal(each, ask)
    try:
        yield stop
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
