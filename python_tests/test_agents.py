"""Claims about every agent: generic tests over the rows of agent_cases.py."""

from __future__ import annotations

import dataclasses
import io
import typing
from typing import Any

import pytest
import torch
from agent_cases import ACTION_SIZE, CASES, OBSERVATION_SIZE, Case, every, parameters_of
from processes import run_group

import qmkernels as qm
from qmkernels.train.experiments import METHODS


def updated(agent: Any, batches: list[dict[str, torch.Tensor]], seed: int = 7) -> dict[str, torch.Tensor]:
    """Returns the metrics of an update per batch, (updates,) each."""
    torch.manual_seed(seed)
    history = [agent.update(batch) for batch in batches]
    return {name: torch.stack([metrics[name] for metrics in history]) for name in history[0]}


def test_every_method_and_every_agent_has_its_row():
    assert {case.method for case in CASES} == set(METHODS)
    classes = [getattr(qm.agents, name) for name in qm.agents.__all__]
    assert {case.agent for case in CASES} == {kind for kind in classes if hasattr(kind, "update")} - {qm.agents.Agent}
    assert len({case.name for case in CASES}) == len(CASES)


@every()
def test_an_update_changes_every_network_and_returns_finite_scalars_without_a_graph(case):
    agent = case.make()
    before = {name: value.clone() for name, value in agent.networks.state_dict().items()}
    for seed in range(2):  # the first gradient stops at a last layer of zeros
        metrics = agent.update(case.rows(agent, seed=seed))
    assert {case.improves[0], *case.compared} <= metrics.keys()
    assert all(value.shape == () and not value.requires_grad and value.isfinite() for value in metrics.values())
    for name, value in agent.networks.state_dict().items():
        assert torch.equal(value, before[name]) == any(part in name for part in case.fixed), name


@every()
def test_updates_improve_on_batches_that_were_not_seen_before(case):
    agent, (measure, change) = case.make(changes=case.learning), case.improves
    history = updated(agent, [case.rows(agent, seed=seed) for seed in range(100)])[measure]
    assert (history[-10:].mean() - history[:5].mean()) / change > 1


@every("kernels")
def test_kernels_train_along_the_curve_of_plain_pytorch(case):
    """Within 1% of the reference backend's measures over twenty updates."""
    curves = {}
    for backend in ("reference", "auto"):
        with qm.use_backend(backend):
            agent = case.make(changes=case.learning)
            curves[backend] = updated(agent, [case.rows(agent, seed=seed) for seed in range(20)])
    for name in (case.improves[0], *case.compared):
        torch.testing.assert_close(curves["auto"][name], curves["reference"][name], rtol=0.01, atol=0.01)


@pytest.mark.parametrize("leading", [(), (1,), (7,), (2, 3)])
@every()
def test_an_action_for_every_row_whose_condition_may_be_one_for_all(case, leading):
    agent, observation = case.make(), torch.randn(*leading, OBSERVATION_SIZE)
    is_discrete = "discrete" in case.made
    for condition in (case.condition(agent, *leading), case.condition(agent)):
        for deterministic in (False, True):
            action = agent.act(observation, condition, deterministic)
            assert action.shape == (leading if is_discrete else (*leading, ACTION_SIZE))
            assert not action.requires_grad
            assert ((action >= 0) & (action < ACTION_SIZE) if is_discrete else (action.abs() <= 1)).all()


@every("range")
def test_actions_reach_the_ends_of_their_range_and_go_no_further(case):
    low, high = torch.tensor([-1.0, 0.0, 5.0]), torch.tensor([1.0, 0.5, 9.0])
    agent = case.make(action_low=low, action_high=high)
    torch.manual_seed(1)
    for parameter in agent.actor.parameters():
        torch.nn.init.normal_(parameter)
    observation, condition = torch.randn(500, OBSERVATION_SIZE), case.condition(agent, 500)
    for deterministic in (False, True):
        action = agent.act(observation, condition, deterministic)
        assert ((action >= low) & (action <= high)).all()
        nearly = 0.05 * (high - low)
        assert (action.amin(dim=0) < low + nearly).all() and (action.amax(dim=0) > high - nearly).all()
    assert torch.equal(action, agent.act(observation, condition, True))


@pytest.mark.parametrize("leading", [(), (1,), (7,), (2, 3)])
@every("distance")
def test_a_distance_for_every_row_whose_condition_may_be_one_for_all(case, leading):
    agent, observation = case.make(), torch.randn(*leading, OBSERVATION_SIZE)
    distance = agent.distance(observation, case.condition(agent, *leading))
    assert distance.shape == agent.distance(observation, case.condition(agent)).shape == leading
    assert not distance.requires_grad


@every("pairs")
def test_pairwise_distances_are_those_of_the_pairs(case):
    agent = case.make()
    observations, goals = torch.randn(9, OBSERVATION_SIZE), case.condition(agent, 11)
    expected = agent.distance(observations[:, None], goals)
    torch.testing.assert_close(agent.pairwise_distance(observations, goals), expected)


@every("pursuit")
def test_the_actor_follows_the_critic_and_leaves_it_unchanged(case):
    agent, (measure, sign) = case.make(changes=case.pursuit), case.pursues
    batch = case.rows(agent)
    updated(agent, [batch] * 20)
    (critic,) = (name for name in agent.optimizers if name.startswith("critic"))
    frozen = parameters_of(agent.networks[critic])
    agent.optimizers[critic].step = lambda *_: None
    history = updated(agent, [batch] * 40)[measure]
    assert sign * (history[-10:].mean() - history[:10].mean()) > 0
    assert torch.equal(parameters_of(agent.networks[critic]), frozen)
    assert all(parameter.requires_grad for parameter in agent.networks[critic].parameters())


@every("cloning")
def test_cloning_brings_actions_to_the_datas(case):
    agent = case.make(changes=case.cloning)
    batch = {**case.batch(agent), "action": torch.full((33, ACTION_SIZE), 0.5)}
    updated(agent, [batch] * 100)
    action = agent.act(batch["observation"], batch["goal"], deterministic=True)
    assert (action - batch["action"]).abs().mean() < 0.1


@every("standardise")
def test_a_standardised_agent_does_with_shifted_and_scaled_rows_what_another_does_with_plain_ones(case):
    plain, standardised = case.make(), case.make()
    batch = case.batch(plain)
    other = dict(batch)
    for name in batch.keys() & {"observation", "next_observation", "goal", "actor_goal", "achieved_goal"}:
        places = torch.arange(float(batch[name].shape[-1]))
        other[name] = batch[name] * (0.01 + 5 * places) + 100 * places
    results = []
    for agent, rows in ((plain, batch), (standardised, other)):
        agent.standardise(*(rows[name] for name in case.standardised))
        action = agent.act(rows["observation"], rows[case.acts_for], True)
        results.append({**updated(agent, [rows] * 3), "action": action})
    assert plain.observation_scale.scale[0] > 50 * standardised.observation_scale.scale[0]
    torch.testing.assert_close(*results, rtol=5e-3, atol=5e-3)


@every()
def test_a_saved_state_resumes_bit_for_bit(case):
    agent, other = case.make(), case.make(seed=5)
    batches = [case.rows(agent, seed=seed) for seed in range(6)]
    if case.standardised:
        agent.standardise(*(case.batch(agent)[name] for name in case.standardised))
    updated(agent, batches[:3])
    file = io.BytesIO()
    torch.save(agent.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    curves = [updated(member, batches[3:]) for member in (agent, other)]
    assert all(torch.equal(curves[0][name], curves[1][name]) for name in curves[0])
    for name, value in agent.networks.state_dict().items():
        assert torch.equal(value, other.networks.state_dict()[name]), name


@every()
def test_the_state_of_another_agent_is_refused_by_what_differs(case):
    field = next(entry.name for entry in dataclasses.fields(case.config) if entry.type == "float")
    value = getattr(case.config, field)
    name = case.agent.__name__
    message = (
        f"{name}.load_state_dict: make the agent as the checkpoint's was: {field} must be {value}, got {value / 2}"
    )
    with pytest.raises(ValueError, match=message):
        case.make(changes={field: value / 2}).load_state_dict(case.make().state_dict())
    another = CASES[CASES.index(case) - 1]
    with pytest.raises(ValueError, match="make the agent as the checkpoint's was"):
        case.make().load_state_dict(another.make().state_dict())


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES if "head" in case.made])
def test_the_state_of_an_agent_with_another_head_is_refused(case):
    with pytest.raises(ValueError, match=r"as the checkpoint's was: head must be [^;]*, got [^;]*\.$"):
        case.make(head=lambda size: qm.nn.MRNFixed(size)).load_state_dict(case.make().state_dict())


@every()
def test_half_precision_keeps_float32_parameters_and_is_near_full_precision(case):
    agent, full = case.make(), case.make()
    batch = case.rows(agent)
    with torch.autocast("cpu", torch.bfloat16):
        metrics = updated(agent, [batch])
        if hasattr(agent, "distance"):
            assert agent.distance(batch["observation"], case.condition(agent)).dtype == torch.float32
    assert all(value.isfinite() and value.dtype == torch.float32 for value in metrics.values())
    assert all(parameter.dtype == torch.float32 for parameter in agent.networks.parameters())
    torch.testing.assert_close(
        metrics[case.improves[0]], updated(full, [batch])[case.improves[0]], rtol=0.02, atol=0.02
    )


def _train_all(rank: int) -> dict[str, torch.Tensor]:
    parameters = {}
    for case in CASES:
        agent = case.make(seed=rank, group=torch.distributed.group.WORLD)
        updated(agent, [case.rows(agent, seed=10 * step + rank) for step in range(3)])
        parameters[case.name] = parameters_of(agent.networks)
    return parameters


@pytest.fixture(scope="module")
def trained_in_a_group(tmp_path_factory):
    return run_group(_train_all, tmp_path_factory.mktemp("group"))


@every()
def test_processes_of_a_group_have_the_same_networks_after_different_batches(trained_in_a_group, case):
    first, second = (parameters[case.name] for parameters in trained_in_a_group)
    assert torch.equal(first, second) and first.isfinite().all()


NEEDED = [pytest.param(case, name, id=f"{case.name}, {name}") for case in CASES for name in case.needed]


@pytest.mark.parametrize(("case", "name"), NEEDED)
def test_what_a_batch_lacks_is_named(case, name):
    agent = case.make()
    batch = case.rows(agent)
    del batch[name]
    with pytest.raises(ValueError, match=f"{case.agent.__name__}.update: the batch lacks {name}"):
        agent.update(batch)


@pytest.mark.parametrize(("case", "name"), NEEDED)
def test_rows_of_a_wrong_shape_are_named(case, name):
    agent = case.make()
    batch = case.rows(agent)
    batch[name] = batch[name].unsqueeze(-1)
    with pytest.raises(ValueError, match=rf"{case.agent.__name__}.update: {name} must be \(33,.*\), got \(33,.* 1\)"):
        agent.update(batch)


@every()
def test_rows_that_are_fewer_than_the_others_are_named(case):
    agent = case.make()
    batch = case.rows(agent)
    batch["action"] = batch["action"][:-1]
    with pytest.raises(ValueError, match=r"action must be \(33,.*\), got \(32,"):
        agent.update(batch)


def wrong_values(case: Case) -> list[Any]:
    """Returns wrong values for each field of the configuration, except booleans and fields of any sign."""
    wrong = {int: (-1,), float: (-1.0, float("nan")), tuple: ((0,),), str: ("other",)}
    parameters = []
    for name, hint in typing.get_type_hints(type(case.config)).items():
        kind = type(getattr(case.config, name)) if typing.get_origin(hint) is None else typing.get_origin(hint)
        for value in wrong.get(str if kind is typing.Literal else kind, ()) if name not in case.any_sign else ():
            parameters.append(pytest.param(type(case.config), name, value, id=f"{case.method}, {name} {value}"))
    return parameters


@pytest.mark.parametrize(("config", "name", "value"), sum((wrong_values(case) for case in CASES if not case.form), []))
def test_a_wrong_setting_is_named(config, name, value):
    with pytest.raises(ValueError, match=f"{config.__name__}: {name} must be "):
        config(**{name: value})


@pytest.mark.parametrize("goal_size", [None, 2])
@pytest.mark.parametrize("method", ["gcbc", "qrl", "tmd"])
def test_fourier_features_tell_near_places_apart(method, goal_size):
    case = next(case for case in CASES if case.name == method)
    goal = torch.full((5, OBSERVATION_SIZE), 0.05)[:, :goal_size]

    def change(agent: Any) -> list[torch.Tensor]:
        """How much the actor's first layer, and the distance, change by a small step in every coordinate."""
        states = torch.zeros(5, OBSERVATION_SIZE), torch.full((5, OBSERVATION_SIZE), 0.05)
        here, there = ([agent.actor.network[:2](torch.cat([state, goal], dim=1))] for state in states)
        if hasattr(agent, "distance"):
            here, there = (
                [*seen, agent.distance(state, goal)] for seen, state in zip((here, there), states, strict=True)
            )
        return [(after - before).abs().mean() for before, after in zip(here, there, strict=True)]

    smooth, sharp = (
        change(case.make(changes={"fourier_features": 16, "fourier_frequencies": both}, goal_size=goal_size))
        for both in ((1e-3, 1e-3), (40.0, 40.0))
    )
    assert all(after > 3 * before for before, after in zip(smooth, sharp, strict=True))
    with pytest.raises(ValueError, match="fourier_inputs must be at most"):
        case.make(changes={"fourier_features": 16, "fourier_inputs": 5}, goal_size=goal_size)
