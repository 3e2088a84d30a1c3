"""Images as observations: environments return them, buffers store them and METRA learns from them."""

from __future__ import annotations

import re
import tracemalloc

import pytest
import torch

pytest.importorskip("gymnasium", reason="environments need qmkernels[agents]")

import numpy  # noqa: E402
from training_runs import assert_same, checkpoint_of, killed_at, train  # noqa: E402

from qmkernels.agents import METRA, METRAConfig  # noqa: E402
from qmkernels.agents.networks import ImageEncoder  # noqa: E402
from qmkernels.data import ReplayBuffer  # noqa: E402
from qmkernels.train.environments import episode, make_environment  # noqa: E402

# Of the file pixel_plane.py beside this one.
ENV = "pixel_plane:PixelPlane-v0"


def steps_of(environment, lengths, seed: int = 0) -> list:
    """Steps of episodes of random actions, cut off after some steps."""
    generator, found = numpy.random.default_rng(seed), []
    for number, length in enumerate(lengths):
        steps = episode(environment, lambda _: generator.uniform(-1, 1, 2).astype(numpy.float32), number)[:length]
        found += [*steps[:-1], steps[-1]._replace(truncated=True)]
    return found


def test_observations_are_the_newest_images_channels_first_and_the_newest_state():
    environment = make_environment(ENV, frame_stack=3, pixels=8)
    plane, seen = environment.unwrapped, []
    observation, _ = environment.reset(seed=0)
    for _ in range(5):
        seen.append(plane.render().transpose(2, 0, 1))
        newest = [seen[max(len(seen) - 3 + number, 0)] for number in range(3)]
        assert numpy.array_equal(observation["observation"], numpy.concatenate(newest))
        assert environment.observation_space.contains(observation)
        assert numpy.array_equal(observation["state"], plane.here.astype(numpy.float32))
        observation, *_ = environment.step(numpy.array([0.9, -0.4], numpy.float32))


@pytest.mark.parametrize("frame_stack", [1, 3])
@pytest.mark.parametrize("capacity", [200, 23, 5])
def test_a_buffer_returns_the_stacks_of_its_transitions_though_it_stores_each_image_once(capacity, frame_stack):
    environment = make_environment(ENV, frame_stack=frame_stack, pixels=8)
    buffer, added = ReplayBuffer(environment, capacity, frame_stack=frame_stack), []
    for step in steps_of(environment, [1, 7, 12, 3, 1, 1, 9, 5]):
        buffer.add(*step[:6])
        added.append(step)
        kept, generator = added[len(added) - len(buffer) :], numpy.random.default_rng(len(added))
        batch = buffer.sample(16, {}, generator)
        numbers = [
            int((batch["action"][row].numpy() == [s.action for s in kept]).all(axis=1).argmax()) for row in range(16)
        ]
        for name in ("observation", "next_observation"):
            expected = numpy.stack([getattr(kept[number], name)["observation"] for number in numbers])
            assert batch[name].dtype == torch.uint8 and numpy.array_equal(batch[name].numpy(), expected)
    # Of its images an episode of one transition has two, and a stack reaches back.
    assert len(buffer) == len(added) if capacity == 200 else capacity - 5 - frame_stack <= len(buffer) < capacity
    windows = buffer.sample_windows(4, 3, numpy.random.default_rng(0))
    assert windows["observation"].shape == (4, 4, 3 * frame_stack, 8, 8)


def test_a_loaded_buffer_continues_like_the_saved_one():
    environment = make_environment(ENV, frame_stack=2, pixels=8)
    one, other = (ReplayBuffer(environment, 20, frame_stack=2) for _ in range(2))
    steps = steps_of(environment, [12, 9, 12])
    for number, step in enumerate(steps):
        if number == 25:  # in the middle of an episode
            other.load_state_dict(one.state_dict())
        one.add(*step[:6])
        if number >= 25:
            other.add(*step[:6])
    assert_same(one.state_dict(), other.state_dict())
    assert_same(*(each.sample(32, {}, numpy.random.default_rng(0)) for each in (one, other)))


def test_each_image_is_stored_once():
    environment = make_environment(ENV, frame_stack=3, pixels=32)
    steps, count = steps_of(environment, [12] * 4), 500
    tracemalloc.start()
    try:
        buffer = ReplayBuffer(environment, count, frame_stack=3)
        for number in range(600):
            buffer.add(*steps[number % len(steps)][:6])
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    images = count * 3 * 32 * 32
    assert images <= taken < images + 200 * count


def test_a_killed_run_of_metra_on_images_resumes_bit_for_bit(tmp_path):
    arguments = ["--steps", "20", "--frame-stack", "2", "--agent.encoder-sizes", "4", "8", "--buffer-capacity", "50"]
    assert train(tmp_path / "whole", *arguments, env=ENV, method="metra") == 0
    with killed_at(15, "metra"):
        train(tmp_path / "killed", *arguments, env=ENV, method="metra")
    assert train(tmp_path / "killed", *arguments, env=ENV, method="metra") == 0
    whole = checkpoint_of(tmp_path / "whole")
    assert_same(whole, checkpoint_of(tmp_path / "killed"))
    assert whole["curve"][-1]["coverage"] >= 1 and whole["curve"][-1]["coverage_random"] > 1


def test_metra_trains_its_encoders_and_acts_on_images_of_any_leading_sizes():
    torch.manual_seed(0)
    agent = METRA((6, 24, 24), 2, METRAConfig.small(encoder_sizes=(4, 8), phi_sizes=(16,), skill_size=3))
    before = {name: value.clone() for name, value in agent.networks.named_parameters()}
    images = torch.randint(256, (2, 16, 6, 24, 24), dtype=torch.uint8)
    skill = agent.skill_of(torch.randn(16, 3))
    batch = dict(observation=images[0], next_observation=images[1], action=torch.rand(16, 2) * 2 - 1, skill=skill)
    for _ in range(2):  # at first the actor's output is 0, whatever its encoder gives
        agent.update({**batch, "terminated": torch.zeros(16, dtype=torch.bool)})
    encoders = [name for name in before if ".encoder." in name]
    assert {name.split(".encoder")[0] for name in encoders} == {"representation", "critic", "target_critic", "actor"}
    assert all(
        not torch.equal(value, before[name]) for name, value in agent.networks.named_parameters() if name in encoders
    )
    assert agent.act(images, skill).shape == (2, 16, 2) and agent.act(images[0, 0], skill).shape == (16, 2)
    assert agent.skill_towards(images[0, :1], images[1]).shape == (16, 3)


def test_the_published_encoder_makes_1536_features_of_64_pixels():
    encoder = ImageEncoder((9, 64, 64), METRAConfig.published().encoder_sizes)
    images = torch.randint(256, (2, 3, 9, 64, 64), dtype=torch.uint8)
    assert encoder.output_size == 1536 and encoder(images).shape == (2, 3, 1536)
    torch.testing.assert_close(encoder(images.float()), encoder(images))


@pytest.mark.parametrize(
    ("method", "env", "more", "said"),
    [
        ("metra", "pixel_plane:PixelsAlone-v0", [], "observations are images alone, which do not tell where the agent"),
        ("metra", "NoGoals-v0", ["--frame-stack", "3"], "--frame-stack 3: observations of NoGoals-v0 are vectors"),
        (
            "metra",
            ENV,
            ["--agent.encoder-sizes", "4", "4", "4", "4"],
            "24 x 24 pixels are too small for 4 convolutions",
        ),
        ("iqrl", ENV, [], r"IQRL: observations must be vectors, got images of \(3, 24, 24\)"),
        ("gcbc", ENV, [], "has no goals"),
    ],
)
def test_errors_about_images_are_reported_before_training(tmp_path, capsys, method, env, more, said):
    assert train(tmp_path, *more, env=env, method=method) == 2
    assert re.search(said, capsys.readouterr().err)
