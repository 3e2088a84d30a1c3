"""OGBench's environments and files: goals, tasks, evaluation by its protocol, and eval.csv."""

from __future__ import annotations

import csv
import json

import numpy
import pytest

gymnasium = pytest.importorskip("gymnasium", reason="environments need qmkernels[agents]")
image = pytest.importorskip("matplotlib.image", reason="figures need qmkernels[agents]")
pytest.importorskip("tyro", reason="training needs qmkernels[agents]")

from qmkernels.train import run  # noqa: E402
from qmkernels.train.environments import make_environment  # noqa: E402
from qmkernels.train.ogbench_tasks import eval_csv, is_of_ogbench, task_names  # noqa: E402

TASKS = ("task1", "task2")


class Corridor(gymnasium.Env):
    """Like OGBench's mazes, but one row of five cells: numbered tasks, and draws from numpy's global generator."""

    observation_space = gymnasium.spaces.Box(-10, 10, (1,))
    action_space = gymnasium.spaces.Box(-1, 1, (1,))
    maze_map = numpy.array([[1, 0, 0, 0, 0, 0, 1]])
    task_infos = [
        {"task_name": name, "init_ij": (0, begin), "goal_ij": (0, goal)}
        for name, begin, goal in zip(TASKS, (1, 5), (5, 1), strict=True)
    ]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        options = options or {"task_id": numpy.random.randint(1, 3)}
        task = options.get("task_info") or self.task_infos[options["task_id"] - 1]
        self.place = task["init_ij"][1] + numpy.random.uniform(-0.2, 0.2)
        self.goal = float(task["goal_ij"][1])
        return self._observed(), {"goal": numpy.array([self.goal], numpy.float32)}

    def step(self, action):
        self.place = float(numpy.clip(self.place + action[0], 1, 5))
        return self._observed(), 0.0, False, False, {"success": abs(self.place - self.goal) < 0.5}

    def _observed(self):
        return numpy.array([self.place], numpy.float32)


class Pictures(Corridor):
    observation_space = gymnasium.spaces.Box(0, 1, (2, 2))


gymnasium.register("qmkernels_tests/Corridor-v0", Corridor, max_episode_steps=12)
gymnasium.register("qmkernels_tests/Pictures-v0", Pictures, max_episode_steps=12)


def plain(observation: dict[str, numpy.ndarray]) -> list[float]:
    return [float(observation[name][0]) for name in ("observation", "achieved_goal", "desired_goal")]


@pytest.fixture
def corridor():
    return make_environment("qmkernels_tests/Corridor-v0", action_repeat=2)


def test_the_goal_is_what_a_reset_gives_and_what_is_achieved_is_the_observation(corridor):
    assert is_of_ogbench(corridor) and task_names(corridor) == list(TASKS)
    observation, _ = corridor.reset(seed=0, options={"task_id": 2})
    start, achieved, goal = plain(observation)
    assert start == achieved == pytest.approx(5, abs=0.2) and goal == 1
    observation, *_ = corridor.step(numpy.array([-1.0]))
    assert plain(observation) == [pytest.approx(start - 2), pytest.approx(start - 2), 1]
    assert observation in corridor.observation_space


def test_a_reset_without_a_task_is_between_any_two_free_cells(corridor):
    observations = [plain(corridor.reset(seed=seed)[0]) for seed in range(200)]
    pairs = {(round(start), round(goal)) for start, _, goal in observations}
    assert pairs == {(a, b) for a in range(1, 6) for b in range(1, 6) if a != b}


def test_an_episode_depends_only_on_its_seed(corridor):
    first = plain(corridor.reset(seed=3)[0])
    numpy.random.seed(99)
    assert plain(corridor.reset(seed=3)[0]) == first != plain(corridor.reset(seed=4)[0])


def test_environments_without_tasks_have_none():
    environment = make_environment("qmkernels/HyperMaze-v0")
    assert not is_of_ogbench(environment) and task_names(environment) == []


def test_images_are_refused():
    with pytest.raises(ValueError, match="qmkernels_tests/Pictures-v0: observations must be vectors"):
        make_environment("qmkernels_tests/Pictures-v0")


def test_eval_csv_has_ogbenchs_columns():
    curve = [{"step": 0, "environment_steps": 9, "success": 0.5, "success_task1": 1.0, "success_task2": 0.0}]
    lines = eval_csv(curve, TASKS).splitlines()
    assert lines[0] == "evaluation/task1_success,evaluation/task2_success,evaluation/overall_success,step"
    assert lines[1:] == ["1.0,0.0,0.5,0"]


def test_a_run_reads_its_file_is_evaluated_by_tasks_and_writes_eval_csv(tmp_path, capsys):
    generator = numpy.random.default_rng(0)
    observations = generator.uniform(1, 5, (60, 1)).astype(numpy.float32)
    terminals = numpy.arange(60) % 20 == 19
    actions = generator.uniform(-1, 1, (60, 1)).astype(numpy.float32)
    numpy.savez(tmp_path / "corridor.npz", observations=observations, actions=actions, terminals=terminals)
    command = ["gcbc", "--env", "qmkernels_tests/Corridor-v0", "--dataset", str(tmp_path / "corridor.npz")]
    options = ["--steps", "2", "--batch-size", "8", "--evaluation-interval", "2", "--evaluation-episodes", "2"]
    assert run([*command, *options, "--out", str(tmp_path / "out")]) == 0, capsys.readouterr().err
    final = json.loads((tmp_path / "out" / "metrics.json").read_text())["final"]
    assert final["success"] == pytest.approx((final["success_task1"] + final["success_task2"]) / 2)
    with (tmp_path / "out" / "eval.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["0", "2"]
    assert float(rows[-1]["evaluation/overall_success"]) == final["success"]


def test_ogbenchs_own_teleport_maze_has_five_tasks_and_goals():
    pytest.importorskip("ogbench", reason="OGBench's environments need qmkernels[robotics]")
    maze = make_environment("pointmaze-teleport-v0")
    assert task_names(maze) == [f"task{number}" for number in range(1, 6)]

    def walk(seed):
        observation, _ = maze.reset(seed=seed, options={"task_id": 3})
        actions = numpy.random.default_rng(seed).uniform(-1, 1, (50, 2))
        return numpy.stack([observation["desired_goal"], *(maze.step(action)[0]["observation"] for action in actions)])

    first = walk(1)
    assert numpy.array_equal(walk(1), first) and not numpy.array_equal(walk(2), first)
    assert numpy.abs(first[0] - maze.unwrapped.task_infos[2]["goal_xy"]).max() < 2


def test_a_run_draws_distances_in_ogbenchs_own_maze(tmp_path, capsys):
    pytest.importorskip("ogbench", reason="OGBench's environments need qmkernels[robotics]")
    options = ["--steps", "1", "--batch-size", "8", "--evaluation-interval", "1", "--evaluation-episodes", "1"]
    data = ["--collect-steps", "200", "--action-repeat", "50", "--out", str(tmp_path)]
    assert run(["tmd", "--env", "pointmaze-teleport-v0", *options, *data]) == 0, capsys.readouterr().err
    height, width, _ = image.imread(tmp_path / "success.png").shape
    assert width > 2 * height  # two panels side by side
