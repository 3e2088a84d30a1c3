"""TorchRL's forms of the losses give the numbers and gradients of our agents with the same networks."""

import pytest
import torch
from torch import nn

import qmkernels as qm

pytest.importorskip("torchrl", reason="torchrl is not installed")
from tensordict import TensorDict  # noqa: E402
from tensordict.nn import ProbabilisticTensorDictModule, ProbabilisticTensorDictSequential, TensorDictModule  # noqa: E402
from torchrl.modules import IndependentNormal, TanhNormal  # noqa: E402

from qmkernels.integrations.torchrl import QRLLoss, TMDLoss  # noqa: E402

SIZES = dict(actor_sizes=(16,), latent_size=16)
QRL_SIZES = dict(**SIZES, encoder_sizes=(16,), projector_sizes=(16,), embedding_size=32, dim_per_component=8)


class Of(nn.Module):
    """A function with the parameters of other modules."""

    def __init__(self, function, *modules):
        super().__init__()
        self.function, self.modules_used = function, nn.ModuleList(modules)

    def forward(self, *tensors):
        return self.function(*tensors)


def batch_of(rows=24):
    generator = torch.Generator().manual_seed(1)
    names = ("observation", "next_observation", "goal", "actor_goal")
    batch = {name: torch.randn(rows, 4, generator=generator) for name in names}
    action = torch.rand(rows, 3, generator=generator) * 1.8 - 0.9
    return {**batch, "action": action, "reward": -torch.rand(rows, generator=generator)}


def tensordict_of(batch, *shape):
    following = {"observation": batch["next_observation"], "reward": batch["reward"][:, None]}
    goals = {"desired_goal": batch["goal"], "actor_goal": batch["actor_goal"]}
    kept = {name: batch[name] for name in ("observation", "action")}
    return TensorDict({**kept, **goals, "next": following}, [len(batch["action"])]).reshape(*shape or (-1,))


def actor_of(agent, parameters, distribution, goal):
    network = TensorDictModule(
        Of(lambda *rows: parameters(agent.actor.network(torch.cat(rows, -1))), agent.actor),
        in_keys=["observation", goal], out_keys=["loc", "scale"],
    )  # fmt: skip
    policy = ProbabilisticTensorDictModule(
        in_keys=["loc", "scale"], out_keys=["action"], distribution_class=distribution
    )
    return ProbabilisticTensorDictSequential(network, policy)


def qrl(variable_cost=False, **heads):
    """An agent, the loss over its networks, and a batch whose goals are those that the agent's actor gets."""
    torch.manual_seed(0)
    config = dict(QRL_SIZES, dynamics_sizes=(16,), num_critics=1, variable_cost=variable_cost)
    agent = qm.agents.QRL(4, 3, qm.agents.QRLConfig.offline(**config), **heads)
    nn.init.normal_(agent.actor.network[-1].weight)
    nn.init.normal_(agent.critics[0].residual[-1].weight)
    batch = batch_of()
    batch["goal"] = batch["next_observation"].roll(1, dims=0)
    (critic,) = agent.critics

    def loc_and_scale(output):
        mean, raw = output.chunk(2, dim=-1)
        return mean, nn.functional.softplus(raw) + 1e-4

    residual = critic.residual
    loss = QRLLoss(
        TensorDictModule(critic.encoder, in_keys=["observation"], out_keys=["latent"]),
        Of(lambda latent, action: latent + residual(torch.cat([latent, action], -1)), residual),
        critic.head, actor_of(agent, loc_and_scale, TanhNormal, "desired_goal"), projector=critic.projector,
        cost=None if variable_cost else 1.0, softplus_beta=0.01, softplus_offset=500.0, dynamics_weight=1.0,
    )  # fmt: skip
    loss.raw_multiplier = critic.raw_multiplier
    return agent, agent.critics, loss, batch


def tmd():
    torch.manual_seed(0)
    agent = qm.agents.TMD(4, 3, qm.agents.TMDConfig.small(**SIZES, critic_sizes=(16,)))
    nn.init.normal_(agent.actor.network[-1].weight)
    critic = agent.critic
    loss = TMDLoss(
        Of(lambda *rows: critic.phi(*rows).movedim(0, 1), critic.phis),
        Of(lambda goal: critic.psi(goal).movedim(0, 1), critic.psis),
        critic.head,
        actor_of(agent, lambda mean: (mean.tanh(), torch.ones_like(mean)), IndependentNormal, "actor_goal"),
    )
    loss.set_keys(actor_goal="actor_goal")
    return agent, critic, loss, batch_of()


def gradients(losses, *modules):
    """The gradients of the sum of some losses, and None where a parameter takes no part."""
    parameters = [parameter for module in modules for parameter in module.parameters()]
    return torch.autograd.grad(sum(losses), parameters, allow_unused=True)


def wide_norm(size):
    return qm.nn.WideNorm(size, 4)


@pytest.mark.parametrize("options", [{}, {"variable_cost": True}, {"head": wide_norm}], ids=str)
def test_qrl_has_the_agents_losses_and_gradients(options):
    agent, critics, loss, batch = qrl(**options)
    wanted, _, latents = agent.critic_loss(batch)
    torch.manual_seed(5)
    wanted_actor, _ = agent.actor_loss(batch, latents)
    torch.manual_seed(5)
    given = loss(tensordict_of(batch))
    torch.testing.assert_close(given["loss_critic"] + given["loss_dynamics"], wanted)
    torch.testing.assert_close(given["loss_actor"], wanted_actor)
    torch.testing.assert_close(
        gradients([given["loss_critic"], given["loss_dynamics"]], critics), gradients([wanted], critics)
    )
    torch.testing.assert_close(
        gradients([given["loss_actor"]], agent.actor), gradients([wanted_actor], agent.actor), rtol=1e-4, atol=1e-5
    )


def test_tmd_has_the_agents_losses_and_gradients():
    agent, critic, loss, batch = tmd()
    (wanted, metrics), (wanted_actor, _) = agent.critic_loss(batch), agent.actor_loss(batch)
    given = loss(tensordict_of(batch))
    torch.testing.assert_close(given["loss_critic"], wanted)
    torch.testing.assert_close(given["accuracy"], metrics["critic/accuracy"])
    torch.testing.assert_close(gradients([given["loss_critic"]], critic), gradients([wanted], critic))
    # The agent leaves out the constant of the normal's log-density, 3 values with deviation 1.
    constant = 0.1 * 3 * 0.5 * torch.log(torch.tensor(2 * torch.pi))
    torch.testing.assert_close(given["loss_actor"] - constant, wanted_actor)
    torch.testing.assert_close(gradients([given["loss_actor"]], agent.actor), gradients([wanted_actor], agent.actor))


def test_an_ensemble_has_the_losses_and_gradients_of_the_agents_critics():
    torch.manual_seed(0)
    config = qm.agents.QRLConfig.online(**QRL_SIZES, dynamics_sizes=(16,), num_critics=2)
    agent, batch = qm.agents.QRL(4, 3, config), batch_of()

    def dynamics(residual):
        nn.init.normal_(residual[-1].weight)
        return Of(lambda latent, action: latent + residual(torch.cat([latent, action], -1)), residual)

    encoders, heads, projectors = (
        [getattr(critic, name) for critic in agent.critics] for name in ("encoder", "head", "projector")
    )
    policy = actor_of(agent, lambda rows: (rows[:, :3], torch.ones(len(rows), 3)), TanhNormal, "desired_goal")
    networks = encoders, [dynamics(critic.residual) for critic in agent.critics], heads
    loss = QRLLoss(*networks, policy, projector=projectors)
    wanted, metrics, _ = agent.critic_loss(batch)
    wanted.backward()
    given = loss(tensordict_of(batch))
    torch.testing.assert_close(given["loss_critic"] + given["loss_dynamics"], wanted)
    both = [metrics[f"critic_{number}/goal_distance"] for number in range(2)]
    torch.testing.assert_close(given["goal_distance"], torch.stack(both).mean())
    assert all(value.dim() == 0 for value in given.values())
    (given["loss_critic"] + given["loss_dynamics"]).backward()
    for name in ("encoder", "projector"):
        layer = [getattr(critic, name)[0].weight.grad for critic in agent.critics]
        torch.testing.assert_close(loss.critic_params[name, "0", "weight"].grad, torch.stack(layer))
    weights = [critic.head.reduction.raw_alpha.grad for critic in agent.critics]
    torch.testing.assert_close(loss.critic_params["head", "reduction", "raw_alpha"].grad, torch.stack(weights))
    multipliers = [critic.raw_multiplier.grad for critic in agent.critics]
    torch.testing.assert_close(loss.raw_multiplier.grad, torch.stack(multipliers))

    # The actor follows the critic that finds its goal farther.
    torch.manual_seed(5)
    actor = loss(tensordict_of(batch))["actor_distance"]
    torch.manual_seed(5)
    action = loss._policy(tensordict_of(batch)).rsample()
    with torch.no_grad():
        each = [
            critic.head(
                critic.projector(critic.dynamics(critic.encoder(batch["observation"]), action)),
                critic.embed(batch["goal"]),
            )
            for critic in agent.critics
        ]
    torch.testing.assert_close(actor, torch.stack(each).amax(dim=0).mean())


def test_lists_of_networks_must_be_as_long_as_each_other():
    encoders, heads = [nn.Linear(4, 16)] * 2, [qm.nn.IQE(16, 8)] * 3
    with pytest.raises(ValueError, match=r"QRLLoss: lists of networks must be of one length, got .*'head': 3"):
        QRLLoss(encoders, nn.Identity(), heads)
    with pytest.raises(ValueError, match="QRLLoss: dynamics must be a list of 2, like encoder, head"):
        QRLLoss(encoders, nn.Identity(), heads[:2])


def test_random_layers_of_an_ensemble_run():
    encoders = [nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.5)) for _ in range(2)]
    loss = QRLLoss(encoders, [Of(lambda z, _: z)] * 2, [qm.nn.IQE(16, 8)] * 2)
    first, second = (loss(tensordict_of(batch_of()))["loss_critic"] for _ in range(2))
    assert loss.vmap_randomness == "different" and first.isfinite() and first != second


@pytest.mark.parametrize("made", [qrl, tmd], ids=lambda made: made.__name__)
def test_the_actors_loss_leaves_the_critic_alone(made):
    _, critic, loss, batch = made()
    given = loss(tensordict_of(batch))
    assert set(loss.out_keys) == set(given.keys())
    assert all(given[name].requires_grad == name.startswith("loss_") for name in given.keys())
    assert all(grad is None for grad in gradients([given["loss_actor"]], critic))


@pytest.mark.parametrize("made", [qrl, tmd], ids=lambda made: made.__name__)
def test_padding_is_left_out_and_batch_dimensions_are_flattened(made):
    _, _, loss, batch = made()
    rows = tensordict_of(batch)
    names = [name for name in loss.out_keys if "actor" not in name]
    wanted = loss(rows[:20])
    padded = rows.clone()
    padded["observation"][20:] = torch.nan
    mask = (torch.arange(24) < 20).reshape(4, 6, 1)
    given = loss(padded.reshape(4, 6).set(("collector", "mask"), mask))
    torch.testing.assert_close(given.select(*names), wanted.select(*names))
    loss.loss_mask_key = None
    assert loss(padded.reshape(4, 6).set(("collector", "mask"), mask))["loss_critic"].isnan()


def test_keys_are_set_and_read_as_torchrls():
    _, _, loss, batch = qrl()
    rows = tensordict_of(batch)
    wanted = loss(rows)
    arguments = {"_".join(key) if isinstance(key, tuple) else key: rows[key] for key in loss.in_keys}
    assert set(arguments) == {"observation", "action", "desired_goal", "next_observation"}
    critic, dynamics, *_ = loss(**arguments)
    torch.testing.assert_close((critic, dynamics), (wanted["loss_critic"], wanted["loss_dynamics"]))
    loss.set_keys(goal=("goals", "late"), action="moves")
    assert ("goals", "late") in loss.in_keys and "action" not in loss.in_keys
    rows = rows.set(("goals", "late"), rows["desired_goal"]).rename_key_("action", "moves")
    torch.testing.assert_close(loss(rows)["loss_critic"], wanted["loss_critic"])
    with pytest.raises(ValueError, match="not an accepted tensordict key"):
        loss.set_keys(target="goal")


@pytest.mark.parametrize("multiplier", ["softplus", "exp"])
def test_the_multiplier_starts_where_asked_and_is_trained(multiplier):
    loss = QRLLoss(nn.Linear(4, 16), Of(lambda z, _: z), qm.nn.IQE(16, 8), multiplier=multiplier,
                   initial_multiplier=0.3)  # fmt: skip
    given = loss(tensordict_of(batch_of()))
    assert set(given.keys()) == set(loss.out_keys)
    torch.testing.assert_close(given["multiplier"], torch.tensor(0.3))
    given["loss_critic"].backward()
    assert loss.raw_multiplier.grad and "raw_multiplier" in loss.state_dict()
    with pytest.raises(ValueError, match="QRLLoss: initial_multiplier must be above 0, got 0"):
        QRLLoss(nn.Linear(4, 16), nn.Identity(), qm.nn.IQE(16, 8), initial_multiplier=0)


def test_a_head_is_a_tensordict_module():
    head = qm.nn.IQE(16, 8)
    module = TensorDictModule(head, in_keys=["embedding", "goal_embedding"], out_keys=["distance"])
    rows = TensorDict({name: torch.randn(5, 16) for name in module.in_keys}, [5])
    torch.testing.assert_close(module(rows)["distance"], head(rows["embedding"], rows["goal_embedding"]))
