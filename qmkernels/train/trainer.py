"""The training run of an agent: data, updates, evaluations, checkpoints."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy
import torch

from ..data import Dataset, ReplayBuffer
from ..progress import progress
from . import checkpoint
from .environments import COLLECTION, Policy, Watched, collect_dataset, episode, episode_seed, make_environment
from .experiment import Experiment
from .logs import Log
from .processes import Processes, device_of
from .settings import Settings

CHECKPOINT_NAME = "checkpoint.pt"
DATASET_NAME = "dataset.npz"


class Trainer:
    """One run of a method, from its settings; it resumes from the checkpoint in its folder, if there is one.

    Episodes depend on the seed and their number alone, and whole episodes lie between two updates, so that the agent,
    the buffer and the states of the random generators are all that a checkpoint needs for a bit-exact continuation.

    Of several processes each draws batches of its own and, online, has episodes and a buffer of its own; the agent
    averages their gradients. The first one alone evaluates, reports and writes files, while the others wait.
    """

    def __init__(self, method: type[Experiment], settings: Settings, processes: Processes | None = None) -> None:
        self.settings, self.processes = settings, processes or Processes()
        arguments = method.environment_arguments(settings)
        environment = make_environment(settings.env, settings.action_repeat, settings.frame_stack, **arguments)
        self.environment = Watched(environment)
        self.device = device_of(settings.device)
        self.generator = numpy.random.default_rng([settings.seed, 0, self.processes.rank])
        torch.manual_seed(settings.seed)
        self.experiment = method(settings, self.environment, self.device, self.processes.group)
        self.agent = self.experiment.agent
        if not self.processes.is_first:
            # The networks are the same everywhere; what is drawn from here on is not.
            torch.manual_seed(int(self.generator.integers(2**63)))
        self.buffer = None
        if not settings.is_offline:
            of_transitions = dict(extra=self.experiment.extra(), frame_stack=settings.frame_stack)
            self.buffer = ReplayBuffer(self.environment, settings.buffer_capacity, **of_transitions)
        self.data: Dataset | ReplayBuffer | None = self.buffer
        self.step = self.episodes = self.environment_steps = 0
        self.seconds = 0.0
        self.curve: list[dict[str, float]] = []
        self.random: dict[str, float] = {}
        try:
            settings.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"--out must be a folder, got {settings.out} ({error.strerror}).") from error
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
        if self.step == 0:
            self.experiment.begin(self.data)
        is_first = self.processes.is_first
        if not self.curve and is_first:
            for remark in self.experiment.remarks():
                print(remark, flush=True)
            self.random = self._measure({"": self.experiment.at_random()}, "evaluating random actions")
        self.experiment.chance = self.random
        if not self.curve:
            self._evaluate()
        log = Log(settings, self.experiment.method, self.step) if is_first else None
        bar = progress(settings.steps, "update", initial=self.step, shown=is_first)
        with contextlib.closing(log) if log else contextlib.nullcontext(), bar:
            try:
                self._train_on(stop, log, bar)
            except Exception:
                # Not of several processes: the others would wait for this one.
                if self.processes.count == 1 and all(
                    each.isfinite().all() for each in self.agent.networks.parameters()
                ):
                    self._save()
                raise

    def _train_on(self, stop: threading.Event, log: Log | None, bar: Any) -> None:
        settings = self.settings
        last, saved = time.perf_counter(), -1
        while self.step < settings.steps and not self.processes.total(stop.is_set()):
            if self.buffer is not None and self.step > 0 and self.step % settings.updates_per_cycle == 0:
                self._collect(settings.episodes_per_cycle)
            if settings.learning_rate_decay == "cosine":
                self._scale_learning_rates((1 + math.cos(math.pi * self.step / settings.steps)) / 2)
            metrics = self.agent.update(self._batch())
            self.step += 1
            bar.update()
            if log and self.step % settings.log_interval == 0:
                numbers = {name: value.item() for name, value in metrics.items()}
                log.add({**numbers, "environment_steps": self.environment_steps}, self.step)
            if self.step % settings.evaluation_interval == 0 or self.step == settings.steps:
                self._evaluate()
                if log:
                    log.add({f"evaluation/{name}": value for name, value in self.curve[-1].items()}, self.step)
                    shown = {name: f"{value:.2f}" for name, value in measures(self.curve[-1]).items()}
                    bar.set_postfix(shown, refresh=False)
            now = time.perf_counter()
            self.seconds, last = self.seconds + now - last, now
            if self.step % settings.checkpoint_interval == 0:
                self._save()
                saved = self.step
        if saved != self.step:
            self._save()

    def _prepare_data(self) -> None:
        settings = self.settings
        if self.buffer is not None:
            if self.episodes == 0:
                self._collect(settings.prefill_episodes, random=True)
        elif settings.dataset:
            given = settings.dataset
            self.data = Dataset.from_ogbench(given) if given.endswith(".npz") else Dataset.from_minari(given)
            found = [self.data.arrays[name].shape[1:] for name in ("observation", "action")]
            wanted = [self.environment.observation_space["observation"].shape, self.environment.action_space.shape]
            if found != wanted:
                raise ValueError(
                    f"--dataset {settings.dataset}: observations and actions are {found}, of {settings.env} {wanted}."
                )
            self.experiment.check_data(self.data)
            self.data = self.data.every(settings.action_repeat)
        else:
            path = settings.out / DATASET_NAME
            if self.processes.is_first and (not path.exists() or self.step == 0):
                noise = dict(reversion=settings.noise_reversion, scale=settings.noise_scale)
                print(f"Collecting {settings.collect_steps} steps of {settings.env} ...", flush=True)
                collect_dataset(self.environment, settings.collect_steps, settings.seed, **noise).save(path)
            self.processes.wait()
            self.data = Dataset.load(path)

    def _batch(self) -> dict[str, torch.Tensor]:
        batch = self.experiment.batch(self.data, self.settings.batch_size, self.generator)
        return {name: value.to(self.device, non_blocking=True) for name, value in batch.items()}

    def _scale_learning_rates(self, factor: float) -> None:
        """Times their initial ones, which a checkpoint holds with the optimizers' states."""
        for optimizer in self.agent.optimizers.values():
            for parameters in optimizer.param_groups:
                parameters["lr"] = factor * parameters.setdefault("initial_lr", parameters["lr"])

    def _collect(self, count: int, random: bool = False) -> None:
        """``count`` episodes of each process, no two of the same number."""

        def policy(observation: dict[str, numpy.ndarray]) -> numpy.ndarray:
            act = self.experiment
            return act.random(self.generator) if random else act.explore(observation, self.generator)

        before, begun = self.buffer.num_added, self.episodes
        with progress(count, "episode", "collecting", shown=self.processes.is_first, leave=False, delay=2) as bar:
            for number in range(self.processes.rank, count * self.processes.count, self.processes.count):
                seed = episode_seed(self.settings.seed, COLLECTION, begun + number)
                extra = self.experiment.begin_episode(begun + number, self.generator)
                for step in episode(self.environment, policy, seed):
                    self.buffer.add(*step[:6], **extra)
                self.episodes += self.processes.count
                bar.update()
        added = self.processes.total(self.buffer.num_added - before)
        self.environment_steps += added * self.settings.action_repeat

    def _evaluate(self) -> None:
        found = {"step": self.step, "environment_steps": self.environment_steps}
        is_first = self.processes.is_first
        self.curve.append(found | (self._measure(self.experiment.policies(), "evaluating") if is_first else {}))

    def _measure(self, policies: dict[str, Policy], description: str) -> dict[str, float]:
        """The experiment's measures, with a bar that counts the agent's steps."""
        with progress(None, "step", description, leave=False, delay=2) as bar, self.environment.calling(bar.update):
            return self.experiment.measure(policies)

    def _save(self) -> None:
        own = {"random": checkpoint.random_state(self.generator, self.device)}
        if self.buffer is not None:
            own["buffer"] = self.buffer.state_dict()
        of_processes = self.processes.gathered(own)
        if not self.processes.is_first:
            return
        state = {
            "method": self.experiment.method,
            "settings": self._comparable(),
            "agent": self.agent.state_dict(),
            "of_processes": of_processes,
            "curve": self.curve,
            "random": self.random,
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
        method = state.get("method", "an earlier version")
        if method != self.experiment.method:
            raise ValueError(
                f"{path} belongs to a run of {method}, not of {self.experiment.method}. Give another --out, or "
                "--restart to start over."
            )
        here, there = self._comparable(), state.get("settings", {})
        names = [name for name in sorted({*here, *there}) if name.split(".")[0] not in self.settings.free_to_change]
        different = [name for name in names if here.get(name) != there.get(name)]
        if different:
            listed = "; ".join(f"{name} was {there.get(name)!r}, is {here.get(name)!r}" for name in different)
            raise ValueError(
                f"{path} belongs to a run with other settings: {listed}. Give another --out, or --restart to begin "
                "anew."
            )
        self.agent.load_state_dict(state["agent"])
        own = state["of_processes"][self.processes.rank]
        checkpoint.set_random_state(own["random"], self.generator, self.device)
        if self.buffer is not None:
            self.buffer.load_state_dict(own["buffer"])
        self.curve, self.random = state["curve"], state["random"]
        for name in ("step", "episodes", "environment_steps", "seconds"):
            setattr(self, name, state[name])
        if self.processes.is_first:
            print(f"Resuming from step {self.step} of {path}.", flush=True)

    def _comparable(self) -> dict[str, Any]:
        """What a run that resumes from the checkpoint is compared by."""
        return {**self.settings.plain(), "processes": self.processes.count}


def measures(entry: dict[str, float]) -> dict[str, float]:
    """The measures of an entry of the curve, without its time."""
    return {name: value for name, value in entry.items() if name not in ("step", "environment_steps")}


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
