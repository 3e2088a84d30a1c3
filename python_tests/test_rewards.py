"""Environments without goals: one form of observations, and returns as the measure; `qmkernels train iqrl`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
import pytest
import torch

from qmkernels.train import NEEDED

for needed in NEEDED:
    pytest.importorskip(needed, reason="training needs qmkernels[agents]")

import gymnasium  # noqa: E402
import training_runs  # noqa: E402
from training_runs import checkpoint_of  # noqa: E402

from qmkernels.agents import IQRLConfig  # noqa: E402
from qmkernels.data import Dataset  # noqa: E402
from qmkernels.train.environments import episode, make_environment  # noqa: E402
from qmkernels.train.experiments.iqrl import IQRLExperiment, IQRLSettings  # noqa: E402
from qmkernels.train.rewards import RewardExperiment  # noqa: E402
from qmkernels.train.settings import Settings  # noqa: E402


class Rewarded(gymnasium.Env):
    """A point on a square, without goals or reports of success; the reward is the move of the first coordinate."""

    def __init__(self) -> None:
        self.observation_space = self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,))

    def observation(self):
        return self.here.astype(numpy.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.here = self.np_random.uniform(-1, 1, 2)
        return self.observation(), {}

    def step(self, action):
        self.here = (self.here + 0.3 * action).clip(-1, 1)
        return self.observation(), float(action[0]), False, False, {}


class Parts(Rewarded):
    """Observations in parts, like dm_control's."""

    def __init__(self) -> None:
        super().__init__()
        part = gymnasium.spaces.Box(-1.0, 1.0, (1,))
        self.observation_space = gymnasium.spaces.Dict({"second": part, "first": part})

    def observation(self):
        first, second = super().observation()
        return {"second": numpy.array([second]), "first": numpy.array([first])}


class Pixels(Rewarded):
    def __init__(self) -> None:
        super().__init__()
        self.observation_space = gymnasium.spaces.Box(0, 255, (8, 8), numpy.uint8)


for kind in (Rewarded, Parts, Pixels):
    if f"{kind.__name__}-v0" not in gymnasium.registry:
        gymnasium.register(f"{kind.__name__}-v0", kind, max_episode_steps=12)


def test_observations_without_goals_become_a_dictionary():
    plain, parts = make_environment("Rewarded-v0"), make_environment("Parts-v0", action_repeat=2)
    for environment in (plain, parts):
        (name, space), *_ = environment.observation_space.spaces.items()
        observation, _ = environment.reset(seed=0)
        assert name == "observation" and space.shape == (2,) and observation.keys() == {"observation"}
        assert numpy.array_equal(observation["observation"], environment.unwrapped.here.astype(numpy.float32))
        assert environment.step(numpy.zeros(2, numpy.float32))[0].keys() == {"observation"}
    with pytest.raises(ValueError, match="--env Pixels-v0: observations must be a vector, .*, or images"):
        make_environment("Pixels-v0")


def test_dm_control_tasks_are_environments_whose_episodes_end():
    for needed in ("shimmy", "dm_control"):
        pytest.importorskip(needed, reason="tasks of dm_control need qmkernels[dm_control]")
    environment = make_environment("dm_control/cartpole-balance-v0", action_repeat=50)
    steps = episode(environment, lambda _: numpy.zeros(1), 0)
    assert len(steps) == 20 and steps[-1].truncated and not steps[-1].terminated
    assert steps[0].observation["observation"].shape == (5,)


def test_returns_are_sums_of_rewards_over_the_same_episodes():
    class Plain(RewardExperiment):
        def make_agent(self, group):
            return None

    environment = make_environment("Rewarded-v0", action_repeat=3)
    experiment = Plain(Settings("Rewarded-v0", evaluation_episodes=3), environment, torch.device("cpu"))
    right = numpy.array([0.5, 0.0], numpy.float32)
    seen = []

    def policy(observation):
        seen.append(observation["observation"])
        return right

    for _ in range(2):
        assert experiment.measure({"": policy, "_still": lambda _: 0 * right}) == {"return": 6, "return_still": 0}
    assert len(seen) == 2 * 3 * 4 and numpy.array_equal(seen[:12], seen[12:])
    assert experiment.condition({}) is None
    state = numpy.zeros((4, 2))
    with pytest.raises(ValueError, match="has no rewards: they are 0 everywhere"):
        experiment.check_data(Dataset(state, state, state, terminated=[True] * 4))


def train(out: Path, *arguments: str, env: str = "NoGoals-v0") -> int:
    return training_runs.train(out, *arguments, env=env, method="iqrl")


def test_a_run_measures_returns_beside_those_of_random_actions_and_what_its_latents_are_worth(tmp_path):
    assert train(tmp_path, "--steps", "20") == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["random"].keys() == {"return"}
    before, *after = (entry.keys() for entry in metrics["curve"])
    assert before == {"step", "environment_steps", "return"}
    assert all(entry == before | {"latent_rank", "codes_in_use"} for entry in after)
    assert checkpoint_of(tmp_path)["agent"]["num_updates"] == 20


def test_episodes_are_numbered_and_what_a_method_draws_for_each_is_stored_with_its_transitions(tmp_path, monkeypatch):
    numbers = []

    def begin(self, number, generator):
        numbers.append(number)
        return {"drawn": generator.normal(size=3), "number": number}

    monkeypatch.setattr(IQRLExperiment, "extra", lambda self: {"drawn": (3,), "number": ()})
    monkeypatch.setattr(IQRLExperiment, "begin_episode", begin)
    assert train(tmp_path, "--steps", "15") == 0
    assert numbers == [0, 1, 2, 3, 4]  # three at first, and one after the 7th and the 14th update
    stored = checkpoint_of(tmp_path)["of_processes"][0]["buffer"]["arrays"]
    assert torch.equal(stored["number"][:30], torch.arange(5.0).repeat_interleave(6))
    drawn = stored["drawn"][:30].reshape(5, 6, 3)
    assert torch.equal(drawn, drawn[:, :1].expand(-1, 6, -1)) and len(drawn[:, 0].unique(dim=0)) == 5


def test_noise_fades_over_the_episodes_after_those_of_random_actions():
    agent = IQRLConfig.small(encoder_sizes=(16,), dynamics_sizes=(16,), critic_sizes=(16,), actor_sizes=(16,))
    settings = IQRLSettings("Rewarded-v0", prefill_episodes=3, exploration_episodes=10, agent=agent)
    experiment = IQRLExperiment(settings, make_environment("Rewarded-v0"), torch.device("cpu"))
    noises = []
    for number in range(20):
        assert experiment.begin_episode(number, numpy.random.default_rng(0)) == {}
        noises.append(experiment.exploration)
    numpy.testing.assert_allclose(noises, [1.0] * 3 + numpy.linspace(1, 0.1, 10).tolist() + [0.1] * 7)
    seen, generator = {"observation": numpy.zeros(2, numpy.float32)}, numpy.random.default_rng(0)
    spread = numpy.std([experiment.explore(seen, generator) for _ in range(400)], axis=0)
    assert spread == pytest.approx([0.1, 0.1], rel=0.15)  # a tenth of half the range of 2


@pytest.mark.parametrize(
    ("env", "arguments", "message"),
    [
        ("Walk-v0", [], "Walk-v0 has goals, which IQRL would not see"),
        ("NoGoals-v0", ["--agent.horizon", "7"], "from 1 to 6 transitions, the longest episode's, got 7"),
        ("NoGoals-v0", ["--agent.n-steps", "9"], "from 1 to 6 transitions, the longest episode's, got 9"),
        ("NoGoals-v0", ["--agent.num-sampled", "6"], "num_sampled must be at most num_critics"),
        ("NoGoals-v0", ["--last-exploration", "-1"], "last_exploration must be at least 0"),
        ("NoGoals-v0", ["--exploration-episodes", "0"], "exploration_episodes must be at least 1"),
    ],
)
def test_errors_are_reported_before_training(tmp_path, monkeypatch, capsys, env, arguments, message):
    monkeypatch.setenv("COLUMNS", "200")
    assert train(tmp_path, "--steps", "20", *arguments, env=env) == 2
    printed = capsys.readouterr().err
    assert message in printed and "Traceback" not in printed and not (tmp_path / "checkpoint.pt").exists()
