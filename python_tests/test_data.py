"""Goals follow their distributions and never cross episodes; datasets and buffers return what was stored."""

from __future__ import annotations

from types import SimpleNamespace

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qmkernels.data import Dataset, GoalSampler, ReplayBuffer, check_actions, check_goal_environment, n_step_returns


def box(low, high, size):
    low, high = numpy.full(size, low), numpy.full(size, high)
    return SimpleNamespace(low=low, high=high, shape=low.shape)


def vector(size):
    return SimpleNamespace(shape=(size,))


def goal_environment(capacity_spaces=None, action_space=None):
    spaces = {"observation": vector(3), "achieved_goal": vector(2), "desired_goal": vector(2)}
    return SimpleNamespace(
        observation_space=SimpleNamespace(spaces=spaces if capacity_spaces is None else capacity_spaces),
        action_space=action_space or box(-1.0, 1.0, 1),
        spec=SimpleNamespace(id="Toy-v0"),
    )


def plain_environment():
    """An environment without goals."""
    return goal_environment({"observation": vector(3)})


def observed(time: float) -> dict[str, numpy.ndarray]:
    return {"observation": numpy.full(3, time), "achieved_goal": numpy.full(2, time), "desired_goal": numpy.zeros(2)}


def fill(buffer: ReplayBuffer, lengths: list[int], ended_by=("terminated",)) -> None:
    """Episode e's states are 1000 e, 1000 e + 1, ..."""
    for number, length in enumerate(lengths):
        for time in range(length):
            at, last = 1000 * number + time, time == length - 1
            how = ended_by[number % len(ended_by)]
            buffer.add(
                observed(at), numpy.zeros(1), -1.0, observed(at + 1), last and how == "terminated",
                last and how == "truncated",
            )  # fmt: skip


def episodes_of(lengths, **others):
    """A dataset whose states are 1000 * episode + time."""
    state = numpy.concatenate([1000 * e + numpy.arange(n) for e, n in enumerate(lengths)])[:, None].astype(float)
    ends = numpy.concatenate([numpy.arange(n) == n - 1 for n in lengths])
    return Dataset(state, numpy.zeros_like(state), state + 1, **{"truncated": ends, **others})


def geometric_shares(discount: float, count: int) -> numpy.ndarray:
    weights = discount ** numpy.arange(count)
    return weights / weights.sum()


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        (GoalSampler(geometric=1.0, discount=0.7), geometric_shares(0.7, 6)),
        (GoalSampler(geometric=1.0, discount=1.0), numpy.full(6, 1 / 6)),
        (GoalSampler(geometric=1.0, discount=0.0), numpy.eye(6)[0]),
        (GoalSampler(geometric=0.0, uniform=1.0), numpy.full(6, 1 / 6)),
        (GoalSampler(geometric=0.0, current=1.0), numpy.eye(6)[0]),
        (
            GoalSampler(current=0.25, geometric=0.25, uniform=0.5, discount=0.7),
            0.25 * numpy.eye(6)[0] + 0.25 * geometric_shares(0.7, 6) + numpy.full(6, 0.5 / 6),
        ),
    ],
)
def test_goals_follow_their_distribution(sampler, expected):
    size = 60_000
    indices, ends = numpy.full(size, 4), numpy.full(size, 9)
    drawn = sampler.sample(indices, ends, (0, 20), numpy.random.default_rng(0))
    shares = numpy.bincount(drawn - 4, minlength=6) / size
    # Tolerance: five standard deviations of a share.
    assert (numpy.abs(shares - expected) <= 5 * numpy.sqrt(expected * (1 - expected) / size) + 1e-12).all()


def test_random_goals_are_uniform_over_everything():
    sampler = GoalSampler(geometric=0.0, random=1.0)
    drawn = sampler.sample(numpy.zeros(50_000, int), numpy.zeros(50_000, int), (5, 15), numpy.random.default_rng(0))
    shares = numpy.bincount(drawn, minlength=15) / 50_000
    assert (shares[:5] == 0).all() and numpy.abs(shares[5:] - 0.1).max() < 0.01


def test_the_same_generator_gives_the_same_goals():
    sampler = GoalSampler(geometric=0.5, random=0.5)
    first, second = (
        sampler.sample(numpy.arange(99), numpy.full(99, 99), (0, 100), numpy.random.default_rng(3)) for _ in range(2)
    )
    numpy.testing.assert_array_equal(first, second)


def test_goals_of_several_names_are_each_drawn_by_their_own_sampler():
    goals = {"goal": GoalSampler(geometric=0.0, current=1.0), "actor_goal": GoalSampler(geometric=0.0, random=1.0)}
    buffer = ReplayBuffer(goal_environment(), 20)
    fill(buffer, [7, 9, 8])
    for data in (episodes_of([50, 50]), buffer):
        batch = data.sample(500, goals, numpy.random.default_rng(0))
        following = batch.get("achieved_goal", batch["next_observation"])
        assert torch.equal(batch["goal"], following)
        assert (batch["actor_goal"] // 1000 != following // 1000).any()
        assert numpy.isin(batch["actor_goal"].numpy(), following.numpy()).all()


def test_one_sampler_draws_what_it_draws_under_the_name_goal():
    data = episodes_of([50, 50])
    alone, named = (
        data.sample(99, goals, numpy.random.default_rng(5)) for goals in (GoalSampler(), {"goal": GoalSampler()})
    )
    assert alone.keys() == named.keys() and all(torch.equal(alone[name], named[name]) for name in alone)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=8),
    discount=st.floats(0, 1),
    geometric=st.floats(0, 1),
    seed=st.integers(0, 2**32 - 1),
)
def test_future_goals_of_a_dataset_never_cross_an_episode(lengths, discount, geometric, seed):
    data = episodes_of(lengths)
    goals = GoalSampler(geometric=geometric, uniform=1 - geometric, discount=discount)
    batch = data.sample(64, goals, numpy.random.default_rng(seed))
    episode, time = (batch["observation"] // 1000).squeeze(1), (batch["observation"] % 1000).squeeze(1)
    goal_time = batch["goal"].squeeze(1) - 1000 * episode
    assert (goal_time >= time + 1).all()
    assert (goal_time <= torch.tensor(lengths)[episode.long()]).all()


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=8),
    capacity=st.integers(1, 40),
    unfinished=st.integers(0, 5),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_buffer_holds_the_newest_and_its_future_goals_never_cross_an_episode(lengths, capacity, unfinished, seed):
    buffer = ReplayBuffer(goal_environment(), capacity)
    fill(buffer, lengths, ended_by=("terminated", "truncated"))
    for time in range(unfinished):
        at = 1000 * len(lengths) + time
        buffer.add(observed(at), numpy.zeros(1), -1.0, observed(at + 1), False, False)
    lengths = [*lengths, unfinished]
    assert len(buffer) == min(sum(lengths), capacity)
    newest = numpy.concatenate([1000 * e + numpy.arange(n) for e, n in enumerate(lengths)])[-capacity:]
    batch = buffer.sample(64, GoalSampler(geometric=0.5, uniform=0.5), numpy.random.default_rng(seed))
    state, goal = batch["observation"][:, 0].numpy(), batch["goal"][:, 0].numpy()
    assert numpy.isin(state, newest).all()
    numpy.testing.assert_array_equal(batch["achieved_goal"][:, 0].numpy(), state + 1)
    assert (goal >= state + 1).all()
    assert (goal - 1000 * (state // 1000) <= numpy.array(lengths)[(state // 1000).astype(int)]).all()


def test_a_buffer_keeps_terminated_and_truncated_apart():
    buffer = ReplayBuffer(goal_environment(), 100)
    fill(buffer, [3, 4, 5], ended_by=("terminated", "truncated"))
    assert buffer.arrays["terminated"][:12].nonzero()[0].tolist() == [2, 11]
    assert buffer.arrays["truncated"][:12].nonzero()[0].tolist() == [6]


def test_a_buffer_resumes_from_its_saved_state():
    saved, other = (ReplayBuffer(goal_environment(), 20) for _ in range(2))
    fill(saved, [7, 9, 8])
    saved.add(observed(5000), numpy.zeros(1), 0.0, observed(5001), False, False)
    other.load_state_dict(saved.state_dict())
    for buffer in (saved, other):
        buffer.add(observed(5001), numpy.ones(1), 0.0, observed(5002), True, False)
    batches = [buffer.sample(50, GoalSampler(), numpy.random.default_rng(0)) for buffer in (saved, other)]
    for name, value in batches[0].items():
        assert torch.equal(value, batches[1][name]), name
    with pytest.raises(ValueError, match="capacity must be 30, as here, got 20"):
        ReplayBuffer(goal_environment(), 30).load_state_dict(saved.state_dict())


@pytest.mark.parametrize("has_goals", [False, True])
def test_a_buffer_stores_goals_where_the_environment_has_them(has_goals):
    buffer = ReplayBuffer(goal_environment() if has_goals else plain_environment(), 20)
    assert ("achieved_goal" in buffer.arrays) == ("desired_goal" in buffer.arrays) == has_goals
    fill(buffer, [4, 3])
    batch = buffer.sample(20, GoalSampler(geometric=0.0, current=1.0), numpy.random.default_rng(0))
    assert torch.equal(batch["goal"], batch["achieved_goal" if has_goals else "next_observation"])
    assert buffer.sample(5, {}, numpy.random.default_rng(0)).keys() == buffer.arrays.keys()


def test_extra_arrays_stay_with_their_transitions_and_are_saved():
    def made():
        return ReplayBuffer(plain_environment(), 7, extra={"skill": (2,), "scale": ()})

    saved, other = made(), made()
    for time in range(10):
        skill = [time, -time]
        saved.add(
            observed(time), numpy.zeros(1), 0.0, observed(time + 1), False, time % 5 == 4, skill=skill, scale=time
        )
    other.load_state_dict(saved.state_dict())
    for buffer in (saved, other):
        batch = buffer.sample(50, {}, numpy.random.default_rng(0))
        state = batch["observation"][:, 0]
        assert batch["skill"].dtype == torch.float32 and state.min() == 3
        assert torch.equal(batch["skill"], torch.stack([state, -state], dim=1)) and torch.equal(batch["scale"], state)
        windows = buffer.sample_windows(50, 2, numpy.random.default_rng(0))
        assert torch.equal(windows["skill"][..., 0], windows["scale"])


@pytest.mark.parametrize("ended_by", ["terminated", "truncated"])
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    capacity=st.integers(1, 40),
    unfinished=st.integers(0, 5),
    horizon=st.integers(1, 12),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_windows_are_of_one_episode_in_its_order_and_masked_after_its_end(
    ended_by, lengths, capacity, unfinished, horizon, seed
):
    buffer = ReplayBuffer(plain_environment(), capacity)
    fill(buffer, lengths, ended_by=(ended_by,))
    for time in range(unfinished):
        at = 1000 * len(lengths) + time
        buffer.add(observed(at), numpy.zeros(1), -1.0, observed(at + 1), False, False)
    data = episodes_of(lengths, **{ended_by: numpy.concatenate([numpy.arange(n) == n - 1 for n in lengths])})
    for stored, ends in ((buffer, numpy.array([*lengths, unfinished])), (data, numpy.array(lengths))):
        longest = min(ends.max(), capacity if stored is buffer else ends.max())
        assert stored.longest_episode == longest
        if horizon > longest:
            continue
        windows = stored.sample_windows(64, horizon, numpy.random.default_rng(seed))
        state = windows["observation"][..., 0].numpy()
        begin, episode = state[:, :1] % 1000, state[:, :1] // 1000
        end = ends[episode.astype(int)]
        expected = numpy.minimum(begin + numpy.arange(horizon + 1), end) + 1000 * episode
        numpy.testing.assert_array_equal(state, expected)
        steps = begin + numpy.arange(horizon)
        numpy.testing.assert_array_equal(windows["mask"].numpy(), steps < end)
        is_over = numpy.isin(episode, numpy.arange(len(lengths)))  # the unfinished one has no end
        numpy.testing.assert_array_equal(windows[ended_by].numpy(), is_over & (steps >= end - 1))
        assert windows["action"].shape == (64, horizon, 1) and windows["reward"].shape == (64, horizon)


def test_windows_begin_at_every_transition_alike():
    data = episodes_of([3, 7])
    windows = data.sample_windows(20_000, 5, numpy.random.default_rng(0))
    shares = numpy.unique(windows["observation"][:, 0, 0], return_counts=True)[1] / 20_000
    numpy.testing.assert_allclose(shares, numpy.full(10, 0.1), atol=0.01)


@pytest.mark.parametrize("ended_by", ["terminated", "truncated"])
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_n_step_returns_add_rewards_to_the_end_and_bootstrap_after_it(steps, ended_by):
    length, discount = 6, 0.5
    rewards, ends = 1.0 + numpy.arange(length), numpy.arange(length) == length - 1
    data = episodes_of([length], reward=rewards, **{ended_by: ends})
    windows = data.sample_windows(200, 4, numpy.random.default_rng(0))
    returns = n_step_returns(windows, steps, discount)
    for row in range(200):
        begin = int(windows["observation"][row, 0, 0])
        count = min(steps, length - begin)
        value = sum(discount**k * rewards[begin + k] for k in range(count))
        is_last = ended_by == "terminated" and begin + count == length
        assert returns.value[row].item() == pytest.approx(value)
        assert returns.bootstrap_index[row] == count
        assert returns.bootstrap_discount[row].item() == (0.0 if is_last else discount**count)


def test_goals_of_a_dataset_are_what_was_achieved_where_it_says_so():
    achieved = numpy.arange(5)[:, None] * 10.0
    data = episodes_of([2, 3], achieved_goal=achieved)
    batch = data.sample(40, GoalSampler(geometric=0.0, current=1.0), numpy.random.default_rng(0))
    assert torch.equal(batch["goal"], batch["achieved_goal"])
    assert set(batch["goal"].reshape(-1).tolist()) <= set(achieved.reshape(-1).tolist())


def test_a_dataset_saved_is_the_dataset_loaded(tmp_path):
    data = episodes_of([3, 4])
    data.save(tmp_path / "data.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["data.npz"]
    loaded = Dataset.load(tmp_path / "data.npz")
    assert len(loaded) == 7 and loaded.num_episodes == 2
    for name, array in data.arrays.items():
        numpy.testing.assert_array_equal(array, loaded.arrays[name])


def test_the_last_transition_ends_an_episode_that_was_still_running():
    state = numpy.arange(5.0)[:, None]
    data = Dataset(state, state, state + 1, terminated=[False, True, False, False, False])
    assert data.episode_end.tolist() == [1, 1, 4, 4, 4]


def test_a_batch_says_which_goals_are_the_rows_own_next_states():
    data, buffer = episodes_of([2, 9, 4, 7]), ReplayBuffer(goal_environment(), 13)
    fill(buffer, [2, 9, 4, 7])
    goals = {"goal": GoalSampler(geometric=0.0, uniform=1.0), "actor_goal": GoalSampler(geometric=0.0, current=1.0)}
    for stored, achieved in ((data, "next_observation"), (buffer, "achieved_goal")):
        batch = stored.sample(200, goals, numpy.random.default_rng(0))
        is_same = (batch["goal"] == batch[achieved]).all(dim=1)
        assert torch.equal(batch["goal_is_next"], is_same) and 0 < is_same.sum() < 200
        assert batch["actor_goal_is_next"].all()


STATE = numpy.zeros((4, 1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Dataset(STATE, STATE, STATE), "give terminated, truncated or both"),
        (lambda: Dataset(STATE, STATE, STATE, terminated=[False] * 4), "none of the 4 transitions is terminated"),
        (lambda: Dataset(STATE, STATE[:3], STATE, terminated=[True] * 4), "action must have 4 rows"),
        (lambda: Dataset(STATE, STATE, STATE + numpy.nan, terminated=[True] * 4), "next_observation must be finite"),
        (lambda: Dataset(STATE[:0], STATE[:0], STATE[:0], terminated=[]), "observation must have at least one row"),
        (
            lambda: Dataset(STATE, STATE + 3, STATE, terminated=[True] * 4, action_space=box(-1, 1, 1)),
            "4 of 4 actions are outside",
        ),
        (lambda: check_goal_environment(plain_environment()), "Toy-v0 has no goals"),
        (lambda: ReplayBuffer(goal_environment({"state": vector(3)}), 5), "Toy-v0: .* must be a Dict with observation"),
        (lambda: ReplayBuffer(goal_environment({"observation": box(0, 1, (3, 3))}), 5), "observation must be a vector"),
        (lambda: ReplayBuffer(plain_environment(), 5, extra={"reward": (2,)}), "must not reuse .* got reward"),
        (
            lambda: ReplayBuffer(plain_environment(), 5, extra={"skill": (2,)}).add(
                observed(0), numpy.zeros(1), 0.0, observed(1), False, False
            ),
            r"extra arrays must be of shapes {'skill': \(2,\)}, got {}",
        ),
        (
            lambda: ReplayBuffer(plain_environment(), 5, extra={"skill": (2,)}).add(
                observed(0), numpy.zeros(1), 0.0, observed(1), False, False, skill=1.0
            ),
            r"got {'skill': \(\)}",
        ),
        (
            lambda: episodes_of([3, 7, 2]).sample_windows(1, 8, numpy.random.default_rng(0)),
            "from 1 to 7 transitions, the longest episode's, got 8",
        ),
        (lambda: episodes_of([3, 7, 2]).sample_windows(1, 0, numpy.random.default_rng(0)), "from 1 to 7 .* got 0"),
        (
            lambda: n_step_returns(episodes_of([3]).sample_windows(1, 2, numpy.random.default_rng(0)), 3, 0.9),
            "steps must be from 1 to the window's 2, got 3",
        ),
        (lambda: ReplayBuffer(goal_environment(), 0), "capacity must be at least 1"),
        (
            lambda: ReplayBuffer(goal_environment(), 5).sample(1, GoalSampler(), numpy.random.default_rng(0)),
            "the buffer is empty",
        ),
        (
            lambda: ReplayBuffer(goal_environment(), 5).add(
                observed(0), numpy.array([1.5]), 0.0, observed(1), False, False
            ),
            "1 of 1 actions are outside",
        ),
        (lambda: GoalSampler(geometric=0.5), "add up to 1"),
        (lambda: GoalSampler(geometric=1.5, random=-0.5), "at least 0"),
        (lambda: GoalSampler(discount=1.5), "discount must be from 0 to 1"),
    ],
)
def test_errors_name_what_is_wrong(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_actions_are_checked_against_their_space():
    discrete = SimpleNamespace(n=3, start=1)
    check_actions(numpy.array([1, 3]), discrete)
    check_actions(numpy.array([[-1.0], [1.0]]), box(-1, 1, 1))
    for actions, space in [
        (numpy.array([0]), discrete),
        (numpy.array([1.0]), discrete),
        (numpy.array([[numpy.nan]]), box(-1, 1, 1)),
        (numpy.zeros((2, 2)), box(-1, 1, 1)),
    ]:
        with pytest.raises(ValueError, match="actions"):
            check_actions(actions, space)


def test_every_third_step_of_episodes_is_an_agent_that_holds_its_actions():
    """Means and sums of three steps, from each state that begins three; the terminal one ends only its own phase."""
    lengths, steps = [7, 2, 3], 3
    number = numpy.arange(12.0)
    terminated = numpy.isin(number, [6, 8])
    data = Dataset(
        number[:, None], number[:, None] ** 2, number[:, None] + 1, reward=number, terminated=terminated,
        truncated=number == 11, achieved_goal=number[:, None] + 0.5,
    )  # fmt: skip
    assert data.longest_episode == max(lengths)
    held = data.every(steps)
    first = numpy.array([0, 3, 1, 4, 2, 9])  # of windows within an episode, by where in the episode they begin
    squares = [numpy.mean([(n + k) ** 2 for k in range(steps)]) for n in first]
    assert held.arrays["observation"][:, 0].tolist() == first.tolist()
    numpy.testing.assert_allclose(held.arrays["action"][:, 0], squares, rtol=1e-6)
    assert held.arrays["next_observation"][:, 0].tolist() == (first + 3).tolist()
    assert held.arrays["achieved_goal"][:, 0].tolist() == (first + 2.5).tolist()
    assert held.arrays["reward"].tolist() == (3 * first + 3).tolist()
    assert held.arrays["terminated"].tolist() == [False, False, False, True, False, False]
    assert held.arrays["truncated"].tolist() == [False, True, False, False, True, True]
    assert held.episode_end.tolist() == [1, 1, 3, 3, 4, 5]
    same = data.every(1)
    assert all((same.arrays[name] == array).all() for name, array in data.arrays.items())
    for wrong in (0, 8):
        with pytest.raises(ValueError, match=f"from 1 to 7, the longest episode's, got {wrong}"):
            data.every(wrong)
    with pytest.raises(ValueError, match="discrete actions have no mean"):
        Dataset(number[:, None], number.astype(int), number[:, None], truncated=number == 11).every(2)
