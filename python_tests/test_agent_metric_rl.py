"""The MetricRL agent: its losses follow the formulas, and distances learn the shortest paths of a maze."""

from __future__ import annotations

import numpy
import pytest
import torch
from torch.nn import functional

import qmkernels as qm
from qmkernels.agents import MetricRL, MetricRLConfig, monotonic_triplets

SMALL = dict(phi_width=32, phi_blocks=1, latent_size=32, actor_sizes=(33,), dynamics_sizes=(33,))
HEADS = {"euclidean": None, "iqe": lambda size: qm.nn.IQE(size, 8), "mrn": lambda size: qm.nn.LatentMRN(size, 4)}


def agent_of(config: MetricRLConfig | None = None, seed: int = 0, **kind) -> MetricRL:
    torch.manual_seed(seed)
    return MetricRL(4, 3, config or MetricRLConfig.published(**SMALL), **kind)


def batch_for(agent: MetricRL, size: int = 33, seed: int = 1) -> dict[str, torch.Tensor]:
    """Steps along a line: an action moves every coordinate by its mean; goals are other rows' next states."""
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
    assert all(parameter.grad is None for parameter in agent.critic.parameters())
    assert all(parameter.grad is not None for parameter in agent.actor.network.parameters())


@pytest.mark.parametrize(
    ("kind", "name"), [({"goal_size": 2}, "achieved_goal"), ({"discrete": True}, "action")], ids=["goals", "model"]
)
def test_goals_that_are_sets_and_the_forward_model_do_not_move_the_states(kind, name):
    """Their errors have no gradients for the states' latents, which are the regression targets."""
    agent, latents, grads = agent_of(**kind), [], []
    batch = batch_for(agent)
    agent.critic.encoder.register_forward_hook(lambda _, __, z: latents.append(z) or z.retain_grad())
    for _ in range(2):
        agent.critic_loss(batch)[0].backward()
        grads.append(latents[-1].grad[:66].clone())
        batch[name] = batch[name].roll(1, dims=0)
    torch.testing.assert_close(*grads)


def test_actions_that_lead_to_the_goal_are_learned():
    """On a line the best action towards a goal has the sign of the difference; a third of the data contradicts it."""
    agent = agent_of(MetricRLConfig.small(**SMALL, actor_learning_rate=3e-3))
    for seed in range(200):
        agent.update(line_batch(123, seed))
    batch = line_batch(123, 1000)
    action = agent.act(batch["observation"], batch["goal"], deterministic=True).mean(dim=-1)
    direction = (batch["goal"] - batch["observation"])[:, 0]
    far = direction.abs() > 0.5
    assert (action[far].sign() == direction[far].sign()).float().mean() > 0.95


def line_batch(size: int, seed: int) -> dict[str, torch.Tensor]:
    """Positions on a line, repeated in every coordinate; an action's mean moves by up to a quarter."""
    generator = torch.Generator().manual_seed(seed)
    place, goal = (4 * torch.rand(2, size, 1, generator=generator) - 2).expand(2, size, 4)
    action = 2 * torch.rand(size, 3, generator=generator) - 1
    following = place + 0.25 * action.mean(dim=-1, keepdim=True)
    return {"observation": place, "action": action, "next_observation": following, "goal": goal}


NUM_PLACES = 6


def two_parts_batch(size: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Steps along two rows of places that no step connects; each place is its own value."""
    part = NUM_PLACES * torch.randint(2, (size,), generator=generator)
    place = torch.randint(NUM_PLACES, (size,), generator=generator)
    action = torch.randint(2, (size,), generator=generator)
    following = (place + 2 * action - 1).clamp(0, NUM_PLACES - 1)
    rows = {"observation": part + place, "next_observation": part + following}
    batch = {name: functional.one_hot(value, 2 * NUM_PLACES).float() for name, value in rows.items()}
    is_last = torch.rand(2, size, generator=generator) < 0.05
    return {**batch, "action": action, "terminated": is_last[0], "truncated": is_last[1]}


@pytest.mark.parametrize("head", ["euclidean", "iqe"])
def test_a_super_state_joins_parts_that_no_episode_joins_and_keeps_the_order_within(head):
    """Measured after 200 updates, Euclidean and IQE: 108 and 31 apart without it, 4.3 with it."""
    places, across = torch.eye(2 * NUM_PLACES), {}
    for super_state in (False, True):
        config = MetricRLConfig.published(**SMALL, super_state=super_state)
        torch.manual_seed(0)
        generator = torch.Generator().manual_seed(0)
        agent = MetricRL(2 * NUM_PLACES, 2, config, discrete=True, head=HEADS[head])
        for _ in range(200):
            agent.update(two_parts_batch(64, generator))
        distance = agent.state_distances(places)
        across[super_state] = distance[:NUM_PLACES, NUM_PLACES:].mean()
        for rows in distance.split(NUM_PLACES), distance.T.split(NUM_PLACES):
            from_one_end = [row[0].split(NUM_PLACES)[number] for number, row in enumerate(rows)]
            assert all((distances[:5].diff() > 0).all() for distances in from_one_end)
    assert across[True] < 6 and across[False] > 3 * across[True]


def maze_batch(agent: MetricRL, maze, cells: numpy.ndarray, generator: numpy.random.Generator) -> dict:
    """Random actions at random free cells, and random cells as goals."""
    start, goal = cells[generator.integers(len(cells), size=(2, 256))]
    actions = generator.integers(len(maze.moves), size=256)
    places = {"observation": start, "next_observation": maze.after(start, actions), "goal": goal}
    batch = {name: torch.from_numpy(maze.positions(value)) for name, value in places.items()}
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


def spearman(first: torch.Tensor, other: torch.Tensor) -> float:
    """Returns the rank correlation of all entries, with mean ranks for ties."""

    def ranks(values: torch.Tensor) -> torch.Tensor:
        _, place, counts = values.double().reshape(-1).unique(return_inverse=True, return_counts=True)
        return (counts.cumsum(dim=0) - (counts - 1) / 2)[place]

    return torch.corrcoef(torch.stack([ranks(first), ranks(other)]))[0, 1].item()


@pytest.mark.parametrize("head", ["euclidean", "iqe"])
def test_from_random_data_distances_rank_states_as_the_shortest_ways_do_and_greedy_actions_reach_goals(head):
    """Measured, Euclidean and IQE: Spearman .982 and .984 (untrained .77 and .56), goals reached 1.00 and .99,
    monotonic triplets .988 and .989."""
    agent, maze = trained_in_a_maze(HEADS[head])
    true, cells = torch.from_numpy(maze.distances()), torch.from_numpy(maze.positions(maze.free))
    learned = agent.pairwise_distance(cells, cells)
    new_agent = MetricRL(2, 9, agent.config, discrete=True, head=HEADS[head])
    new_agent.standardise(cells)
    untrained = new_agent.pairwise_distance(cells, cells)
    generator = numpy.random.default_rng(1)
    start, goal = maze.free[generator.integers(len(maze.free), size=(2, 200))]
    here, reached = start, (start == goal).all(axis=-1)
    for _ in range(30):
        actions = agent.act(*(torch.from_numpy(maze.positions(cell)) for cell in (here, goal)))
        here = maze.after(here, actions.numpy())
        reached |= (here == goal).all(axis=-1)
    assert spearman(learned, true) > max(0.95, spearman(untrained, true) + 0.1)
    assert monotonic_triplets(learned, true) > monotonic_triplets(untrained, true) + 0.05
    assert reached.mean() > 0.95


def test_monotonic_triplets_are_those_in_the_true_order():
    true = torch.tensor([[0.0, 1, 2], [1, 0, 1], [2, 1, 0]])
    assert monotonic_triplets(3 * true + 1, true) == 1
    assert monotonic_triplets(-true, true) == 0
    learned = true.clone()
    learned[0, 2], learned[2, 0] = 0.5, 0.5  # the ends are nearer to each other than to the middle
    # Of 3 + 2 + 3 triplets, two are out of order: the middle against one end, seen from the other end.
    assert monotonic_triplets(learned, true).item() == pytest.approx(6 / 8)
    known = torch.where(torch.tensor([[1, 1, 1], [0, 1, 1], [0, 0, 1]], dtype=torch.bool), true, torch.nan)
    assert monotonic_triplets(learned, known).item() == pytest.approx(3 / 4)
    with pytest.raises(ValueError, match=r"must both be \(N, M\), got \(3, 2\) and \(3, 3\)"):
        monotonic_triplets(learned[:, :2], true)
    with pytest.raises(ValueError, match="all true distances to a state are equal"):
        monotonic_triplets(learned, torch.ones(3, 3))


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_distances_between_states_are_those_of_their_latents_also_where_goals_are_sets(head):
    agent, observations = agent_of(goal_size=2, head=head), torch.randn(9, 4)
    rows = agent.critic.encoder(agent.state_inputs(observations))
    torch.testing.assert_close(agent.state_distances(observations), agent.critic.head(rows[:, None], rows).detach())


def test_a_discount_above_1_is_named():
    with pytest.raises(ValueError, match="MetricRLConfig: discount must be at most 1, got 1.5"):
        MetricRLConfig.published(discount=1.5)
