"""Losses over a global batch: gloo processes with a part of the rows each, against one process with all rows."""

import os
import time
from functools import partial

import far_rows
import pytest
import torch
import torch.distributed as dist
from processes import run_group

import qmkernels as qm
from qmkernels.arguments.pair_loss import SOFTMAXES
from qmkernels.losses import tiles

STEPS, BATCH, DIM = 4, 12, 16


class Encoders(torch.nn.Module):
    """phi and psi; all embeddings of a step in one call, as DDP requires."""

    def __init__(self, ring=False):
        super().__init__()
        self.ring = ring
        self.phi, self.psi = torch.nn.Linear(5, DIM), torch.nn.Linear(5, DIM)
        self.head = qm.nn.IQE(DIM, 8)

    def forward(self, states, next_states, goals):
        phi, psi, psi_next, psi_goal = self.phi(states), self.psi(states), self.psi(next_states), self.psi(goals)
        if not dist.is_initialized():
            return sum(losses_of(self.head, phi, psi, psi_next, psi_goal))
        everywhere = qm.distributed.gather_rows(psi_goal, dim=-2)
        offset = dist.get_rank() * len(phi)
        if not self.ring:
            return sum(losses_of(self.head, phi, psi, psi_next, everywhere, offset, group=dist.group.WORLD))
        results = list(losses_of(self.head, phi, psi, psi_next, psi_goal, ring=True, streaming=True))
        gathered = list(losses_of(self.head, phi, psi, psi_next, everywhere, offset, group=dist.group.WORLD))
        return sum(results[:-1]) + sum(gathered[-2:])  # those that do not come around a ring


def losses_of(head, phi, psi, psi_next, goals, offset=0, **how):
    yield qm.losses.tmd_critic(head, phi, psi, psi_next, goals, offset=offset, **how).loss
    for kind in ("backward", "forward", "symmetric", "sigmoid"):
        kind = {"form": "sigmoid"} if kind == "sigmoid" else {"direction": kind, "logsumexp_weight": 0.1}
        yield qm.losses.contrastive(head, phi, goals, offset=offset, **kind, **how).loss
    if not how.get("ring"):
        time = torch.arange(BATCH)
        yield qm.losses.contrastive(
            head, phi, goals, direction="symmetric", label_smoothing=0.1, exclude=(time // 4, time, 1),
            potential=goals.sum(dim=-1), offset=offset, **how,
        ).loss  # fmt: skip
    yield qm.losses.linex(head, phi, goals, psi_next, log_discount=-0.01, offset=offset).loss


def train(encoders, rows):
    optimizer = torch.optim.SGD(encoders.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        batch = [torch.randn(BATCH, 5, generator=generator)[rows] for _ in range(3)]
        optimizer.zero_grad()
        encoders(*batch).backward()
        optimizer.step()


def worker(count, ring, rank):
    tiles._TILE_PAIRS["cpu"] = 8  # several tiles per shard
    torch.manual_seed(3)
    encoders, part = Encoders(ring), BATCH // count
    train(torch.nn.parallel.DistributedDataParallel(encoders), slice(rank * part, (rank + 1) * part))
    return encoders.state_dict()


@pytest.mark.parametrize("ring", [False, True], ids=["gathered", "ring"])
@pytest.mark.parametrize("count", [2, 4])
def test_processes_with_a_part_of_the_batch_each_learn_what_one_learns(count, ring, tmp_path):
    together, *_ = run_group(partial(worker, count, ring), tmp_path, count)
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


def other_width(rank):
    return [torch.ones(4, DIM // (1 + rank)) for _ in "ab"]


def other_count(rank):
    return [torch.ones(4 + rank, DIM) for _ in "ab"]


def nothing_on_one(rank):
    return [torch.ones(4 * rank, DIM) for _ in "ab"]


def gathered_goals(rank):
    return torch.ones(4, DIM), torch.ones(8, DIM)


def wrong_on_one(rank):
    return torch.ones(4, DIM), torch.ones(4, DIM, dtype=torch.int64 if rank else torch.float32)


def other_dtype(rank):
    return [torch.ones(4, DIM, dtype=(torch.float32, torch.float64)[rank]) for _ in "ab"]


# What each rank gives to a loss with ring, and the error that both must raise.
WRONG = {
    other_count: (ValueError, "goals must be the same on all ranks, got (4, 16) on rank 0 and (5, 16) on rank 1"),
    other_width: (ValueError, "goals must be the same on all ranks, got (4, 16) on rank 0 and (4, 8) on rank 1"),
    nothing_on_one: (ValueError, "must have at least one row and one value, got (0, 16)"),
    gathered_goals: (ValueError, "each process must give its own states and goals, as many of both, got (4, 16)"),
    wrong_on_one: (TypeError, "y must be float64, float32, bfloat16 or float16, got torch.int64"),
    other_dtype: (TypeError, "the dtype of the goals must be the same on all ranks, got torch.float32 on rank 0 and"),
}  # fmt: skip


def fail(rank):
    """Returns every error that this rank got, and a loss after them."""
    errors, head = [], qm.nn.IQE(DIM, 8)
    for tensors in WRONG:
        try:
            qm.losses.contrastive(head, *tensors(rank), ring=True)
        except Exception as error:
            errors.append((type(error).__name__, str(error)))
    try:
        qm.losses.tmd_critic(qm.mrn, *torch.ones(4, 3, DIM), ring=True)
    except TypeError as error:
        errors.append(str(error))
    try:
        qm.distributed.gather_rows(torch.ones(4 * rank, DIM), dim=-2)
    except ValueError as error:
        errors.append(str(error))
    return errors, qm.losses.contrastive(head, torch.ones(3, DIM), torch.ones(3, DIM), ring=True).loss


def test_what_is_wrong_on_one_rank_is_an_error_on_all_at_once(tmp_path):
    for errors, loss in run_group(fail, tmp_path):
        *errors, of_function, of_gathering = errors
        for (kind, message), (name, text) in zip(WRONG.values(), errors, strict=True):
            assert name == kind.__name__ and message in text, text
        assert "tmd_critic: with ring head must be a module, got function" in of_function
        assert "on all ranks, got (0, 16) of 4 bytes a value on rank 0 and (4, 16) of 4" in of_gathering
        torch.testing.assert_close(loss, torch.tensor(6.0).log())


def apart(rank):
    """Two groups of one, and calls for the other one's."""
    own, other = [dist.new_group([member]) for member in range(2)][:: 1 if rank == 0 else -1]
    head, rows = qm.nn.IQE(DIM, 8), torch.eye(4, DIM) * (1 + rank)
    result = qm.losses.contrastive(head, rows, rows + 1, direction="symmetric", ring=True, group=own)
    errors = []
    for call in (
        lambda: qm.distributed.gather_rows(rows, group=other),
        lambda: qm.losses.tmd_critic(head, rows, rows, rows, rows, ring=True, group=other),
    ):
        with pytest.raises(ValueError) as error:
            call()
        errors.append(str(error.value))
    alone = qm.losses.contrastive(head, rows, rows + 1, direction="symmetric")
    return torch.equal(result.loss, alone.loss), qm.distributed.gather_rows(rows, group=own) is rows, errors


def test_a_group_of_one_has_its_own_batch_and_others_may_not_call(tmp_path):
    for same_loss, same_rows, errors in run_group(apart, tmp_path):
        assert same_loss and same_rows
        assert [error.partition(" or leave")[0] for error in errors] == [
            f"{name}: this process must belong to group," for name in ("gather_rows", "tmd_critic")
        ]


class Ends(torch.nn.Module):
    """A head that ends rank 1's process when it is called for the second time."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x, y):
        self.calls += 1
        if dist.get_rank() == 1 and self.calls == 2:
            os._exit(0)
        return qm.mrn(x, y)


def lose_one(ring, rank):
    head, rows, begin = Ends(), torch.ones(8, DIM), time.monotonic()
    try:
        for _ in range(2):
            goals = rows if ring else qm.distributed.gather_rows(rows)
            how = {"ring": True} if ring else {"offset": 8 * rank, "group": dist.group.WORLD}
            qm.losses.contrastive(head, rows, goals, **how)
    except RuntimeError as error:
        return str(error), time.monotonic() - begin


@pytest.mark.parametrize("ring", [False, True], ids=["gathered", "ring"])
def test_a_process_that_dies_is_an_error_on_the_others_within_the_groups_timeout(ring, tmp_path):
    first, ended, third = run_group(partial(lose_one, ring), tmp_path, 3, timeout_s=10)
    assert ended is None
    for error, seconds in (first, third):
        assert error and seconds < 60


def test_without_processes_rows_are_returned_unchanged():
    rows = torch.randn(3, 4, requires_grad=True)
    assert qm.distributed.gather_rows(rows) is rows
