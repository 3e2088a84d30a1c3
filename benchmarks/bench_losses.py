"""Losses over all pairs beside plain PyTorch, for pytest-benchmark and measure_ops.py.

pytest benchmarks/bench_losses.py --benchmark-group-by=group
"""

from __future__ import annotations

import math

import torch
from bench_mrn import plain_mrn
from comparison import Case, compiled, parametrised, randn, run_benchmark
from torch import Tensor
from torch.nn import functional

import qmkernels as qm

BACKWARD = "forward+backward"


def plain_tmd(phi: Tensor, psi: Tensor, psi_next: Tensor, psi_goal: Tensor) -> Tensor:
    """TMD's critic loss with matrices of distances, as its code has it."""
    distance = plain_mrn(phi[:, :, None], psi_goal[:, None])
    logits = -distance / math.sqrt(phi.shape[-1])
    matches = torch.arange(phi.shape[1], device=phi.device).expand(phi.shape[0], -1)
    contrastive = functional.cross_entropy(logits, matches)  # over the second dimension, the states
    action = plain_mrn(psi, phi).mean()
    following = plain_mrn(psi_next[:, :, None], psi_goal[:, None]).detach()
    delta = distance - following
    grown = 0.99 * delta.clamp(max=3.0).exp() - distance
    divergence = torch.where(delta > 3.0, delta, grown)
    temporal = 0.5 * divergence.mean() + 0.5 * divergence.diagonal(dim1=1, dim2=2).mean()
    return contrastive + action + 0.05 * temporal


def plain_symmetric(x: Tensor, y: Tensor) -> Tensor:
    """InfoNCE in both directions from one matrix."""
    logits = -plain_mrn(x[:, None], y[None]) / math.sqrt(x.shape[-1])
    matches = torch.arange(len(x), device=x.device)
    return 0.5 * (functional.cross_entropy(logits, matches) + functional.cross_entropy(logits.T, matches))


def plain_linex(x: Tensor, y: Tensor, following: Tensor) -> Tensor:
    distance = plain_mrn(x[:, None], y[None])
    delta = distance - plain_mrn(following[:, None], y[None]).detach()
    grown = 0.99 * delta.clamp(max=3.0).exp() - distance
    divergence = torch.where(delta > 3.0, delta, grown)
    return 0.5 * divergence.mean() + 0.5 * divergence.diagonal().mean()


def ours_symmetric():
    head = qm.nn.LatentMRN(512, preset="tmd")
    return lambda x, y: qm.losses.contrastive(head, x, y, direction="symmetric").loss


def ours_linex():
    head = qm.nn.LatentMRN(512, preset="tmd")
    return lambda x, y, following: qm.losses.linex(head, x, y, following, log_discount=math.log(0.99)).loss


def ours_tmd():
    head = qm.nn.LatentMRN(512, preset="tmd")
    return lambda *embeddings: qm.losses.tmd_critic(head, *embeddings).loss


def ours_contrastive():
    head = qm.nn.LatentMRN(512, preset="tmd")
    return lambda x, y: qm.losses.contrastive(head, x, y, streaming=True).loss


def _with_next_held_fixed(loss):
    return lambda phi, psi, psi_next, psi_goal: loss(phi, psi, psi_next.detach(), psi_goal) + 0 * psi_next.sum()


def _with_following_held_fixed(loss):
    return lambda x, y, following: loss(x, y, following.detach()) + 0 * following.sum()


CASES = [
    Case(
        "tmd_critic", "ensemble of 2, 512 x 512, D=512, MRN of 8 components",
        lambda: [randn(2, 512, 512, seed=seed) for seed in range(4)],
        {
            "ours": lambda: _with_next_held_fixed(ours_tmd()),
            "eager": lambda: _with_next_held_fixed(plain_tmd),
            "compiled": compiled(_with_next_held_fixed(plain_tmd)),
        },
        directions=(BACKWARD,),
        aims={("eager", BACKWARD): 40, ("compiled", BACKWARD): 10},
    ),
    Case(
        "contrastive", "symmetric, 512 x 512, D=512, MRN of 8 components",
        lambda: [randn(512, 512, seed=seed) for seed in range(2)],
        {"ours": ours_symmetric, "eager": lambda: plain_symmetric, "compiled": compiled(plain_symmetric)},
        directions=(BACKWARD,),
        aims={("eager", BACKWARD): 40, ("compiled", BACKWARD): 10},
    ),
    Case(
        "linex", "512 x 512, D=512, MRN of 8 components",
        lambda: [randn(512, 512, seed=seed) for seed in range(3)],
        {
            "ours": lambda: _with_following_held_fixed(ours_linex()),
            "eager": lambda: _with_following_held_fixed(plain_linex),
            "compiled": compiled(_with_following_held_fixed(plain_linex)),
        },
        directions=(BACKWARD,),
        aims={("eager", BACKWARD): 40, ("compiled", BACKWARD): 10},
    ),
    Case(
        "contrastive", "streaming, 16,384 x 16,384, D=512, MRN of 8 components",
        lambda: [randn(16_384, 512), randn(16_384, 512, seed=1)],
        {"ours": ours_contrastive},
        directions=(BACKWARD,),
    ),
]  # fmt: skip
# The large one takes minutes: measure_ops.py runs it, the benchmark of every change does not.
QUICK_CASES = CASES[:-1]


@parametrised(QUICK_CASES)
def test_losses(benchmark, case, direction, contender):
    run_benchmark(benchmark, case, direction, contender)
