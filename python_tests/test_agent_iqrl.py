"""The iQRL agent: its losses and what they train, averages, sampled critics, acting and its state."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

import qmkernels as qm
from qmkernels.agents import IQRL, IQRLConfig
from qmkernels.agents.networks import EnsemblePerceptron, multilayer_perceptron

SMALL = dict(
    encoder_sizes=(33,), dynamics_sizes=(33,), critic_sizes=(33, 17), actor_sizes=(33,), num_groups=9, horizon=3,
)  # fmt: skip


def agent_of(config: IQRLConfig | None = None, seed: int = 0, **bounds) -> IQRL:
    torch.manual_seed(seed)
    return IQRL(4, 2, config or IQRLConfig.small(**SMALL), **bounds)


def batch_for(agent: IQRL, size: int = 33, seed: int = 1) -> dict[str, torch.Tensor]:
    """Points moved by actions, some windows with an end; rewards favour actions near a half."""
    generator = torch.Generator().manual_seed(seed)
    steps, action_size = agent.config.horizon, agent.action_size
    action = torch.rand(size, steps, action_size, generator=generator) * 2 - 1
    begin = torch.randn(size, 1, agent.observation_size, generator=generator)
    moves = 0.3 * action.mean(dim=-1, keepdim=True).cumsum(dim=1)
    observation = torch.cat([begin, begin + moves], dim=1)
    lengths = torch.randint(1, 2 * steps, (size, 1), generator=generator)
    return {
        "observation": observation,
        "action": action,
        "mask": torch.arange(steps) < lengths,
        "n_step_return": 1 - (action[:, 0] - 0.5).square().mean(dim=-1),
        "bootstrap_observation": observation[:, 1],
        "bootstrap_discount": torch.where(lengths[:, 0] == 1, 0.0, 0.99),
    }


def parameters_of(*modules: torch.nn.Module) -> torch.Tensor:
    return torch.cat(
        [parameter.detach().reshape(-1).clone() for module in modules for parameter in module.parameters()]
    )


def trained_by(agent: IQRL, loss: torch.Tensor) -> set[str]:
    """Returns the names of the networks for which a loss has gradients."""
    agent.networks.zero_grad(set_to_none=True)
    loss.backward()
    return {name for name, network in agent.networks.items() if any(p.grad is not None for p in network.parameters())}


def test_every_loss_trains_its_own_networks():
    agent = agent_of()
    batch = batch_for(agent)
    latent = agent.encode(batch["observation"][:, 0]).codes
    assert trained_by(agent, agent.representation_loss(batch)[0]) == {"encoder", "dynamics"}
    assert all(p.grad.any() for name in ("encoder", "dynamics") for p in agent.networks[name].parameters())
    assert trained_by(agent, agent.critic_loss(latent.detach(), batch)[0]) == {"critics"}
    assert trained_by(agent, agent.actor_loss(latent.detach())[0]) == {"actor", "critics"}
    agent.critics.requires_grad_(False)
    assert trained_by(agent, agent.actor_loss(latent.detach())[0]) == {"actor"}


@pytest.mark.parametrize("activation", ["mish", "silu"])
def test_an_ensemble_is_its_members_beside_each_other(activation):
    how = dict(activation={"mish": torch.nn.Mish, "silu": torch.nn.SiLU}[activation], normalise_before=True)
    together, alone = EnsemblePerceptron(3, 7, 33, 17, 2, **how), []
    for member in range(3):
        network = multilayer_perceptron(7, 33, 17, 2, **how)
        linears = [part for part in network if isinstance(part, torch.nn.Linear)]
        norms = [part for part in network if isinstance(part, torch.nn.LayerNorm)]
        with torch.no_grad():
            for layer, linear in enumerate(linears):
                linear.bias.normal_()
                together.weights[layer][member] = linear.weight.t()
                together.biases[layer][member] = linear.bias
            for layer, norm in enumerate(norms):
                norm.weight.normal_()
                norm.bias.normal_()
                together.norm_weights[layer][member], together.norm_biases[layer][member] = norm.weight, norm.bias
        alone.append(network)
    rows = torch.randn(5, 7)
    expected = torch.stack([network(rows) for network in alone])
    torch.testing.assert_close(together(rows), expected)
    torch.testing.assert_close(together(rows, torch.tensor([2, 0])), expected[[2, 0]])
    torch.testing.assert_close(together(rows.expand(3, 5, 7)), expected)


def test_the_representation_loss_is_its_formula_over_the_steps_before_an_end():
    agent = agent_of(IQRLConfig.small(**SMALL, rho=0.7))
    agent.update(batch_for(agent))  # so that encoder and momentum encoder differ
    batch = batch_for(agent, seed=2)

    def quantised(values: torch.Tensor) -> torch.Tensor:
        return qm.fsq(values, [8, 8], backend="reference").codes

    latent, expected = quantised(agent.encoder(batch["observation"][:, 0])), 0.0
    for step in range(3):
        latent = quantised(latent + agent.dynamics(torch.cat([latent, batch["action"][:, step]], dim=-1)))
        target = quantised(agent.target_encoder(batch["observation"][:, step + 1]))
        away = 1 - functional.cosine_similarity(latent, target, dim=-1)
        expected = expected + 0.7**step * (batch["mask"][:, step] * away).mean()
    loss, metrics = agent.representation_loss(batch)
    torch.testing.assert_close(loss, expected)
    assert metrics["encoder/loss"] == loss and loss > 0
    assert not batch["mask"].all()
    # Steps after the end of an episode do not count.
    behind = batch["observation"].clone()
    behind[:, 1:][~batch["mask"]] += 1
    torch.testing.assert_close(agent.representation_loss({**batch, "observation": behind})[0], loss)


def test_targets_are_the_smaller_of_two_averaged_critics_drawn_anew_and_returns_alone_after_an_end():
    agent = agent_of(IQRLConfig.small(**SMALL, policy_noise=0.0))
    for seed in range(4):
        agent.update(batch_for(agent, seed=seed))
    batch = batch_for(agent)
    with torch.no_grad():
        latent = agent.encode(batch["bootstrap_observation"]).codes
        values = agent.value(agent.target_critics, latent, agent.target_actor(latent))
    assert values.shape == (5, 33)
    pairs = {}
    for first in range(5):
        for second in range(first):
            smaller = torch.minimum(values[first], values[second])
            pairs[first, second] = batch["n_step_return"] + batch["bootstrap_discount"] * smaller
    drawn = []
    for _ in range(60):
        target = agent.targets(batch)
        drawn.append(tuple(pair for pair, expected in pairs.items() if torch.allclose(target, expected, atol=1e-5)))
    assert all(drawn) and len(set(drawn)) > 3
    is_over = batch["bootstrap_discount"] == 0
    assert torch.equal(agent.targets(batch)[is_over], batch["n_step_return"][is_over]) and is_over.any()


def test_the_noise_on_target_actions_is_clipped():
    """With one critic that returns the action, targets are the target actor's actions plus their noise."""
    agent = agent_of(IQRLConfig.small(**SMALL, policy_noise=0.2, noise_clip=0.3))
    batch = batch_for(agent, size=4000)
    agent.value = lambda critics, latent, action, members: action[:, 0].expand(2, -1)
    batch |= {"n_step_return": torch.zeros(4000), "bootstrap_discount": torch.ones(4000)}
    with torch.no_grad():
        noise = agent.targets(batch) - agent.target_actor(agent.encode(batch["bootstrap_observation"]).codes)[:, 0]
    assert noise.abs().max() <= 0.3 + 1e-6 and 0.1 < (noise.abs() > 0.299).float().mean() < 0.17
    assert noise.std() == pytest.approx(0.18, abs=0.01)


def test_averages_follow_what_an_update_made_the_actors_every_second_time():
    agent = agent_of(IQRLConfig.small(**SMALL, encoder_tau=0.125, tau=0.25))
    for number in range(1, 5):
        before = {name: parameters_of(network) for name, network in agent.networks.items()}
        metrics = agent.update(batch_for(agent, seed=number))
        after = {name: parameters_of(network) for name, network in agent.networks.items()}
        assert ("actor/value" in metrics) == (number % 2 == 0)
        for name, tau in (("encoder", 0.125), ("critics", 0.25), ("actor", 0.25)):
            moves = name != "actor" or number % 2 == 0
            assert torch.equal(before[name], after[name]) != moves
            target = before[f"target_{name}"]
            assert torch.equal(after[f"target_{name}"], target.lerp(after[name], tau) if moves else target)
            assert torch.equal(after[f"target_{name}"], target) != moves


def test_gradients_of_the_representation_are_scaled_down_to_their_largest_norm():
    agent = agent_of(IQRLConfig.small(**SMALL, gradient_norm=1e-3))
    agent.optimizers["encoder"].zero_grad = lambda **_: None
    for parameter in (*agent.encoder.parameters(), *agent.dynamics.parameters()):
        parameter.grad = torch.ones_like(parameter)
    agent.update(batch_for(agent))
    norms = [p.grad.norm() for network in (agent.encoder, agent.dynamics) for p in network.parameters()]
    assert torch.stack(norms).norm().item() == pytest.approx(1e-3, rel=1e-3)


def test_the_actor_finds_the_action_of_the_highest_value_and_latents_become_predictable():
    agent = agent_of(IQRLConfig.small(**SMALL, critic_learning_rate=3e-3, actor_learning_rate=3e-3))
    first = agent.update(batch_for(agent, 64, 0))
    for seed in range(1, 250):
        metrics = agent.update({**batch_for(agent, 64, seed), "bootstrap_discount": torch.zeros(64)})
    assert metrics["encoder/similarity_last"] > 0.8 > first["encoder/similarity_last"]
    assert metrics["critic/value"].item() == pytest.approx(metrics["critic/target"].item(), abs=0.1)
    observation = batch_for(agent)["observation"][:, 0]
    with torch.no_grad():
        latent = agent.encode(observation).codes
        taken = agent.value(agent.critics, latent, agent.act(observation)).mean(dim=0)
        others = [agent.value(agent.critics, latent, torch.rand(33, 2) * 2 - 1).mean(dim=0) for _ in range(200)]
    assert (taken > torch.stack(others).amax(dim=0) - 0.1).all() and taken.min() > 0.7 > torch.stack(others).mean()


@pytest.mark.parametrize("leading", [(), (1,), (7,), (2, 3)])
def test_codes_and_indices_for_every_row_and_always_the_same_actions(leading):
    agent, observation = agent_of(), torch.randn(*leading, 4)
    latents = agent.encode(observation)
    assert latents.codes.shape == (*leading, 18) and latents.indices.shape == (*leading, 9)
    assert torch.equal(agent.act(observation, None, False), agent.act(observation, None, True))


def test_actions_stay_in_their_range_and_networks_see_them_in_halves_of_it():
    low, high = torch.tensor([-1.0, 5.0]), torch.tensor([1.0, 9.0])
    agent, unit = agent_of(action_low=low, action_high=high), agent_of()
    for member in (agent, unit):
        torch.manual_seed(1)
        torch.nn.init.normal_(member.actor[0][-1].weight, std=3.0)
    observation = torch.randn(500, 4)
    action, halves = agent.act(observation), unit.act(observation)
    assert ((action >= low) & (action <= high)).all() and halves.std(dim=0).min() > 0.1
    torch.testing.assert_close(action, (low + high) / 2 + halves * (high - low) / 2)
    batch = batch_for(unit)
    torch.manual_seed(2)
    expected = unit.update(batch)
    torch.manual_seed(2)
    metrics = agent.update({**batch, "action": (low + high) / 2 + batch["action"] * (high - low) / 2})
    for name, value in expected.items():
        torch.testing.assert_close(metrics[name], value, rtol=1e-3, atol=1e-4)


def test_rank_and_codes_in_use_are_those_of_known_latents():
    agent = agent_of()
    same = torch.randn(1, 4).expand(50, 4)
    assert agent.latent_statistics(same) == {"latent_rank": 1, "codes_in_use": pytest.approx(1 / 64)}
    agent.encoder = torch.nn.Identity()
    spread = torch.randn(4000, 18) * 2
    assert agent.latent_statistics(spread) == {"latent_rank": 18, "codes_in_use": pytest.approx(1, abs=0.02)}
    spread[:, 9:] = spread[:, :9]
    assert agent.latent_statistics(spread)["latent_rank"] == 9


def test_a_saved_state_resumes_with_every_second_update_of_the_actor():
    agent, other = agent_of(), agent_of(seed=5)
    for seed in range(3):
        agent.update(batch_for(agent, seed=seed))
    other.load_state_dict(agent.state_dict())
    for number in (4, 5):
        for member in (agent, other):
            assert ("actor/value" in member.update(batch_for(member))) == (number % 2 == 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"discount": 1.5}, "discount must be at most 1, got 1.5"),
        ({"num_sampled": 6}, "num_sampled must be at most num_critics, got 6 of 5"),
        ({"fsq_levels": (8, 1)}, r"fsq_levels must be one or more, at least 2 each, got \(8, 1\)"),
        ({"fsq_levels": ()}, r"fsq_levels must be one or more, at least 2 each, got \(\)"),
    ],
)
def test_wrong_settings_are_named(changes, message):
    with pytest.raises(ValueError, match=f"IQRLConfig: {message}"):
        IQRLConfig.published(**changes)
