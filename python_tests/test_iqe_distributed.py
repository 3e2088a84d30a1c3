"""IQE heads under DistributedDataParallel: two gloo processes on this machine against one process."""

import os
import socket

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import qmkernels as qm

STEPS, BATCH, DIM = 5, 12, 24


class Critic(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = torch.nn.Linear(7, DIM)
        self.head = qm.nn.IQE(DIM, 8)

    def forward(self, x, y):
        return self.head(self.encoder(x), self.encoder(y))


def train(critic, batches):
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(critic.parameters(), lr=0.1)
    for x, y in batches:
        optimizer.zero_grad()
        critic(x, y).square().mean().backward()
        optimizer.step()


def batches():
    generator = torch.Generator().manual_seed(1)
    return [tuple(torch.randn(BATCH, 7, generator=generator) for _ in range(2)) for _ in range(STEPS)]


def worker(rank, port, folder):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    torch.set_num_threads(1)
    torch.manual_seed(3)
    critic = Critic()
    half = slice(rank * BATCH // 2, (rank + 1) * BATCH // 2)
    train(torch.nn.parallel.DistributedDataParallel(critic), [(x[half], y[half]) for x, y in batches()])
    if rank == 0:
        torch.save(critic.state_dict(), os.path.join(folder, "critic.pt"))
    dist.destroy_process_group()


def test_two_processes_with_half_a_batch_each_learn_what_one_learns(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.start_processes(worker, args=(port, str(tmp_path)), nprocs=2, start_method="fork")
    torch.manual_seed(3)
    alone = Critic()
    train(alone, batches())
    together = torch.load(tmp_path / "critic.pt")
    torch.testing.assert_close(together, dict(alone.state_dict()))
