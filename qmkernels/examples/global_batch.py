"""A contrastive loss over the batch of all processes, equal to one process with the whole batch.

    python -m qmkernels.examples.global_batch

Starts two processes on the CPU; under torchrun each process would call `torch.distributed.init_process_group` itself.
Each encodes its half of the batch, and compares its states with the goals of both.
"""

import tempfile
from pathlib import Path

import torch
import torch.distributed as dist

import qmkernels as qm

PROCESSES, BATCH, FEATURES, LATENT = 2, 64, 10, 128


class Critic(torch.nn.Module):
    """The loss is part of the module, so that DDP sees every use of the parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = torch.nn.Linear(FEATURES, LATENT)
        self.head = qm.nn.IQE(LATENT, dim_per_component=8)

    def forward(self, states: torch.Tensor, goals: torch.Tensor) -> torch.Tensor:
        x, y = self.encoder(states), self.encoder(goals)
        if not dist.is_initialized():
            return qm.losses.contrastive(self.head, x, y, direction="symmetric").loss
        everywhere = qm.distributed.gather_rows(y)  # the goals of all processes, differentiable
        offset = dist.get_rank() * len(x)  # where in them this process's own begin
        contrast = qm.losses.contrastive(
            self.head, x, everywhere, direction="symmetric", offset=offset, group=dist.group.WORLD
        )
        return contrast.loss


def gradients(critic: torch.nn.Module, rows: slice) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    states, goals = (torch.randn(BATCH, FEATURES, generator=generator)[rows] for _ in range(2))
    critic(states, goals).backward()
    return [parameter.grad for parameter in critic.parameters()]


def process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=PROCESSES)
    torch.manual_seed(0)
    part = BATCH // PROCESSES
    critic = torch.nn.parallel.DistributedDataParallel(Critic())
    torch.save(gradients(critic, slice(rank * part, (rank + 1) * part)), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.start_processes(process, (folder,), nprocs=PROCESSES, start_method="fork")
        together = torch.load(Path(folder) / "0.pt")
    torch.manual_seed(0)
    alone = gradients(Critic(), slice(None))
    difference = max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(together, alone, strict=True))
    print(f"two processes with {BATCH // PROCESSES} rows each, one with {BATCH}: gradients differ by {difference:.0e}")
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-6)


if __name__ == "__main__":
    main()
