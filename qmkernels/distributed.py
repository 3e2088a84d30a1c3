r"""Rows on several processes: gathered under autograd for losses over a global batch, or searched where they lie.

All that is needed is an initialised `torch.distributed`, however its processes were started; ``group=`` picks some of
them. In a single process everything here works too.

One machine, a process for each of 4 GPUs or cores; the script calls ``torch.distributed.init_process_group()``::

    torchrun --nproc-per-node 4 train.py

Two machines, on each of them (``--node-rank 1`` on the other)::

    torchrun --nnodes 2 --node-rank 0 --nproc-per-node 4 --master-addr FIRST --master-port 29500 train.py

Slurm, in a batch script with ``#SBATCH --nodes=2 --ntasks-per-node=1``::

    srun torchrun --nnodes $SLURM_NNODES --nproc-per-node 4 --rdzv-backend c10d --rdzv-id $SLURM_JOB_ID \
        --rdzv-endpoint $(scontrol show hostnames $SLURM_JOB_NODELIST | head -1):29500 train.py

Hugging Face Accelerate, in a script that begins with ``Accelerator()``; without a GPU that is
``Accelerator(cpu=True)``, and ``--multi_gpu`` stays, for without it a single process starts::

    accelerate launch --multi_gpu --num_processes 4 train.py

Ray Train, where the function itself finds `torch.distributed` initialised::

    TorchTrainer(function, scaling_config=ScalingConfig(num_workers=4, use_gpu=True)).fit()

Ray actors of your own call ``torch.distributed.init_process_group("gloo", init_method="tcp://FIRST:29500", rank=rank,
world_size=4)``, with "nccl" on GPUs. Lightning and Fabric initialise it themselves, the latter in ``fabric.launch()``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist

from .arguments.nearest import check, check_size
from .definitions.dtypes import in_compute_dtype
from .definitions.nearest import smallest
from .ops import arguments
from .ops import nearest as local
from .ops.nearest import Nearest

__all__ = ["gather_rows", "nearest"]

# Queries of all processes that are searched for at once: copies of them are all that a process holds beside its own.
_QUERIES_AT_ONCE = {"cpu": 4096, "cuda": 32768}


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows: Tensor, group):
        ctx.group, ctx.shape = group, rows.shape
        return _all_gather(rows, group)

    @staticmethod
    def backward(ctx, grad: Tensor):
        # All processes used these rows: sum their gradients, each process those of its own rows.
        own = grad.new_empty(ctx.shape)
        # torch 2.13 renamed it.
        reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
        reduce_scatter(own, grad.contiguous(), group=ctx.group)
        return own, None


def _all_gather(rows: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """Returns the rows of all processes, of equal shapes, one after the other."""
    every = rows.new_empty(dist.get_world_size(group) * rows.shape[0], *rows.shape[1:])
    all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    all_gather(every, rows.contiguous(), group=group)
    return every


def is_alone(group: dist.ProcessGroup | None) -> bool:
    return not dist.is_available() or not dist.is_initialized() or dist.get_world_size(group) == 1


def check_member(name: str, group: dist.ProcessGroup | None) -> None:
    if dist.get_rank(group) < 0:
        raise ValueError(f"{name}: this process must belong to group, or leave the call out.")


def gather_rows(rows: Tensor, *, dim: int = 0, group: dist.ProcessGroup | None = None) -> Tensor:
    """Gathers the rows of all processes, in rank order, on every process; differentiable.

    Args:
        rows: this process's rows, of the same shape, dtype and kind of device on every process.
        dim: the dimension of the rows; -2 for embeddings ``(..., N, D)``.
        group: the processes; None: all. Without an initialised `torch.distributed`, or in a group of one, the rows are
            returned unchanged.

    Returns:
        ``world_size`` times as many rows along ``dim``, in the same dtype; NaN and infinities pass unchanged.

    The gradient of a row is the sum of its gradients on all processes. DDP averages gradients over processes, so a loss
    that each process computes as the mean over its own rows gets the gradient of the mean over all rows. Where the rows
    of all processes would not fit, losses with ``ring=True`` take this process's own instead.

    Raises:
        ValueError: on all processes, if rows differ in shape or dtype between them, except on a GPU, where looking
            would wait for it; and on a process outside the group.

    Other errors are those of `torch.distributed`.

    Example:
        >>> torch.equal(qm.distributed.gather_rows(torch.ones(3, 4), dim=-2), torch.ones(3, 4))
        True
    """
    if is_alone(group):
        return rows
    check_member("gather_rows", group)
    if rows.device.type == "cpu" and not torch.compiler.is_compiling():
        _check_alike(rows, group)
    return _GatherRows.apply(rows.movedim(dim, 0), group).movedim(0, dim)


def _check_alike(rows: Tensor, group: dist.ProcessGroup | None) -> None:
    own = torch.tensor([[rows.element_size(), rows.dim(), *(*rows.shape, *[0] * 8)[:8]]])
    every = _all_gather(own, group)
    if torch.equal(every, every[:1].expand_as(every)):
        return
    said = [f"{tuple(sizes[:dim])} of {size} bytes a value" for size, dim, *sizes in every.tolist()]
    other = next(rank for rank, text in enumerate(said) if text != said[0])
    raise ValueError(
        f"gather_rows: rows must have one shape and dtype on all ranks, got {said[0]} on rank 0 and {said[other]} on "
        f"rank {other}."
    )


def nearest(
    queries: Tensor,
    bank_shard: Tensor,
    k: int = 1,
    *,
    metric: Callable[[Tensor, Tensor], Tensor],
    group: dist.ProcessGroup | None = None,
) -> Nearest:
    """Finds the k smallest distances from each query to the rows of a bank that is divided among processes.

    Equals `qmkernels.nearest` over all shards one after the other, in rank order; but each process holds its shard
    alone. Queries travel to the shards, some thousands at once, and the best of each shard travel back.

    Args:
        queries: from, this process's own, ``(..., D)``; float32, float64, bfloat16 or float16. Their number may differ
            between processes, and may be 0.
        bank_shard: to, this process's rows of the bank, ``(M, D)``, of the queries' dtype and device. M may differ, and
            may be 0 on some.
        k: number of neighbours, from 1 to the rows of all shards; the same on every process.
        metric: the distance, as for `qmkernels.nearest`, with the same parameters on every process.
        group: the processes, all of which must call; None: all. Without an initialised `torch.distributed`, or in a
            group of one, the shard is the bank.

    Returns:
        A named tuple: ``values`` (..., k), ascending, in the metric's unit and dtype, float32 for half inputs; and
        ``indices`` (..., k), int64, of rows of the whole bank: in the shard of rank r they begin at the sum of the
        earlier shards' sizes. Equal distances keep the order of the bank.

    There are no gradients: compute the distances to the rows that were found again where gradients are needed. NaN and
    infinite distances are ordered as by `qmkernels.nearest`.

    Raises:
        ValueError, TypeError, RuntimeError: as `qmkernels.nearest`, whose x and y are queries and bank_shard here; and
            for a k, D or dtype that differs between processes. Where one process fails all raise: those without an
            error of their own name the rank that has. A process that is gone is an error of `torch.distributed`.

    Example:
        >>> head = qm.nn.IQE(2, dim_per_component=2, reduction="sum")
        >>> bank = torch.tensor([[5.0, 5.0], [1.0, 0.0], [0.0, 2.0]])
        >>> qm.distributed.nearest(torch.zeros(1, 2), bank, 2, metric=head).indices
        tensor([[1, 2]])
    """
    with torch.no_grad():
        if is_alone(group):
            return local.nearest(queries, bank_shard, k, metric=metric)
        check_member("nearest", group)
        sizes = _agreed_sizes(queries, bank_shard, k, metric, group)
        rows = queries.reshape(-1, queries.shape[-1])
        found = [_search(part, bank_shard, k, metric, sizes, group) for part in _rounds(rows, sizes)]
    values, indices = (torch.cat(parts).reshape(*queries.shape[:-1], k) for parts in zip(*found, strict=True))
    return Nearest(values, indices)


class _Sizes(NamedTuple):
    """Of every rank: the number of queries and of bank rows."""

    queries: list[int]
    shards: list[int]


def _agreed_sizes(queries: Tensor, shard: Tensor, k: int, metric: Callable, group: Any) -> _Sizes:
    """Checks the arguments of all processes together."""
    said = {}

    def check_own() -> None:
        arguments.check_embeddings("nearest", queries, shard)
        check(shard.shape, k, metric)
        said.update(k=k, D=queries.shape[-1], dtype=queries.dtype, rows=queries.shape[:-1].numel(), shard=len(shard))

    every = together(check_own, said, group)
    for name, kind in (("k", ValueError), ("D", ValueError), ("dtype", TypeError)):
        for rank, other in enumerate(every):
            if other[name] != every[0][name]:
                raise kind(
                    f"nearest: {name} must be the same on all ranks, got {every[0][name]} on rank 0 and {other[name]} "
                    f"on rank {rank}."
                )
    sizes = _Sizes([other["rows"] for other in every], [other["shard"] for other in every])
    check_size(k, sum(sizes.shards))
    return sizes


def together(work: Callable[[], None], said: Any, group: Any) -> list[Any]:
    """Runs ``work`` and returns what all ranks ``said`` after it; an error on one rank is an error on all."""
    error = None
    try:
        work()
    except Exception as raised:
        error = raised
    every: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(every, (None if error is None else (type(error), str(error)), said), group=group)
    if error is not None:
        raise error
    for rank, (failure, _) in enumerate(every):
        if failure is not None:
            kind = failure[0] if failure[0] in (ValueError, TypeError) else RuntimeError
            raise kind(f"{failure[1]} (On rank {rank}.)")
    return [values for _, values in every]


def _rounds(rows: Tensor, sizes: _Sizes) -> Iterator[tuple[Tensor, list[int]]]:
    """Yields this process's queries for each round, and how many every rank has in it; at least one round."""
    most = max(1, _QUERIES_AT_ONCE.get(rows.device.type, 4096) // len(sizes.queries))
    for begin in range(0, max(*sizes.queries, 1), most):
        yield rows[begin : begin + most], [min(max(count - begin, 0), most) for count in sizes.queries]


def _search(
    part: tuple[Tensor, list[int]], shard: Tensor, k: int, metric: Callable, sizes: _Sizes, group: Any
) -> tuple[Tensor, Tensor]:
    """Finds the k nearest rows of all shards for one round's queries, (n, k) each."""
    (rows, counts), rank = part, dist.get_rank(group)
    padded = rows.new_zeros(max(counts), rows.shape[-1])
    padded[: len(rows)] = rows
    every = _all_gather(padded, group).view(len(counts), max(counts), rows.shape[-1])
    every = torch.cat([of_rank[:count] for of_rank, count in zip(every, counts, strict=True)])

    kept = [min(k, size) for size in sizes.shards]  # of each rank's shard
    values = in_compute_dtype(every).new_empty(len(every), kept[rank])
    indices = torch.empty_like(values, dtype=torch.int64)

    def search_shard() -> None:
        if values.numel():
            result = local.nearest(every, shard, kept[rank], metric=metric)
            values.copy_(result.values)
            indices.copy_(result.indices + sum(sizes.shards[:rank]))

    together(search_shard, None, group)
    sent, received = ([count * kept[rank] for count in counts], [len(rows) * number for number in kept])

    def returned(results: Tensor) -> Tensor:
        """Sends the rows of results to those that asked, and returns the candidates of all shards (n, sum of kept)."""
        candidates = results.new_empty(sum(received))
        dist.all_to_all_single(candidates, results.flatten(), received, sent, group=group)
        shards = zip(candidates.split(received), kept, strict=True)
        return torch.cat([of_rank.view(len(rows), number) for of_rank, number in shards], dim=-1)

    # Candidates stand in the order of the bank where distances are equal, and the sort is stable.
    smallest_values, order = smallest(returned(values), k)
    return smallest_values, returned(indices).gather(-1, order)
