"""The MetricRL agent: its losses are the formulas, distances learn the shortest ways of a maze, and states go on."""

from __future__ import annotations

import io

import numpy
import pytest
import torch

import qmkernels as qm
from qmkernels.agents import MetricRL, MetricRLConfig, monotonic_triplets

SMALL = dict(phi_width=32, phi_blocks=1, latent_size=32, actor_sizes=(33,), dynamics_sizes=(33,))
KINDS = {"observation goals": {}, "set goals": {"goal_size": 2}, "discrete": {"discrete": True}}
HEADS = {"euclidean": None, "iqe": lambda size: qm.nn.IQE(size, 8), "mrn": lambda size: qm.nn.LatentMRN(size, 4)}


def agent_of(config: MetricRLConfig | None = None, seed: int = 0, **kind) -> MetricRL:
    torch.manual_seed(seed)
    return MetricRL(4, 3, config or MetricRLConfig.published(**SMALL), **kind)


def batch_for(agent: MetricRL, size: int = 33, seed: int = 1) -> dict[str, torch.Tensor]:
    """Steps along a line, an action moves every coordinate by its mean; goals are other rows' next states."""
    generator = torch.Generator().manual_seed(seed)
    state = torch.randn(size, 4, generator=generator)
    action = torch.rand(size, 3, generator=generator) * 2 - 1
    move = action.mean(dim=-1, keepdim=True)
    if agent.discrete:
        action = torch.randint(3, (size,), generator=generator)
        move = (action - 1.0).unsqueeze(-1)
    achieved = (state + move)[:, : agent.goal_size or 4]
    batch = {"observation": state, "action": action, "next_observation": state + move, "achieved_goal": achieved}
    return {**batch, "goal": achieved.roll(1, dims=0)}


def parameters_of(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([each.detach().reshape(-1).clone() for each in module.parameters()])


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_the_critics_loss_is_the_papers_formula(head):
    agent = agent_of(MetricRLConfig.published(**SMALL, repulsion_weight=0.7), head=head)
    batch = batch_for(agent)
    z, z_next = (agent.critic.encoder(batch[name]) for name in ("observation", "next_observation"))
    compare = agent.critic.head if head else (lambda x, y: (x - y).square().sum(dim=-1).sqrt())
    distance = compare(z.unsqueeze(1), z_next)
    others = ~torch.eye(33, dtype=torch.bool)
    expected = (distance.diagonal() - 1).square().mean() - 0.7 * (distance[others] + 1e-6).log().mean()
    torch.testing.assert_close(agent.critic_loss(batch)[0], expected)


@pytest.mark.parametrize(
    ("changes", "value"),
    [
        ({}, lambda d: -d),
        ({"value": "discounted", "discount": 0.9}, lambda d: 0.9**d),
        ({"cloning_weight": 0.5}, lambda d: -d),
        ({"normalise_advantages": True}, lambda d: -d),
    ],
    ids=["distance", "discounted", "cloning", "normalised"],
)
def test_the_actors_loss_is_weighted_imitation_with_negative_weights_too(changes, value):
    agent = agent_of(MetricRLConfig.published(**SMALL, **changes), action_low=-2.0, action_high=2.0)
    for seed in range(5):
        agent.update(batch_for(agent, seed=seed))
    batch = batch_for(agent)
    before, after, goal = (agent.critic.encoder(batch[name]) for name in ("observation", "next_observation", "goal"))
    weight = value((after - goal).norm(dim=-1)) - value((before - goal).norm(dim=-1))
    assert weight.min() < 0 < weight.max()
    if "normalise_advantages" in changes:
        weight = weight / weight.abs().mean()
    mode = agent.act(batch["observation"], batch["goal"], deterministic=True)
    log_prob = -0.5 * ((batch["action"] - mode) / 2).square().sum(dim=-1)
    expected = -((weight + changes.get("cloning_weight", 0.0)) * log_prob).mean()
    torch.testing.assert_close(agent.actor_loss(batch)[0], expected, rtol=1e-4, atol=1e-5)


def test_the_actor_leaves_phi_as_it_is():
    agent = agent_of()
    batch = batch_for(agent)
    agent.update(batch)
    agent.critic.zero_grad(set_to_none=True)
    agent.actor_loss(batch)[0].backward()
    assert all(each.grad is None for each in agent.critic.parameters())
    assert all(each.grad is not None for each in agent.actor.network.parameters())


@pytest.mark.parametrize(
    ("kind", "name"), [({"goal_size": 2}, "achieved_goal"), ({"discrete": True}, "action")], ids=["goals", "model"]
)
def test_goals_that_are_sets_and_the_forward_model_do_not_move_the_states(kind, name):
    """Their errors have no gradients for states' latents, to which they are regressed."""
    agent, found, grads = agent_of(**kind), [], []
    batch = batch_for(agent)
    agent.critic.encoder.register_forward_hook(lambda _, __, z: found.append(z) or z.retain_grad())
    for _ in range(2):
        agent.critic_loss(batch)[0].backward()
        grads.append(found[-1].grad[:66].clone())
        batch[name] = batch[name].roll(1, dims=0)
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_an_update_changes_every_network_and_returns_scalars_without_a_graph(kind):
    agent = agent_of(**kind)
    before = {name: value.clone() for name, value in agent.networks.state_dict().items()}
    for _ in range(2):  # the first gradient passes the last layers of zeros and goes no further
        metrics = agent.update(batch_for(agent))
    assert {"critic/loss", "critic/steps", "critic/repulsion", "critic/length"} <= metrics.keys()
    assert ("critic/goal" in metrics) == ("goal_size" in kind)
    assert ("critic/dynamics" in metrics) == ("actor/advantage" not in metrics) == ("discrete" in kind)
    assert all(value.shape == () and not value.requires_grad and value.isfinite() for value in metrics.values())
    fixed = ("_scale.", "actor.centre", "actor.half_range")
    for name, value in agent.networks.state_dict().items():
        assert torch.equal(value, before[name]) == any(part in name for part in fixed), name


def test_actions_that_lead_to_the_goal_are_learned():
    """On a line the best action towards a goal has the sign of the difference; a third of the data goes against it."""
    agent = agent_of(MetricRLConfig.small(**SMALL, actor_learning_rate=3e-3))
    for seed in range(200):
        agent.update(line_batch(123, seed))
    batch = line_batch(123, 1000)
    action = agent.act(batch["observation"], batch["goal"], deterministic=True).mean(dim=-1)
    wanted = (batch["goal"] - batch["observation"])[:, 0]
    far = wanted.abs() > 0.5
    assert (action[far].sign() == wanted[far].sign()).float().mean() > 0.95


def line_batch(size: int, seed: int) -> dict[str, torch.Tensor]:
    """Places on a line, in every coordinate of an observation; an action's mean moves by up to a quarter."""
    generator = torch.Generator().manual_seed(seed)
    place, goal = (4 * torch.rand(2, size, 1, generator=generator) - 2).expand(2, size, 4)
    action = 2 * torch.rand(size, 3, generator=generator) - 1
    following = place + 0.25 * action.mean(dim=-1, keepdim=True)
    return {"observation": place, "action": action, "next_observation": following, "goal": goal}


@pytest.mark.parametrize("leading", [(), (1,), (7,), (2, 3)])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_shapes_of_acting_and_distances(kind, leading):
    agent = agent_of(**kind)
    observation = torch.randn(*leading, 4)
    for goal in (torch.randn(*leading, agent.goal_size or 4), torch.randn(agent.goal_size or 4)):
        action = agent.act(observation, goal, deterministic=True)
        assert action.shape == (leading if agent.discrete else (*leading, 3))
        assert ((action >= -1) & (action <= 2 if agent.discrete else action <= 1)).all()
        assert agent.distance(observation, goal).shape == leading


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_pairwise_distances_are_those_of_the_pairs(head):
    agent = agent_of(goal_size=2, head=head)
    observations, goals = torch.randn(9, 4), torch.randn(11, 2)
    expected = agent.distance(observations[:, None], goals)
    torch.testing.assert_close(agent.pairwise_distance(observations, goals), expected)
    rows = agent.critic.encoder(agent.state_inputs(observations))
    torch.testing.assert_close(agent.state_distances(observations), agent.critic.head(rows[:, None], rows).detach())


def maze_batch(agent: MetricRL, maze, cells: numpy.ndarray, generator: numpy.random.Generator) -> dict:
    """Random actions at random free cells, and random cells as goals."""
    begun, goal = cells[generator.integers(len(cells), size=(2, 256))]
    actions = generator.integers(len(maze.moves), size=256)
    found = {"observation": begun, "next_observation": maze.after(begun, actions), "goal": goal}
    batch = {name: torch.from_numpy(maze.positions(value)) for name, value in found.items()}
    return {**batch, "achieved_goal": batch["next_observation"], "action": torch.from_numpy(actions)}


def trained_in_a_maze(head, updates: int = 1000) -> tuple[MetricRL, object]:
    hyper_maze = pytest.importorskip("qmkernels.train.hyper_maze", reason="mazes need qmkernels[agents]")
    maze = hyper_maze.HyperMaze(dim=2, size=7)
    torch.manual_seed(0)
    config = MetricRLConfig.small(phi_width=64, phi_blocks=1, latent_size=32)
    agent = MetricRL(2, len(maze.moves), config, discrete=True, head=head)
    agent.standardise(torch.from_numpy(maze.positions(maze.free)))
    generator = numpy.random.default_rng(0)
    for _ in range(updates):
        agent.update(maze_batch(agent, maze, maze.free, generator))
    return agent, maze


def spearman(one: torch.Tensor, other: torch.Tensor) -> float:
    """Of all entries, with mean ranks for equal ones."""

    def ranks(values: torch.Tensor) -> torch.Tensor:
        _, place, counts = values.double().reshape(-1).unique(return_inverse=True, return_counts=True)
        return (counts.cumsum(dim=0) - (counts - 1) / 2)[place]

    return torch.corrcoef(torch.stack([ranks(one), ranks(other)]))[0, 1].item()


@pytest.mark.parametrize("head", ["euclidean", "iqe"])
def test_from_random_data_distances_rank_states_as_the_shortest_ways_do_and_greedy_actions_reach_goals(head):
    """Measured, Euclidean and IQE: Spearman .982 and .984 (untrained .77 and .56), goals reached .87 and .91, monotonic
    triplets .988 and .989."""
    agent, maze = trained_in_a_maze(HEADS[head])
    true, cells = torch.from_numpy(maze.distances()), torch.from_numpy(maze.positions(maze.free))
    learned = agent.pairwise_distance(cells, cells)
    begun = MetricRL(2, 9, agent.config, discrete=True, head=HEADS[head])
    begun.standardise(cells)
    untrained = begun.pairwise_distance(cells, cells)
    generator = numpy.random.default_rng(1)
    start, goal = maze.free[generator.integers(len(maze.free), size=(2, 200))]
    here, reached = start, (start == goal).all(axis=-1)
    for _ in range(30):
        actions = agent.act(*(torch.from_numpy(maze.positions(each)) for each in (here, goal)))
        here = maze.after(here, actions.numpy())
        reached |= (here == goal).all(axis=-1)
    assert spearman(learned, true) > max(0.95, spearman(untrained, true) + 0.1)
    assert monotonic_triplets(learned, true) > monotonic_triplets(untrained, true) + 0.05
    assert reached.mean() > 0.75


@pytest.mark.parametrize("head", ["euclidean", "iqe"])
def test_kernels_train_along_the_curve_of_plain_pytorch(head):
    """Within 1% of the reference backend's loss over a hundred updates, in which it falls."""
    curves = {}
    for backend in ("reference", "auto"):
        with qm.use_backend(backend):
            agent = agent_of(head=HEADS[head])
            updates = [agent.update(batch_for(agent, 33, seed)) for seed in range(100)]
        curves[backend] = {name: torch.stack([each[name] for each in updates]) for name in updates[0]}
    for name in ("critic/loss", "critic/length", "actor/log_prob"):
        torch.testing.assert_close(curves["auto"][name], curves["reference"][name], rtol=0.01, atol=0.01)
    loss = curves["reference"]["critic/loss"]
    assert loss[-10:].mean() < loss[:10].mean() - 0.2


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_saved_state_goes_on_bit_for_bit(kind, head):
    agent = agent_of(**kind, head=head)
    batch = batch_for(agent)
    agent.standardise(batch["observation"], batch["goal"])
    for _ in range(3):
        agent.update(batch)
    file = io.BytesIO()
    torch.save(agent.state_dict(), file)
    file.seek(0)
    other = agent_of(seed=5, **kind, head=head)
    other.load_state_dict(torch.load(file, weights_only=True))
    for each in (agent, other):
        for _ in range(3):
            each.update(batch)
    assert torch.equal(parameters_of(agent.networks), parameters_of(other.networks))
    assert torch.equal(agent.goal_scale.mean, other.goal_scale.mean) and agent.goal_scale.mean.abs().min() > 0


def test_the_state_of_another_agent_is_refused_by_name():
    state = agent_of().state_dict()
    with pytest.raises(ValueError, match="MetricRL.load_state_dict: .*another agent: .*head is .*Euclidean"):
        agent_of(head=HEADS["mrn"]).load_state_dict(state)
    with pytest.raises(ValueError, match="latent_size is 32 there, 64 here"):
        agent_of(MetricRLConfig.published(**{**SMALL, "latent_size": 64})).load_state_dict(state)


def test_monotonic_triplets_are_those_in_the_true_order():
    true = torch.tensor([[0.0, 1, 2], [1, 0, 1], [2, 1, 0]])
    assert monotonic_triplets(3 * true + 1, true) == 1
    assert monotonic_triplets(-true, true) == 0
    learned = true.clone()
    learned[0, 2], learned[2, 0] = 0.5, 0.5  # the ends are nearer to each other than to the middle
    # Of 3 + 2 + 3 triplets the two of the middle against an end, seen from the other, are out of order.
    assert monotonic_triplets(learned, true).item() == pytest.approx(6 / 8)
    known = torch.where(torch.tensor([[1, 1, 1], [0, 1, 1], [0, 0, 1]], dtype=torch.bool), true, torch.nan)
    assert monotonic_triplets(learned, known).item() == pytest.approx(3 / 4)
    with pytest.raises(ValueError, match=r"must be \(N, M\) both, got \(3, 2\) and \(3, 3\)"):
        monotonic_triplets(learned[:, :2], true)
    with pytest.raises(ValueError, match="no state is nearer"):
        monotonic_triplets(learned, torch.ones(3, 3))


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [
        ({}, {"goal": None}, "MetricRL.update: the batch lacks goal"),
        ({"goal_size": 2}, {"achieved_goal": None}, "MetricRL.update: the batch lacks achieved_goal"),
        ({}, {"goal": torch.zeros(33, 2)}, r"goal must be \(33, 4\), got \(33, 2\)"),
        ({}, {"next_observation": torch.zeros(33, 5)}, r"next_observation must be \(33, 4\), got \(33, 5\)"),
        ({}, {"action": torch.zeros(32, 3)}, r"action must be \(33, 3\), got \(32, 3\)"),
        ({"discrete": True}, {"action": torch.zeros(33, 3)}, r"action must be \(33,\), got \(33, 3\)"),
    ],
)
def test_a_wrong_batch_is_named(kind, change, said):
    agent = agent_of(**kind)
    batch = {name: value for name, value in {**batch_for(agent), **change}.items() if value is not None}
    with pytest.raises(ValueError, match=said):
        agent.update(batch)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"latent_size": 0}, "latent_size must be positive, got 0"),
        ({"repulsion_weight": -0.1}, "repulsion_weight must be at least 0, got -0.1"),
        ({"discount": 1.5}, "discount must be at most 1, got 1.5"),
        ({"value": "other"}, "value must be one of distance, discounted, got 'other'"),
        ({"actor_sizes": (0,)}, r"actor_sizes must be positive, got \(0,\)"),
    ],
)
def test_wrong_settings_are_named(changes, said):
    with pytest.raises(ValueError, match=f"MetricRLConfig: {said}"):
        MetricRLConfig.published(**changes)
