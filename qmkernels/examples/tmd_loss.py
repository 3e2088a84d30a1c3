"""TMD's critic loss in your own loop: successor distances from transitions, without rewards.

    python -m qmkernels.examples.tmd_loss

A ring on which an agent stays or steps forward at random. `qm.losses.tmd_critic` takes four embeddings and does the
rest: contrastive loss over all pairs, invariance to actions, and the backup along transitions.
"""

import torch

import qmkernels as qm

NODES, ACTIONS, LATENT, BATCH, STEPS = 16, 2, 64, 128, 400


def network(inputs: int) -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(inputs, 128), torch.nn.ReLU(), torch.nn.Linear(128, LATENT))


def transitions() -> tuple[torch.Tensor, ...]:
    """State, action, next state, and a goal: the state some steps later, geometric with discount 0.9."""
    state, action = torch.randint(NODES, (BATCH,)), torch.randint(ACTIONS, (BATCH,))
    following = (state + action) % NODES
    later = torch.distributions.Geometric(torch.full((BATCH,), 0.1)).sample()
    forward = torch.distributions.Binomial(later, torch.tensor(0.5)).sample().long()
    return state, action, following, (following + forward) % NODES


def main() -> None:
    torch.manual_seed(0)
    phi, psi = network(NODES + ACTIONS), network(NODES)
    head = qm.nn.LatentMRN(LATENT, preset="tmd")
    optimizer = torch.optim.Adam([*phi.parameters(), *psi.parameters()], lr=3e-3)
    places, choices = torch.eye(NODES), torch.eye(ACTIONS)

    for step in range(STEPS + 1):
        state, action, following, goal = transitions()
        state_action = torch.cat([places[state], choices[action]], dim=-1)
        critic = qm.losses.tmd_critic(
            head, phi(state_action), psi(places[state]), psi(places[following]), psi(places[goal]), discount=0.9
        )
        optimizer.zero_grad()
        critic.loss.backward()
        optimizer.step()
        if step % 100 == 0:
            print(f"step {step:3}: loss {critic.loss.item():6.3f}, accuracy {critic.accuracy.item():.2f}")

    with torch.no_grad():
        ahead = (torch.arange(NODES) + torch.arange(NODES)[:, None]) % NODES  # row k: the place k steps on
        learned = head(psi(places)[None], psi(places[ahead])).mean(dim=-1)
    print("distance by steps ahead:", ", ".join(f"{k}: {learned[k].item():.2f}" for k in (0, 1, 2, 4, 8)))
    correlation = torch.corrcoef(torch.stack([learned[1:9], torch.arange(1.0, 9.0)]))[0, 1].item()
    print(f"correlation with the true number of steps, 1 to 8: {correlation:.2f}")
    assert correlation > 0.8, "distances do not grow with the number of steps"


if __name__ == "__main__":
    main()
