"""Third-party datasets: Minari's episodes and OGBench's files become transitions, each within its episode."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace

import numpy
import pytest

from qmkernels.data import Dataset


class Episodes(list):
    action_space = SimpleNamespace(low=numpy.full(1, -1.0), high=numpy.full(1, 1.0), shape=(1,))

    def iterate_episodes(self):
        return iter(self)


def minari_episode(length: int, begin: float, dictionary: bool):
    states = begin + numpy.arange(length + 1.0)[:, None]
    observations = {"observation": states, "achieved_goal": 2 * states} if dictionary else states
    never = numpy.zeros(length, bool)
    return SimpleNamespace(
        observations=observations, actions=numpy.zeros((length, 1)), rewards=numpy.zeros(length), terminations=never,
        truncations=never,
    )  # fmt: skip


@pytest.mark.parametrize("dictionary", [False, True])
def test_minari_episodes_become_transitions(dictionary):
    data = Dataset.from_minari(Episodes([minari_episode(3, 0, dictionary), minari_episode(2, 100, dictionary)]))
    assert data.arrays["observation"][:, 0].tolist() == [0, 1, 2, 100, 101]
    assert data.arrays["next_observation"][:, 0].tolist() == [1, 2, 3, 101, 102]
    assert data.episode_end.tolist() == [2, 2, 2, 4, 4]
    assert ("achieved_goal" in data.arrays) == dictionary
    if dictionary:
        assert data.arrays["achieved_goal"][:, 0].tolist() == [2, 4, 6, 202, 204]


@pytest.mark.skipif(importlib.util.find_spec("minari") is None, reason="needs minari")
def test_an_unknown_minari_dataset_is_not_downloaded(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    with pytest.raises(ValueError, match="No Minari dataset 'nosuch/thing-v0' on this machine"):
        Dataset.from_minari("nosuch/thing-v0")


def _ogbench_file(path, lengths=(4, 1, 3), **changes):
    """A file as OGBench writes it: successive episodes, the last state of each flagged, with an unused action."""
    size = sum(lengths)
    terminals = numpy.zeros(size, numpy.float32)
    terminals[numpy.cumsum(lengths) - 1] = 1
    arrays = {
        "observations": numpy.arange(2 * size, dtype=numpy.float32).reshape(size, 2),
        "actions": numpy.linspace(-1, 1, size, dtype=numpy.float32)[:, None],
        "terminals": terminals,
        "qpos": numpy.zeros((size, 5)),
    }
    arrays |= changes
    numpy.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return arrays


def test_an_ogbench_file_becomes_transitions_within_its_episodes(tmp_path):
    rewards = numpy.arange(8, dtype=numpy.float32)
    arrays = _ogbench_file(tmp_path / "maze.npz", rewards=rewards)
    data = Dataset.from_ogbench(tmp_path / "maze.npz")
    starts = [0, 1, 2, 5, 6]  # an episode of a single state has no transition
    assert numpy.array_equal(data.arrays["observation"], arrays["observations"][starts])
    assert numpy.array_equal(data.arrays["next_observation"], arrays["observations"][numpy.add(starts, 1)])
    assert numpy.array_equal(data.arrays["action"], arrays["actions"][starts])
    assert numpy.array_equal(data.arrays["reward"], rewards[starts])
    assert data.arrays["truncated"].tolist() == [False, False, True, False, True]
    assert not data.arrays["terminated"].any() and data.num_episodes == 2


def test_an_ogbench_file_that_stops_within_an_episode_is_read_to_its_end(tmp_path):
    terminals = numpy.array([0, 0, 1, 0, 0])
    _ogbench_file(tmp_path / "maze.npz", (3, 2), terminals=terminals)
    data = Dataset.from_ogbench(tmp_path / "maze.npz")
    assert len(data) == 3 and data.arrays["truncated"].tolist() == [False, True, True]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"actions": None}, "lacks actions; it has observations, terminals, qpos"),
        ({"terminals": numpy.ones(3)}, "differ in their numbers of rows: .*'terminals': 3"),
        ({"terminals": numpy.zeros(8)}, "flags no row as terminal"),
        ({"observations": numpy.zeros((8, 4, 4, 3), numpy.uint8)}, r"must be vectors, \(N, size\), got \(8, 4, 4, 3\)"),
        ({"observations": numpy.full((8, 2), numpy.nan)}, "observation must be finite"),
    ],
)
def test_errors_name_what_is_wrong_with_an_ogbench_file(tmp_path, changes, message):
    _ogbench_file(tmp_path / "maze.npz", **changes)
    with pytest.raises(ValueError, match=message):
        Dataset.from_ogbench(tmp_path / "maze.npz")


def test_a_file_that_is_not_ogbenchs_is_named(tmp_path):
    (tmp_path / "words.npz").write_text("not an archive")
    for name in ("words.npz", "nowhere.npz"):
        with pytest.raises(ValueError, match=f"there is no .npz file .*{name}"):
            Dataset.from_ogbench(tmp_path / name)
