"""Several seeds of an agent's critic in one process, trained as one: equal to each seed alone, within rounding.

    python -m qmkernels.examples.seeds_side_by_side

`torch.func.stack_module_state` stacks the seeds' parameters, `torch.vmap` runs their losses together, and one optimizer
steps them all: its moments are stacked with the parameters. Linear layers become one batched product for all seeds, the
distances of all pairs one kernel; a loss's own kernel runs once per seed. What that gains depends on how much of a step
is the work of starting operations: most with small networks and on a GPU, little where products of matrices dominate.
"""

import time

import torch

import qmkernels as qm

SEEDS, STEPS, ROWS, SIZE, ACTIONS = 4, 5, 64, 6, 2


class CriticLoss(torch.nn.Module):
    """An agent's critic loss as a module, whose parameters `torch.func.functional_call` replaces."""

    def __init__(self, agent: qm.agents.QRL | qm.agents.TMD, name: str) -> None:
        super().__init__()
        self.critic, self.of_agent = getattr(agent, name), agent.critic_loss

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        loss, *_ = self.of_agent(batch)
        return loss


class SideBySide:
    """The critics of agents that differ in nothing but their critics' parameters."""

    def __init__(self, agents: list, name: str) -> None:
        """``name``: of the critic and its optimizer."""
        self.modules = [CriticLoss(agent, name) for agent in agents]
        self.parameters, self.buffers = torch.func.stack_module_state(self.modules)
        names = {id(parameter): name for name, parameter in self.modules[0].named_parameters()}
        optimizer = agents[0].optimizers[name]
        groups = [
            {**group, "params": [self.parameters[names[id(parameter)]] for parameter in group["params"]]}
            for group in optimizer.param_groups
        ]
        self.optimizer = type(optimizer)(groups)

    def update(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Takes a step of every seed on its own batch, (seeds, rows, ...), and returns the losses, (seeds,)."""

        def loss(parameters, buffers, batch):
            return torch.func.functional_call(self.modules[0], (parameters, buffers), (batch,))

        losses = torch.vmap(loss)(self.parameters, self.buffers, batch)
        self.optimizer.zero_grad()
        losses.sum().backward()  # each seed's parameters have the gradient of its own loss
        self.optimizer.step()
        return losses.detach()

    def hand_back(self) -> None:
        """Copies what was learned into the agents."""
        for seed, module in enumerate(self.modules):
            module.load_state_dict({name: value[seed] for name, value in {**self.parameters, **self.buffers}.items()})


def make(kind: str, seed: int) -> qm.agents.QRL | qm.agents.TMD:
    torch.manual_seed(seed)
    if kind == "QRL":
        sizes = dict.fromkeys(("encoder_sizes", "projector_sizes", "dynamics_sizes", "actor_sizes"), (64,))
        config = qm.agents.QRLConfig.online(**sizes, latent_size=32, embedding_size=64, dim_per_component=8)
        return qm.agents.QRL(SIZE, ACTIONS, config)
    return qm.agents.TMD(SIZE, ACTIONS, qm.agents.TMDConfig.small(critic_sizes=(64,), latent_size=64))


def batches() -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    names = ("observation", "next_observation", "goal")
    return [
        {name: torch.randn(SEEDS, ROWS, SIZE, generator=generator) for name in names}
        | {"action": torch.rand(SEEDS, ROWS, ACTIONS, generator=generator) * 2 - 1}
        for _ in range(STEPS)
    ]


def main() -> None:
    for kind, name in (("QRL", "critics"), ("TMD", "critic")):
        alone, together = ([make(kind, seed) for seed in range(SEEDS)] for _ in range(2))
        begin = time.perf_counter()
        for seed, agent in enumerate(alone):
            optimizer = agent.optimizers[name]
            for batch in batches():
                loss, *_ = agent.critic_loss({name: rows[seed] for name, rows in batch.items()})
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        in_turn = time.perf_counter() - begin

        seeds = SideBySide(together, name)
        begin = time.perf_counter()
        for batch in batches():
            seeds.update(batch)
        side_by_side = time.perf_counter() - begin
        seeds.hand_back()

        for agent, other in zip(alone, together, strict=True):
            torch.testing.assert_close(other.networks.state_dict(), agent.networks.state_dict(), rtol=1e-4, atol=1e-5)
        print(
            f"{kind}: {SEEDS} seeds are what each is alone after {STEPS} steps; "
            f"in turn {in_turn:.2f} s, side by side {side_by_side:.2f} s"
        )


if __name__ == "__main__":
    main()
