"""The nearest rows of a bank that is divided among processes, against the whole bank in one."""

import os
import subprocess
import sys
from functools import partial

import pytest
import torch
import torch.distributed as dist
from processes import run_group

import qmkernels as qm

DIM, K = 8, 6
SHARDS, QUERIES = {2: (17, 4), 4: (3, 0, 30, 2)}, {2: (5, 12), 4: (9, 1, 0, 5)}
HEAD = qm.nn.IQE(DIM, 4, reduction="sum")


def rows_of(sizes, seed, dtype=torch.float32):
    """Small integers, so that many distances are equal, and a row that is not a number."""
    rows = torch.randint(3, (sum(sizes), DIM), generator=torch.Generator().manual_seed(seed)).to(dtype)
    rows[1] = torch.nan
    return rows


def search(count, rank):
    """Returns whether each search of the divided bank has the result of the whole bank."""
    qm.distributed._QUERIES_AT_ONCE["cpu"] = 3 * count  # several rounds, in the last of which some have no queries
    whole, queries = rows_of(SHARDS[count], 1), rows_of(QUERIES[count], 2)
    shard, own = whole.split(SHARDS[count])[rank], queries.split(QUERIES[count])[rank]
    results = {}
    for k in (1, K, len(whole)):
        found, wanted = qm.distributed.nearest(own, shard, k, metric=HEAD), qm.nearest(own, whole, k, metric=HEAD)
        results[k] = torch.equal(found.indices, wanted.indices) and torch.allclose(
            found.values, wanted.values, rtol=0, atol=0, equal_nan=True
        )
    half = qm.distributed.nearest(own[:, None].bfloat16(), shard.bfloat16(), K, metric=HEAD)
    results["half"] = half.values.dtype is torch.float32 and half.indices.shape == (len(own), 1, K)
    results["half"] &= torch.equal(half.indices[:, 0], qm.nearest(own, whole, K, metric=HEAD).indices)
    nothing = qm.distributed.nearest(own[:0], shard, K, metric=HEAD)
    results["no queries anywhere"] = nothing.values.shape == nothing.indices.shape == (0, K)
    return results


@pytest.mark.parametrize("count", SHARDS)
def test_a_divided_bank_gives_what_the_whole_bank_gives(count, tmp_path):
    for rank, results in enumerate(run_group(partial(search, count), tmp_path, count)):
        assert all(results.values()), (rank, results)


def refuse(x, y):
    raise MemoryError("no memory left")


# What rank 0 and rank 1 give, and the error that both must raise.
WRONG = {
    "k differs": ({"k": 2}, {"k": 3}, ValueError, "k must be the same on all ranks, got 2 on rank 0 and 3 on rank 1"),
    "D differs": ({}, {"width": 4}, ValueError, "D must be the same on all ranks, got 8 on rank 0 and 4 on rank 1"),
    "dtype differs": ({}, {"dtype": torch.float64}, TypeError, "dtype must be the same on all ranks, got torch.f"),
    "k beyond the bank": ({"k": 9}, {"k": 9}, ValueError, "k must be from 1 to the bank's 8 rows, got 9"),
    "no bank": ({"rows": 0}, {"rows": 0}, ValueError, "must have at least one row"),
    "wrong on one": ({}, {"k": 2.0}, TypeError, "k must be an int, got float"),
    "no function on one": ({"metric": None}, {}, TypeError, "metric must be a head or a function"),
    "fails on one": ({}, {"metric": refuse}, (MemoryError, RuntimeError), "no memory left"),
}  # fmt: skip


def fail(rank):
    """Returns every error that this rank got, and searches once more after them."""
    errors = {}
    for name, (*given, _, _) in WRONG.items():
        options = dict(k=2, width=DIM, dtype=torch.float32, rows=4, metric=HEAD) | given[rank]
        bank = torch.ones(options["rows"], options["width"], dtype=options["dtype"])
        queries = torch.zeros(3, options["width"], dtype=options["dtype"])
        try:
            qm.distributed.nearest(queries, bank, options["k"], metric=options["metric"])
        except Exception as error:
            errors[name] = type(error).__name__, str(error)
    bank = torch.full((2, DIM), 1.0 + rank)
    return errors, qm.distributed.nearest(torch.zeros(1, DIM), bank, 3, metric=HEAD).indices


def test_what_is_wrong_on_one_rank_is_an_error_on_all_at_once(tmp_path):
    for errors, after in run_group(fail, tmp_path):
        assert errors.keys() == WRONG.keys()
        for name, (*_, kinds, message) in WRONG.items():
            kind, text = errors[name]
            assert kind in [one.__name__ for one in (kinds if isinstance(kinds, tuple) else (kinds,))], errors[name]
            assert message in text
        assert after.tolist() == [[0, 1, 2]]


def apart(rank):
    """Two groups of one, and of the other group's members none."""
    groups = [dist.new_group([other]) for other in range(2)]
    bank, queries = torch.full((2, DIM), 1.0 + rank), torch.zeros(1, DIM)
    found = qm.distributed.nearest(queries, bank, 2, metric=HEAD, group=groups[rank])
    try:
        qm.distributed.nearest(queries, bank, 2, metric=HEAD, group=groups[1 - rank])
    except ValueError as error:
        return found.values, str(error)


def test_a_group_of_one_has_its_shard_as_bank_and_others_may_not_call(tmp_path):
    for rank, (values, error) in enumerate(run_group(apart, tmp_path)):
        assert values.tolist() == [[2.0 * (1 + rank)] * 2]
        assert "must belong to group" in error


def left_alone(rank):
    """Rank 1 leaves without a word."""
    if rank == 0:
        try:
            qm.distributed.nearest(torch.zeros(1, DIM), torch.ones(2, DIM), metric=HEAD)
        except RuntimeError as error:
            return str(error)


def test_a_process_that_is_gone_is_an_error(tmp_path):
    assert run_group(left_alone, tmp_path)[0]


def test_torchrun_starts_the_example(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m",
               "qmkernels.examples.sharded_bank"]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "2 processes" in done.stdout
