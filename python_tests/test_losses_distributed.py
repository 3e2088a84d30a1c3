"""Losses over a global batch: gloo processes with a part of the rows each, against one process with all rows."""

from functools import partial

import far_rows
import pytest
import torch
import torch.distributed as dist
from processes import run_group

import qmkernels as qm
from qmkernels.definitions.pair_loss import SOFTMAXES

STEPS, BATCH, DIM = 4, 12, 16


class Encoders(torch.nn.Module):
    """phi and psi; all embeddings of a step in one call, as DDP requires."""

    def __init__(self):
        super().__init__()
        self.phi, self.psi = torch.nn.Linear(5, DIM), torch.nn.Linear(5, DIM)
        self.head = qm.nn.IQE(DIM, 8)

    def forward(self, states, next_states, goals):
        phi, psi, psi_next, psi_goal = self.phi(states), self.psi(states), self.psi(next_states), self.psi(goals)
        if not dist.is_initialized():
            return sum(losses_of(self.head, phi, psi, psi_next, psi_goal, psi_goal))
        everywhere = qm.distributed.gather_rows(psi_goal, dim=-2)
        offset = dist.get_rank() * len(phi)
        return sum(losses_of(self.head, phi, psi, psi_next, psi_goal, everywhere, offset, dist.group.WORLD))


def losses_of(head, phi, psi, psi_next, psi_goal, goals, offset=0, group=None):
    yield qm.losses.tmd_critic(head, phi, psi, psi_next, goals, offset=offset, group=group).loss
    for direction in ("backward", "forward", "symmetric"):
        result = qm.losses.contrastive(
            head, phi, goals, direction=direction, logsumexp_weight=0.1, offset=offset, group=group
        )
        yield result.loss
    time = torch.arange(BATCH)
    yield qm.losses.contrastive(
        head, phi, goals, direction="symmetric", label_smoothing=0.1, exclude=(time // 4, time, 1),
        potential=goals.sum(dim=-1), offset=offset, group=group,
    ).loss  # fmt: skip
    yield qm.losses.contrastive(head, phi, goals, form="sigmoid", offset=offset).loss
    yield qm.losses.linex(head, phi, goals, psi_next, log_discount=-0.01, offset=offset).loss


def train(encoders, rows):
    optimizer = torch.optim.SGD(encoders.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        batch = [torch.randn(BATCH, 5, generator=generator)[rows] for _ in range(3)]
        optimizer.zero_grad()
        encoders(*batch).backward()
        optimizer.step()


def worker(count, rank):
    torch.manual_seed(3)
    encoders, part = Encoders(), BATCH // count
    train(torch.nn.parallel.DistributedDataParallel(encoders), slice(rank * part, (rank + 1) * part))
    return encoders.state_dict()


@pytest.mark.parametrize("count", [2, 4])
def test_processes_with_a_part_of_the_batch_each_learn_what_one_learns(count, tmp_path):
    together, *_ = run_group(partial(worker, count), tmp_path, count)
    torch.manual_seed(3)
    alone = Encoders()
    start = {name: value.clone() for name, value in alone.state_dict().items()}
    train(alone, slice(None))
    torch.testing.assert_close(together, dict(alone.state_dict()), rtol=2e-5, atol=2e-6)
    assert all((value - start[name]).abs().max() > 1e-4 for name, value in together.items())


def far_row_worker(rank):
    """Returns each direction's loss, averaged over processes as DDP averages gradients, and its gradient by this half
    of x."""
    x, y = far_rows.points(1e9)
    half, results = slice(8 * rank, 8 * rank + 8), []
    for kind in SOFTMAXES:
        loss = qm.losses.contrastive(
            far_rows.head, x[half], y, direction=kind, scale=0.3, offset=8 * rank, group=dist.group.WORLD
        ).loss
        (grad,) = torch.autograd.grad(loss, x)
        loss = qm.distributed.gather_rows(loss.detach().reshape(1)).mean()
        results.append((loss, grad[half] / 2))
    return results


def test_a_far_row_costs_the_other_processes_no_digits(tmp_path):
    first, second = run_group(far_row_worker, tmp_path)
    x, y = far_rows.points(1e9)
    for kind, (loss, upper), (_, lower) in zip(SOFTMAXES, first, second, strict=True):
        distance = far_rows.distances(x, y)
        expected, by_distance = far_rows.exact(distance, kind, 0.3)
        torch.testing.assert_close(loss.double(), expected, **far_rows.TOLERANCE)
        (grad,) = torch.autograd.grad(distance, x, by_distance.float())
        torch.testing.assert_close(torch.cat([upper, lower]), grad, **far_rows.TOLERANCE)


def test_without_processes_rows_are_returned_unchanged():
    rows = torch.randn(3, 4, requires_grad=True)
    assert qm.distributed.gather_rows(rows) is rows
