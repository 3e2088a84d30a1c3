"""The CRL agent: it learns the odds of goals and acts by them, kernels against plain PyTorch, and states that go on."""

from __future__ import annotations

import io
import math

import pytest
import torch
from processes import run_two
from torch.nn import functional

import qmkernels as qm
from qmkernels.agents import CRL, CRLConfig
from qmkernels.agents.crl import InnerProduct

SMALL = dict(critic_sizes=(33,), actor_sizes=(33,), latent_size=32)
KINDS = {"observation goals": {}, "set goals": {"goal_size": 2}}
CRITICS = {"product": {}, "mrn": {"critic": "mrn", "form": "softmax"}, "iqe": {"critic": "iqe", "form": "softmax"}}


def agent_of(config: CRLConfig | None = None, seed: int = 0, **kind) -> CRL:
    torch.manual_seed(seed)
    return CRL(4, 3, config or CRLConfig.small(**SMALL), **kind)


def batch_for(agent: CRL, size: int = 33, seed: int = 1) -> dict[str, torch.Tensor]:
    """Steps along a line, an action moves every coordinate by its mean; goals are where eight of them lead."""
    generator = torch.Generator().manual_seed(seed)
    state = torch.randn(size, 4, generator=generator)
    action = torch.rand(size, 3, generator=generator) * 2 - 1
    move = action.mean(dim=-1, keepdim=True)
    goal = (state + 8 * move)[:, : agent.goal_size or 4]
    return {"observation": state, "action": action, "next_observation": state + move, "goal": goal, "actor_goal": goal}


def parameters_of(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([each.detach().reshape(-1).clone() for each in module.parameters()])


NUM_STATES, DISCOUNT = 7, 0.7


def ring_batch(size: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Who goes one way round a ring goes on so; the goal lies k steps past the next state, k with weight discount^k."""
    state = torch.randint(NUM_STATES, (size,), generator=generator)
    action = torch.rand(size, 1, generator=generator) * 2 - 1
    steps = 1 + torch.multinomial(DISCOUNT ** torch.arange(NUM_STATES), size, replacement=True, generator=generator)
    way = action.sign().long().squeeze(-1)
    others = torch.randint(NUM_STATES, (size,), generator=generator)
    places = {"observation": state, "next_observation": state + way, "goal": state + way * steps, "actor_goal": others}
    rows = {name: functional.one_hot(place % NUM_STATES, NUM_STATES).float() for name, place in places.items()}
    return {**rows, "action": action}


def test_on_a_ring_logits_are_the_log_odds_of_goals_and_larger_for_the_shorter_way():
    """The optimum of the loss: log of p(g after s, a) / p(g), less the log of the number of other goals."""
    torch.manual_seed(0)
    size, generator = 128, torch.Generator().manual_seed(0)
    sizes = dict(critic_sizes=(64,), actor_sizes=(64,), latent_size=16, behaviour_cloning_weight=0.0)
    agent = CRL(NUM_STATES, 1, CRLConfig(**sizes))
    for rate in (5e-3, 5e-4):  # the smaller one for what is left of the noise
        agent.optimizers["critic"].param_groups[0]["lr"] = rate
        for _ in range(400):
            agent.update(ring_batch(size, generator))
    states = torch.eye(NUM_STATES)
    steps = (torch.arange(NUM_STATES) - torch.arange(NUM_STATES)[:, None]) % NUM_STATES  # to the right, 0 of none
    logits = []
    for action, forward in ((0.75, steps), (-0.75, -steps % NUM_STATES)):
        with torch.no_grad():
            phi = agent.critic.phi(states, torch.full((NUM_STATES, 1), action))
            found = agent.logit(phi[:, :, None], agent.critic.psi(states)[:, None])
        share = DISCOUNT ** ((forward - 1) % NUM_STATES) * (1 - DISCOUNT) / (1 - DISCOUNT**NUM_STATES)
        expected = (share * NUM_STATES).log() - math.log(size - 1)
        assert (found - expected).abs().max() < 1.5 and (found - expected).abs().mean() < 0.3
        logits.append(found)
    is_clear = torch.isin(steps, torch.tensor([1, 2, NUM_STATES - 2, NUM_STATES - 1]))  # others are as far either way
    assert torch.equal((logits[0] > logits[1])[is_clear], (steps <= NUM_STATES // 2)[is_clear])


@pytest.mark.parametrize("critic", CRITICS.values(), ids=CRITICS)
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_updates_tell_states_apart_by_their_goals(kind, critic):
    agent = agent_of(CRLConfig.small(**SMALL, **critic, critic_learning_rate=5e-3), **kind)
    history = [agent.update(batch_for(agent, 63, seed)) for seed in range(120)]
    begun, ended = (
        {name: torch.stack([each[name] for each in part]).mean() for name in history[0]}
        for part in (history[:5], history[-10:])
    )
    assert ended["critic/loss"] < 0.8 * begun["critic/loss"]
    assert ended["critic/accuracy"] > 2 * begun["critic/accuracy"]
    assert ended["critic/positive"] - ended["critic/negative"] > 1 + begun["critic/positive"] - begun["critic/negative"]


@pytest.mark.parametrize("critic", CRITICS.values(), ids=CRITICS)
def test_the_actor_moves_towards_goals_by_the_critics_logit_and_leaves_the_critic_as_it_is(critic):
    agent = agent_of(CRLConfig.small(**SMALL, **critic, behaviour_cloning_weight=0.0, actor_learning_rate=1e-2))
    batch = batch_for(agent)
    for _ in range(30):
        agent.update(batch)
    frozen = parameters_of(agent.critic)
    agent.optimizers["critic"].step = lambda *_: None
    history = [agent.update(batch)["actor/logit"] for _ in range(60)]
    assert torch.stack(history[-10:]).mean() > torch.stack(history[:10]).mean()
    assert torch.equal(parameters_of(agent.critic), frozen)
    assert all(each.requires_grad for each in agent.critic.parameters())


def test_behaviour_cloning_brings_actions_nearer_to_the_datas():
    agent = agent_of(CRLConfig.small(**SMALL, behaviour_cloning_weight=100.0, actor_learning_rate=1e-2))
    batch = batch_for(agent)
    batch["action"] = torch.full((33, 3), 0.5)
    for _ in range(150):
        agent.update(batch)
    found = agent.act(batch["observation"], batch["actor_goal"], deterministic=True)
    torch.testing.assert_close(found, batch["action"], rtol=0, atol=0.2)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_an_update_changes_every_network_and_returns_scalars_without_a_graph(kind):
    agent = agent_of(**kind)
    before = {name: value.clone() for name, value in agent.networks.state_dict().items()}
    for _ in range(2):  # the first gradient passes the actor's last layer of zeros and goes no further
        metrics = agent.update(batch_for(agent))
    assert {"critic/loss", "critic/accuracy", "actor/logit", "actor/cloning"} <= metrics.keys()
    assert all(value.shape == () and not value.requires_grad and value.isfinite() for value in metrics.values())
    fixed = ("_scale.", "actor.centre", "actor.half_range")
    for name, value in agent.networks.state_dict().items():
        assert torch.equal(value, before[name]) == any(part in name for part in fixed), name


def test_the_critics_loss_is_binary_cross_entropy_of_inner_products_over_the_root_of_their_size():
    agent = agent_of()
    batch = batch_for(agent)
    phi, psi = agent.critic.phi(batch["observation"], batch["action"]), agent.critic.psi(batch["goal"])
    logits = torch.einsum("eik,ejk->eij", phi, psi) / math.sqrt(32)
    expected = functional.binary_cross_entropy_with_logits(logits, torch.eye(33).expand(2, -1, -1))
    loss, metrics = agent.critic_loss(batch)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(metrics["critic/positive"], logits.diagonal(dim1=1, dim2=2).mean())
    torch.testing.assert_close(agent.logit(phi, psi), logits.diagonal(dim1=1, dim2=2).amin(dim=0))


def test_the_inner_product_of_pairs_is_that_of_rows():
    x, y = torch.randn(2, 7, 33), torch.randn(2, 5, 33)
    pairs = InnerProduct().pairwise(x, y)
    torch.testing.assert_close(pairs, InnerProduct()(x[:, :, None], y[:, None]))
    assert pairs.shape == (2, 7, 5) and pairs.min() < 0 < pairs.max()


@pytest.mark.parametrize("leading", [(), (1,), (7,), (2, 3)])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_shapes_of_acting_and_distances(kind, leading):
    agent = agent_of(**kind)
    observation = torch.randn(*leading, 4)
    for goal in (torch.randn(*leading, agent.goal_size or 4), torch.randn(agent.goal_size or 4)):
        for deterministic in (False, True):
            assert agent.act(observation, goal, deterministic).shape == (*leading, 3)
        assert agent.distance(observation, goal).shape == leading


def test_actions_stay_in_their_range_and_the_deterministic_one_is_the_same_each_time():
    low, high = torch.tensor([-1.0, 0.0, 5.0]), torch.tensor([1.0, 0.5, 9.0])
    agent = agent_of(action_low=low, action_high=high)
    observation, goal = torch.randn(500, 4), torch.randn(500, 4)
    action = agent.act(observation, goal)
    assert ((action >= low) & (action <= high)).all() and action.std(dim=0).min() > 0.1
    assert torch.equal(agent.act(observation, goal, True), agent.act(observation, goal, True))


@pytest.mark.parametrize("critic", CRITICS.values(), ids=CRITICS)
def test_kernels_train_along_the_curve_of_plain_pytorch(critic):
    """Within 1% of the reference backend's loss over fifty updates, in which it falls by more than a twentieth."""
    curves = {}
    for backend in ("reference", "auto"):
        with qm.use_backend(backend):
            agent = agent_of(CRLConfig.small(**SMALL, **critic, critic_learning_rate=5e-3))
            updates = [agent.update(batch_for(agent, 33, seed)) for seed in range(50)]
        curves[backend] = {name: torch.stack([each[name] for each in updates]) for name in updates[0]}
    for name in ("critic/loss", "actor/logit"):
        torch.testing.assert_close(curves["auto"][name], curves["reference"][name], rtol=0.01, atol=0.01)
    loss = curves["reference"]["critic/loss"]
    assert loss[-10:].mean() < 0.95 * loss[:5].mean()


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_saved_state_goes_on_bit_for_bit(kind):
    agent = agent_of(**kind)
    batch = batch_for(agent)
    agent.standardise(batch["observation"], batch["goal"])
    for _ in range(3):
        agent.update(batch)
    file = io.BytesIO()
    torch.save(agent.state_dict(), file)
    file.seek(0)
    other = agent_of(seed=5, **kind)
    other.load_state_dict(torch.load(file, weights_only=True))
    for each in (agent, other):
        for _ in range(3):
            each.update(batch)
    assert torch.equal(parameters_of(agent.networks), parameters_of(other.networks))
    assert torch.equal(agent.goal_scale.mean, other.goal_scale.mean) and agent.goal_scale.mean.abs().min() > 0


def test_the_state_of_another_agent_is_refused_by_name():
    state = agent_of().state_dict()
    with pytest.raises(ValueError, match=r"CRL.load_state_dict: .*another agent: .*latent_size is 32 there, 64 here"):
        agent_of(CRLConfig.small(**{**SMALL, "latent_size": 64})).load_state_dict(state)
    with pytest.raises(ValueError, match="head is 'InnerProduct"):
        agent_of(head=lambda size: qm.nn.IQE(size, 8)).load_state_dict(state)


def test_a_head_of_ones_own_takes_the_place_of_the_inner_product_and_trains():
    agent = agent_of(CRLConfig.small(**SMALL, form="softmax"), head=lambda size: qm.nn.IQE(size, 8))
    before = parameters_of(agent.critic.head)
    assert all(value.isfinite() for value in agent.update(batch_for(agent)).values())
    assert not torch.equal(parameters_of(agent.critic.head), before)
    assert (agent.distance(torch.randn(9, 4), torch.randn(9, 4)) >= 0).all()


@pytest.mark.parametrize("critic", CRITICS.values(), ids=CRITICS)
def test_half_precision_keeps_float32_parameters_and_is_near_full_precision(critic):
    agent, full = (agent_of(CRLConfig.small(**SMALL, **critic)) for _ in range(2))
    batch = batch_for(agent)
    with torch.autocast("cpu", torch.bfloat16):
        metrics = agent.update(batch)
    assert all(value.isfinite() and value.dtype == torch.float32 for value in metrics.values())
    assert all(parameter.dtype == torch.float32 for parameter in agent.networks.parameters())
    assert metrics["critic/loss"].item() == pytest.approx(full.update(batch)["critic/loss"].item(), rel=0.02)


def _train_in_group(rank: int) -> torch.Tensor:
    agent = agent_of(seed=rank, group=torch.distributed.group.WORLD)
    for step in range(3):
        agent.update(batch_for(agent, seed=10 * step + rank))
    return parameters_of(agent.networks)


def test_processes_of_a_group_have_the_same_networks_after_different_batches(tmp_path):
    found = run_two(_train_in_group, tmp_path)
    assert torch.equal(*found) and found[0].isfinite().all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"actor_goal": None}, "CRL.update: the batch lacks actor_goal"),
        ({"goal": torch.zeros(33, 2)}, r"goal must be \(33, 4\), got \(33, 2\)"),
        ({"observation": torch.zeros(33, 5)}, r"observation must be \(33, 4\), got \(33, 5\)"),
        ({"action": torch.zeros(32, 3)}, r"action must be \(33, 3\), got \(32, 3\)"),
    ],
)
def test_a_wrong_batch_is_named(change, said):
    agent = agent_of()
    batch = {name: value for name, value in {**batch_for(agent), **change}.items() if value is not None}
    with pytest.raises(ValueError, match=said):
        agent.update(batch)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_critics": 0}, "num_critics must be positive, got 0"),
        ({"behaviour_cloning_weight": -0.1}, "behaviour_cloning_weight must be at least 0, got -0.1"),
        ({"critic_sizes": (0,)}, r"critic_sizes must be positive, got \(0,\)"),
        ({"form": "hinge"}, "form must be one of sigmoid, softmax, got 'hinge'"),
        ({"critic": "pqe"}, "critic must be one of product, mrn, iqe, got 'pqe'"),
        ({"actor_learning_rate": float("nan")}, "actor_learning_rate must be positive, got nan"),
    ],
)
def test_wrong_settings_are_named(changes, said):
    with pytest.raises(ValueError, match=f"CRLConfig: {said}"):
        CRLConfig.published(**changes)
