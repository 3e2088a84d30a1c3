"""Losses over a global batch and the search in a divided bank, in processes that another launcher starts.

    python python_tests/launched.py torchrun 2
    python python_tests/launched.py accelerate 4
    python python_tests/launched.py fabric 2

Holds what they learn and find to what one process does, and fails where they differ.
"""

import os
import subprocess
import sys

import torch
import torch.distributed as dist
from test_losses_distributed import BATCH, Encoders, train

import qmkernels as qm

BANK, K = 40, 3


def bank() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(BANK, 16, generator=generator), torch.randn(8, 16, generator=generator)


def learned(ring: bool, wrap=lambda module: module, rows: slice = slice(None)) -> dict[str, torch.Tensor]:
    """Returns the parameters after some steps on these rows of every batch; ``wrap`` averages gradients."""
    torch.manual_seed(3)
    encoders = Encoders(ring)
    train(wrap(encoders), rows)
    return encoders.state_dict()


def check(alone: dict[str, torch.Tensor], wrap) -> None:
    """Compares this process's part with the whole."""
    rank, count = dist.get_rank(), dist.get_world_size()
    part = BATCH // count
    for ring in (False, True):
        together = learned(ring, wrap, slice(rank * part, (rank + 1) * part))
        torch.testing.assert_close(together, alone, rtol=2e-5, atol=2e-6)
    whole, queries = bank()
    shard = whole.tensor_split(count)[rank]
    found = qm.distributed.nearest(queries, shard, K, metric=qm.mrn)
    assert torch.equal(found.indices, qm.nearest(queries, whole, K, metric=qm.mrn).indices)
    print(f"rank {rank} of {count}: equal to one process", flush=True)


# What starts a command's processes, this script in each of them.
COMMANDS = {
    "torchrun": ("torch.distributed.run", "--standalone", "--nproc-per-node"),
    # Without a GPU too: the name means several processes, and Accelerator(cpu=True) connects them by gloo.
    "accelerate": ("accelerate.commands.launch", "--multi_gpu", "--main_process_port", "0", "--num_processes"),
}


def main(launcher: str, count: int) -> None:
    torch.set_num_threads(1)
    if launcher in COMMANDS and "WORLD_SIZE" not in os.environ:
        command = [sys.executable, "-m", *COMMANDS[launcher], str(count), __file__, launcher, str(count)]
        sys.exit(subprocess.run(command, check=False).returncode)
    alone = learned(ring=False)
    if launcher == "torchrun":
        dist.init_process_group("gloo")
        check(alone, torch.nn.parallel.DistributedDataParallel)
        dist.destroy_process_group()
    elif launcher == "accelerate":
        from accelerate import Accelerator

        accelerator = Accelerator(cpu=True)
        check(alone, accelerator.prepare)
        accelerator.end_training()
    else:
        from lightning_fabric import Fabric

        fabric = Fabric(accelerator="cpu", devices=count, strategy="ddp_fork")
        fabric.launch(lambda fabric: check(alone, fabric.setup_module))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
