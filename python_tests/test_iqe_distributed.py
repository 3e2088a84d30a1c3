"""IQE heads under DistributedDataParallel: two gloo processes on this machine against one process."""

import torch
from processes import run_group

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


def worker(rank):
    torch.manual_seed(3)
    critic = Critic()
    half = slice(rank * BATCH // 2, (rank + 1) * BATCH // 2)
    train(torch.nn.parallel.DistributedDataParallel(critic), [(x[half], y[half]) for x, y in batches()])
    return critic.state_dict()


def test_two_processes_with_half_a_batch_each_learn_what_one_learns(tmp_path):
    together, _ = run_group(worker, tmp_path)
    torch.manual_seed(3)
    alone = Critic()
    train(alone, batches())
    torch.testing.assert_close(together, dict(alone.state_dict()))
