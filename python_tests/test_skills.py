"""`qmkernels train metra`: skills are stored with their episodes, and their coverage and successes are counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from qmkernels.train import NEEDED

for needed in NEEDED:
    pytest.importorskip(needed, reason="training needs qmkernels[agents]")

import gymnasium  # noqa: E402
import numpy  # noqa: E402
import training_runs  # noqa: E402
from training_runs import checkpoint_of  # noqa: E402

from qmkernels.train.environments import Step, make_environment  # noqa: E402
from qmkernels.train.experiments.metra import METRAExperiment, METRASettings  # noqa: E402
from qmkernels.train.skills import num_bins, path_of  # noqa: E402


class Plane(gymnasium.Env):
    """A point on a square of side 20 with an unused velocity; with goals, it succeeds within 1 of them."""

    def __init__(self, goals: bool = False, behind: bool = False) -> None:
        spaces = gymnasium.spaces
        self.goals, self.behind = goals, behind
        self.action_space = spaces.Box(-1.0, 1.0, (2,))
        seen, place = spaces.Box(-10.0, 10.0, (4,)), spaces.Box(-10.0, 10.0, (2,))
        self.observation_space = seen
        if goals:
            self.observation_space = spaces.Dict({"observation": seen, "achieved_goal": place, "desired_goal": place})

    def observed(self):
        parts = [self.move, self.here] if self.behind else [self.here, self.move]
        seen = numpy.concatenate(parts).astype(numpy.float32)
        return (
            {"observation": seen, "achieved_goal": self.here.astype(numpy.float32), "desired_goal": self.goal.copy()}
            if self.goals
            else seen
        )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.here, self.move = self.np_random.uniform(-0.5, 0.5, 2), numpy.zeros(2)
        self.goal = self.np_random.uniform(-7, 7, 2).astype(numpy.float32)
        return self.observed(), {}

    def step(self, action):
        self.move = numpy.asarray(action)
        self.here = (self.here + self.move).clip(-10, 10)
        return self.observed(), 0.0, False, False, {"success": bool(numpy.linalg.norm(self.here - self.goal) < 1)}


ENVIRONMENTS = {
    "SkillPlane-v0": {},
    "SkillGoals-v0": {"goals": True},
    "SkillHidden-v0": {"goals": True, "behind": True},
}
for name, arguments in ENVIRONMENTS.items():
    if name not in gymnasium.registry:
        gymnasium.register(name, Plane, max_episode_steps=12, kwargs=arguments)


def train(out: Path, *arguments: str, env: str = "SkillPlane-v0") -> int:
    small = ["--episodes-per-cycle", "2", "--evaluation-episodes", "4", "--buffer-capacity", "80"]
    return training_runs.train(out, *small, *arguments, env=env, method="metra")


def experiment_in(env: str, **changes) -> METRAExperiment:
    settings = METRASettings(env, evaluation_episodes=12, **changes)
    environment = make_environment(env, **METRAExperiment.environment_arguments(settings))
    torch.manual_seed(0)
    return METRAExperiment(settings, environment, torch.device("cpu"))


class Straight:
    """An agent whose skills are directions on the plane, and which moves straight along them."""

    def skill_of(self, direction):
        return functional.normalize(direction, dim=-1)

    def skill_towards(self, observation, goal):
        return self.skill_of((goal - observation)[..., :2])

    def act(self, observation, skill, deterministic):
        return skill


@pytest.mark.parametrize(
    ("env", "more"),
    [
        ("SkillPlane-v0", []),
        ("SkillGoals-v0", ["--head", "mrn"]),
        ("SkillGoals-v0", ["--agent.discrete-skills", "--agent.skill-size", "5", "--head", "iqe"]),
        ("SkillPlane-v0", ["--position-size", "1", "--agent.skill-size", "1", "--agent.norm", "mean"]),
    ],
    ids=["no goals", "goals", "discrete", "line"],
)
def test_a_run_measures_coverage_beside_that_of_random_actions(tmp_path, env, more):
    assert train(tmp_path, "--steps", "20", *more, env=env) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert [entry["step"] for entry in metrics["curve"]] == [0, 10, 20] and metrics["environment_steps"] == 7 * 12
    for entry in metrics["curve"]:
        assert 1 <= entry["coverage"] <= 4 * 13 and entry["coverage_random"] == metrics["random"]["coverage"] > 1
        assert ("zero_shot_success" in entry) == ("zero_shot_success_random" in entry) == ("Goals" in env)
    assert (tmp_path / "success.png").read_bytes().startswith(b"\x89PNG")
    lines = [line.rsplit(",", 1)[0] for line in (tmp_path / "metrics.csv").read_text().splitlines()]
    assert len(lines) == len(set(lines)) and sum(line.endswith(",0,coverage_random") for line in lines) == 1


def test_every_transition_has_its_episodes_skill(tmp_path):
    assert train(tmp_path, "--steps", "20") == 0
    skills = checkpoint_of(tmp_path)["of_processes"][0]["buffer"]["arrays"]["skill"]
    # Seven episodes of 12 steps in a buffer of 80: the last one has overwritten the beginning of the first.
    episodes = skills[12:72].reshape(5, 12, 2)
    assert torch.equal(episodes, episodes[:, :1].expand_as(episodes)) and len(episodes[:, 0].unique(dim=0)) == 5
    torch.testing.assert_close(skills.norm(dim=-1), torch.ones(80))


def test_bins_of_side_one_are_counted_once_however_often_they_are_visited():
    line, back = numpy.array([[0.1, 0.1], [0.9, 0.2], [1.5, 0.2]]), numpy.array([[1.1, 0.9], [0.5, -0.1]])
    assert num_bins([line]) == 2 and num_bins([line, back]) == 3 and num_bins([line[:, :1], back[:, :1]]) == 2


@pytest.mark.parametrize("size", [1, 2])
def test_a_path_is_of_positions_from_the_first_to_the_last(size):
    seen = [{"observation": numpy.array([step, -step, 9.0])} for step in range(3)]
    steps = [
        Step(before, numpy.zeros(2), 0.0, two, False, False, False) for before, two in zip(seen, seen[1:], strict=False)
    ]
    assert path_of(steps, size).tolist() == [[step, -step][:size] for step in range(3)]
    for observation in seen:
        observation["achieved_goal"] = observation["observation"] + 1
    assert path_of(steps, size).tolist() == [[step + 1, 1 - step][:size] for step in range(3)]


def test_moving_straight_covers_more_than_chance_and_reaches_every_goal():
    experiment = experiment_in("SkillGoals-v0")
    experiment.chance = experiment.measure({"": experiment.at_random()})
    experiment.agent = Straight()
    measures = experiment.measure(experiment.policies())
    assert measures["zero_shot_success"] == 1 > measures["zero_shot_success_random"]
    assert measures["coverage"] > 1.5 * measures["coverage_random"]
    assert measures == experiment.measure(experiment.policies())
    paths = torch.tensor(numpy.stack(experiment.paths(experiment.policies()[""])))
    along = functional.cosine_similarity(paths[:, 8] - paths[:, 0], experiment.evaluation_skills)
    torch.testing.assert_close(along, torch.ones(12), check_dtype=False)


def test_goals_that_observations_do_not_begin_with_are_not_tried():
    experiment = experiment_in("SkillHidden-v0")
    experiment.chance = experiment.measure({"": experiment.at_random()})
    assert experiment.measure(experiment.policies()).keys() == {"coverage", "coverage_random"}


@pytest.mark.parametrize("agent", [dict(skill_size=1), dict(skill_size=5), dict(skill_size=5, discrete_skills=True)])
def test_each_skill_has_its_colour(agent):
    from qmkernels.agents import METRAConfig

    experiment = experiment_in("SkillPlane-v0", agent=METRAConfig.small(**agent))
    skills = experiment.evaluation_skills.numpy().round(4)
    pairs = {(tuple(skill), tuple(colour)) for skill, colour in zip(skills, experiment.colours(), strict=True)}
    assert len(pairs) == len({skill for skill, _ in pairs}) == len({colour for _, colour in pairs}) > 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--agent.skill-size", "0"], "METRAConfig: skill_size must be positive, got 0"),
        (["--offline"], "METRA learns from episodes of its own skills: leave out --offline"),
        (["--episode-steps", "-1"], "episode_steps must be at least 0, got -1"),
        (["--position-size", "3"], "position-size"),
    ],
)
def test_errors_are_reported_before_training(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.setenv("COLUMNS", "200")
    assert train(tmp_path, *arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "metrics.json").exists()


def test_episodes_end_after_the_steps_that_are_asked_for(tmp_path):
    assert train(tmp_path, "--steps", "1", "--episode-steps", "5") == 0
    assert json.loads((tmp_path / "metrics.json").read_text())["environment_steps"] == 15


@pytest.mark.parametrize(("env", "size", "observed"), [("HalfCheetah-v5", 1, 18), ("Ant-v5", 2, 29)])
def test_gymnasiums_robots_see_where_they_are_and_go_on_when_they_have_fallen(env, size, observed):
    pytest.importorskip("mujoco", reason="robots need qmkernels[robotics]")
    settings = METRAExperiment.defaults(env)
    environment = make_environment(env, **METRAExperiment.environment_arguments(settings))
    observation, _ = environment.reset(seed=0)
    generator, ended, count = numpy.random.default_rng(0), False, 0
    while not ended:
        action = generator.uniform(environment.action_space.low, environment.action_space.high)
        observation, _, terminated, ended, _ = environment.step(action)
        assert not terminated
        count += 1
    assert count == 200 and settings.position_size == size and observation["observation"].shape == (observed,)
    assert observation["observation"][:size].tolist() == environment.unwrapped.data.qpos[:size].tolist()
