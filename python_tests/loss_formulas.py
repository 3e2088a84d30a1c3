"""Every loss beside its formula in plain PyTorch, with a matrix of distances; rows, heads and gradients to compare."""

import math

import torch
from torch.nn import functional

import qmkernels as qm

BATCH, DIM, SIZE = 6, 12, 4


def head_of(kind="iqe", dtype=torch.float64):
    torch.manual_seed(0)
    if kind == "iqe":
        return qm.nn.IQE(DIM, SIZE).to(dtype)
    if kind == "mrn":
        return qm.nn.LatentMRN(DIM, preset="tmd", num_components=2).to(dtype)
    return lambda x, y: qm.iqe(x, y, SIZE, reduction="sum")


def rows(count, *shape, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, dtype=dtype, generator=generator).requires_grad_() for _ in range(count)]


def scalar(value=0.3, dtype=torch.float64):
    return torch.tensor(value, dtype=dtype, requires_grad=True)


def clipped_divergence(distance, following, log_discount, clip=3.0):
    delta = distance - following
    return torch.where(delta > clip, delta, torch.exp(delta.clamp(max=clip) + log_discount) - distance)


def plain_qrl_critic(head, x, y, raw):
    push = torch.log1p(torch.exp(0.1 * (15 - head(x, y.roll(1, dims=0))))).mean() / 0.1
    excess = (head(x, y) - 1).clamp(min=0).square().mean() - 0.25**2
    return push + torch.log1p(raw.exp()) * excess


def matrix_of(head, x, y):
    """Computes all pairs as matching rows, by kernels that know nothing of matrices."""
    return head(x.repeat_interleave(len(y), dim=0), y.repeat(len(x), 1)).view(len(x), len(y))


def plain_contrastive(
    head, x, y, direction="backward", form="softmax", logsumexp_weight=0.0, smoothing=0.0, near=None, potential=0.0
):
    logits = (potential - matrix_of(head, x, y)) / math.sqrt(DIM)
    is_match = torch.eye(*logits.shape, dtype=logits.dtype)
    if form == "sigmoid":
        return functional.binary_cross_entropy_with_logits(logits, is_match)
    left_out = torch.zeros_like(is_match, dtype=torch.bool) if near is None else near & (is_match == 0)
    others = (~left_out & (is_match == 0)).to(logits.dtype)

    def of_side(logits, is_match, others, left_out):
        targets = (1 - smoothing) * is_match + smoothing / others.sum(dim=1, keepdim=True).clamp(min=1) * others
        logits = logits.masked_fill(left_out, -torch.inf)
        cross_entropy = -(targets * logits.log_softmax(dim=1).masked_fill(left_out, 0.0)).sum(dim=1).mean()
        return cross_entropy + logsumexp_weight * logits.logsumexp(dim=1).square().mean()

    of_states = logits, is_match, others, left_out
    of_goals = [matrix[:, : len(x)].T for matrix in of_states]
    sides = {"backward": [of_goals], "forward": [of_states], "symmetric": [of_states, of_goals]}[direction]
    return sum(of_side(*side) for side in sides) / len(sides)


# Goals 0, 1 and 5, and 3 and 4, are near: of one clip, and within a step.
CLIP, TIME = torch.tensor([2**40, 2**40, 2**40, -7, -7, 2**40]), torch.tensor([3, 4, 9, 4, 5, 2])
NEAR = (CLIP[:, None] == CLIP) & ((TIME[:, None] - TIME).abs() <= 1)


LOG_DISCOUNT = math.log(0.99)


def plain_linex(head, x, y, following, log_discount=LOG_DISCOUNT):
    divergence = clipped_divergence(matrix_of(head, x, y), matrix_of(head, following, y).detach(), log_discount)
    return 0.5 * divergence.mean() + 0.5 * divergence.diagonal().mean()


def plain_tmd(head, phi, psi, psi_next, psi_goal):
    action = head(psi, phi).mean()
    temporal = plain_linex(head, phi, psi_goal, psi_next)
    return plain_contrastive(head, phi, psi_goal) + action + 0.05 * temporal


def _euclidean(x, y):
    return (x - y).square().sum(dim=-1).sqrt()


def plain_metric(z, z_next, head=_euclidean):
    distance = matrix_of(head, z, z_next)
    others = ~torch.eye(len(z), dtype=torch.bool)
    return (distance.diagonal() - 1).square().mean() - torch.log(distance[others] + 1e-6).mean()


LOSSES = {
    "qrl_critic": (2, True, qm.losses.qrl_critic, plain_qrl_critic),
    "dynamics": (
        2, False,
        lambda head, x, y: qm.losses.latent_dynamics(head, x, y),
        lambda head, x, y: 0.5 * (head(x, y).square() + head(y, x).square()).mean(),
    ),
    "dynamics, power 1": (
        2, False,
        lambda head, x, y: qm.losses.latent_dynamics(head, x, y, power=1),
        lambda head, x, y: 0.5 * (head(x, y) + head(y, x)).mean(),
    ),
    **{
        f"contrastive {direction}": (
            2, False,
            lambda head, x, y, d=direction: qm.losses.contrastive(head, x, y, direction=d, logsumexp_weight=0.1),
            lambda head, x, y, d=direction: plain_contrastive(head, x, y, d, logsumexp_weight=0.1),
        )
        for direction in ("backward", "forward", "symmetric")
    },
    "contrastive smoothed": (
        2, False,
        lambda head, x, y: qm.losses.contrastive(head, x, y, direction="symmetric", label_smoothing=0.1),
        lambda head, x, y: plain_contrastive(head, x, y, "symmetric", smoothing=0.1),
    ),
    **{
        f"contrastive {direction} without near goals": (
            2, False,
            lambda head, x, y, d=direction: qm.losses.contrastive(
                head, x, y, direction=d, label_smoothing=0.1, logsumexp_weight=0.1, exclude=(CLIP, TIME, 1)
            ),
            lambda head, x, y, d=direction: plain_contrastive(head, x, y, d, "softmax", 0.1, 0.1, NEAR),
        )
        for direction in ("backward", "symmetric")
    },
    "contrastive with CMD's potential": (
        2, False,
        lambda head, x, y: qm.losses.contrastive(
            head, x, y, direction="forward", logsumexp_weight=0.01, potential=y.square().sum(dim=-1)
        ),
        lambda head, x, y: plain_contrastive(head, x, y, "forward", "softmax", 0.01, potential=y.square().sum(dim=-1)),
    ),
    "contrastive sigmoid": (
        2, False,
        lambda head, x, y: qm.losses.contrastive(head, x, y, form="sigmoid"),
        lambda head, x, y: plain_contrastive(head, x, y, form="sigmoid"),
    ),
    "linex": (
        3, False,
        lambda head, x, y, n: qm.losses.linex(head, x, y, n, log_discount=LOG_DISCOUNT),
        plain_linex,
    ),
    "tmd": (4, False, qm.losses.tmd_critic, plain_tmd),
    "tmd, MQE's invariance": (
        4, False,
        lambda head, *embeddings: qm.losses.tmd_critic(head, *embeddings, invariance="exp_squared"),
        lambda head, phi, psi, *others: plain_tmd(head, phi, psi, *others)
        + ((-head(psi, phi)).exp() - 1).square().mean() - head(psi, phi).mean(),
    ),
    "metra": (
        3, True,
        lambda head, x, y, z, raw: qm.losses.metra(x, y, z, raw),
        lambda head, x, y, z, raw: (
            -((y - x) * z).sum(dim=-1).mean()
            - raw.detach().exp() * (1 - (y - x).square().sum(dim=-1)).clamp(max=1e-3).mean()
            + raw * (1 - (y - x).square().sum(dim=-1)).clamp(max=1e-3).mean().detach()
        ),
    ),
    "metra with a head": (
        3, True,
        lambda head, x, y, z, raw: qm.losses.metra(x, y, z, raw, head=head),
        lambda head, x, y, z, raw: (
            -((y - x) * z).sum(dim=-1).mean()
            - raw.detach().exp() * (1 - head(x, y).square()).clamp(max=1e-3).mean()
            + raw * (1 - head(x, y).square()).clamp(max=1e-3).mean().detach()
        ),
    ),
    "metric": (
        2, False, lambda head, x, y: qm.losses.metric_contrastive(x, y), lambda head, x, y: plain_metric(x, y)
    ),
    "coulomb": (
        1, False,
        lambda head, z: qm.losses.coulomb_repulsion(head, z, eps=0.2),
        lambda head, z: (1 / (matrix_of(head, z, z)[~torch.eye(len(z), dtype=torch.bool)] + 0.2)).mean(),
    ),
    "metric with a head": (
        2, False,
        lambda head, x, y: qm.losses.metric_contrastive(x, y, head=head),
        lambda head, x, y: plain_metric(x, y, head),
    ),
}  # fmt: skip


def leaves_of(name, dtype=torch.float64, seed=0):
    count, with_multiplier, *_ = LOSSES[name]
    return [*rows(count, BATCH, DIM, dtype=dtype, seed=seed), *([scalar(dtype=dtype)] if with_multiplier else [])]


def gradients(loss, leaves, head):
    """Returns the gradients by the leaves and the head's parameters; zeros where there is none."""
    inputs = [*leaves, *(head.parameters() if isinstance(head, torch.nn.Module) else ())]
    grads = torch.autograd.grad(loss, inputs, allow_unused=True)
    return [torch.zeros_like(tensor) if grad is None else grad for tensor, grad in zip(inputs, grads, strict=True)]
