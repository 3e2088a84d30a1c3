"""The nearest states of a bank that is divided among processes.

    python -m qmkernels.examples.sharded_bank
    torchrun --nproc-per-node 2 -m qmkernels.examples.sharded_bank

Each process holds its shard of the bank and has queries of its own. Compares the result with the whole bank's.
"""

import os

import torch
import torch.distributed as dist

import qmkernels as qm

QUERIES, BANK, SIZE, K = 64, 4_000, 128, 5


def main() -> None:
    if "WORLD_SIZE" in os.environ:  # started by torchrun
        dist.init_process_group("gloo")
    rank, count = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    torch.manual_seed(0)  # the same head and bank everywhere; real shards would come from files of their own
    head, bank = qm.nn.IQE(SIZE, dim_per_component=8), torch.randn(BANK, SIZE)
    shard = bank.tensor_split(count)[rank]
    queries = torch.randn(QUERIES, SIZE, generator=torch.Generator().manual_seed(rank))

    found = qm.distributed.nearest(queries, shard, K, metric=head)
    print(f"rank {rank} of {count} processes: {len(shard)} rows here, nearest to query 0: {found.indices[0].tolist()}")

    alone = qm.nearest(queries, bank, K, metric=head)
    assert torch.equal(found.indices, alone.indices), "not the nearest rows"
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
