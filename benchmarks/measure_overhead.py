"""Measures what a call costs beside its arithmetic: forward and backward of two rows of 16 values, one thread.

    python benchmarks/measure_overhead.py

Heads, ops and fused losses take turns with an autograd.Function that only allocates its results. A row of
benchmarks/results/overhead_cpu.csv has the median over the rounds of a call's time, of the CPU time of its thread, and
of that time divided by the empty Function's of the same round, which another machine, or a busy one, changes least.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from comparison import HERE, append_rows
from torch import Tensor

import qmkernels as qm

COLUMNS = (
    "date", "commit", "machine", "cores", "threads", "load_average", "python", "torch", "qmkernels", "isa", "command",
    "case", "median_us", "times_empty", "rounds",
)  # fmt: skip
ROWS, SIZE, CALLS = 2, 16, 60


class Empty(torch.autograd.Function):
    """Two inputs, one result."""

    @staticmethod
    def forward(ctx, x, y):
        return x.new_empty(ROWS)

    @staticmethod
    def backward(ctx, grad_out):
        return grad_out.new_empty(ROWS, SIZE), grad_out.new_empty(ROWS, SIZE)


class EmptyHead(torch.autograd.Function):
    """What a head with a learned weight has: three inputs, a result, and what its derivative by the weight is."""

    @staticmethod
    def forward(ctx, x, y, weight):
        ctx.set_materialize_grads(False)
        return x.new_empty(ROWS), x.new_empty(ROWS)

    @staticmethod
    def backward(ctx, grad_out, grad_derivative):
        return grad_out.new_empty(ROWS, SIZE), grad_out.new_empty(ROWS, SIZE), grad_out.new_empty(())


class EmptyLoss(torch.autograd.Function):
    """What qrl_critic has: four inputs with gradients, a loss, and diagnostics."""

    @staticmethod
    def forward(ctx, x, y, weight, multiplier):
        ctx.set_materialize_grads(False)
        loss, diagnostics = x.new_empty(()), x.new_empty(6)
        ctx.mark_non_differentiable(diagnostics)
        return loss, diagnostics

    @staticmethod
    def backward(ctx, grad_loss, grad_diagnostics):
        grads = (grad_loss.new_empty(ROWS, SIZE), grad_loss.new_empty(ROWS, SIZE))
        return *grads, grad_loss.new_empty(()), grad_loss.new_empty(())


def cases() -> dict[str, Callable[[], object]]:
    x, y, raw = torch.randn(ROWS, SIZE), torch.randn(ROWS, SIZE), torch.tensor(0.1)
    leaves = [tensor.requires_grad_() for tensor in (x, y)]
    raw.requires_grad_()
    weight = torch.tensor(0.1, requires_grad=True)
    grad = torch.ones(ROWS)

    def step(call: Callable[[], Tensor], *others: Tensor) -> Callable[[], object]:
        inputs = [*leaves, *others]
        return lambda: torch.autograd.grad(result := call(), inputs, grad if result.dim() else None)

    warnings.filterwarnings("ignore", message="MRN with sym_p")
    heads = {
        "nn.IQE": qm.nn.IQE(SIZE, 8),
        "nn.IQE, sum": qm.nn.IQE(SIZE, 8, reduction="sum"),
        "nn.LatentMRN": qm.nn.LatentMRN(SIZE, 2),
        "nn.MRN": qm.nn.MRN(SIZE),
        "nn.PQELH": qm.nn.PQELH(SIZE, 4),
        "nn.PQELH, sum": qm.nn.PQELH(SIZE, 4, reduction="sum"),
    }
    iqe, losses = heads["nn.IQE"], qm.losses
    skill, states = torch.randn(ROWS, SIZE), torch.randn(1, ROWS, SIZE)
    return {
        "empty Function": step(lambda: Empty.apply(x, y)),
        "empty Function, as nn.IQE": step(lambda: EmptyHead.apply(x, y, raw)[0], raw),
        "empty Function, as qrl_critic": step(lambda: EmptyLoss.apply(x, y, raw, weight)[0], raw, weight),
        "iqe": step(lambda: qm.iqe(x, y, 8)),
        "mrn": step(lambda: qm.mrn(x, y, 2)),
        "pqe": step(lambda: qm.pqe(x, y, 4)),
        **{name: step(lambda head=head: head(x, y), *head.parameters()) for name, head in heads.items()},
        "losses.qrl_critic": step(lambda: losses.qrl_critic(iqe, x, y, raw).loss, raw, *iqe.parameters()),
        "losses.latent_dynamics": step(lambda: losses.latent_dynamics(iqe, x, y).loss, *iqe.parameters()),
        "losses.metra": step(lambda: losses.metra(x, y, skill, raw).loss, raw),
        "losses.temporal_consistency": step(lambda: losses.temporal_consistency((x + y).unsqueeze(0), states).loss),
        "losses.contrastive": step(lambda: losses.contrastive(iqe, x, y).loss, *iqe.parameters()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60, help=f"of {CALLS} calls of each case")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "overhead_cpu.csv", help="CSV to append to")
    options = parser.parse_args()
    torch.set_num_threads(1)
    calls = cases()
    for call in calls.values():
        for _ in range(300):
            call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(options.rounds):
        for name, call in calls.items():
            begin = time.thread_time()
            for _ in range(CALLS):
                call()
            times[name].append((time.thread_time() - begin) / CALLS * 1e6)
    rows = []
    for name, taken in times.items():
        ratio = statistics.median(a / b for a, b in zip(taken, times["empty Function"], strict=True))
        row = {"case": name, "median_us": f"{statistics.median(taken):.1f}", "times_empty": f"{ratio:.2f}"}
        print(f"{name:30} {row['median_us']:>7} us  {row['times_empty']:>5} times the empty Function", flush=True)
        rows.append({**row, "rounds": options.rounds})
    append_rows(options.out, COLUMNS, "cpu", rows)


if __name__ == "__main__":
    main()
