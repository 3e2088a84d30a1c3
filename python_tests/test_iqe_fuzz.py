"""2,400 random cases of shape, stride, dtype, K, reduction and form against the reference, the same in every run."""

import math
import random

import pytest
import torch

import qmkernels as qm
from qmkernels.definitions import iqe as definition

CASES_PER_SEED = 100
REDUCTIONS = ("none", "sum", "mean", "max", "maxmean")
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-5, torch.float16: 1e-5}


def random_strides(tensor, chance):
    """The same values laid out otherwise: transposed, sliced out of something larger, or offset."""
    kind = chance.randrange(4)
    if kind == 1 and tensor.dim() > 1:
        return tensor.transpose(0, -1).contiguous().transpose(0, -1)
    if kind == 2:
        return torch.stack([tensor, tensor + 1], dim=-1)[..., 0]
    if kind == 3:
        return torch.cat([tensor.new_zeros(3), tensor.flatten()])[3:].view(tensor.shape)
    return tensor


def random_case(chance):
    size = chance.choice([1, 2, 3, 4, 5, 8, 8, 11, 16, 16, 32, 33, 64, 100, chance.randrange(1, 80)])
    num_components = chance.choice([1, 2, 3, 8, 17, 33])
    while size * num_components > 700:
        num_components = max(1, num_components // 2)
    dtype = chance.choice(list(TOLERANCE))
    form = chance.choice(["elementwise", "broadcast", "pairwise"])
    rows = [chance.choice([0, 1, 1, 2, 5, 9, 17, 40]) for _ in range(2)]
    batch = [chance.choice([1, 2, 3]) for _ in range(chance.randrange(2))]
    dim = size * num_components
    if form == "elementwise":
        x_shape = y_shape = (*batch, rows[0], dim)
    elif form == "broadcast":
        leading = (*batch, *rows)
        x_shape = (*(chance.choice([1, n]) for n in leading), dim)
        y_shape = (*(n if chance.random() < 0.5 else 1 for n in leading), dim)
    else:
        x_shape, y_shape = (*batch, rows[0], dim), (*batch, rows[1], dim)
    generator = torch.Generator().manual_seed(chance.randrange(2**31))
    scale = chance.choice([1.0, 1.0, 100.0])
    x, y = (
        random_strides((scale * torch.randn(shape, generator=generator)).to(dtype), chance)
        for shape in (x_shape, y_shape)
    )
    return form, x, y, size, chance.choice(REDUCTIONS)


@pytest.mark.parametrize("seed", range(24))
def test_random_cases_agree_with_the_reference(seed):
    chance = random.Random(seed)
    for number in range(CASES_PER_SEED):
        form, x, y, size, reduction = random_case(chance)
        label = f"case {number}: {form} {tuple(x.shape)} {tuple(y.shape)} {x.dtype} K={size} {reduction}"
        compute = x.dtype if x.dtype == torch.float64 else torch.float32
        leaves = [t.detach().requires_grad_() for t in (x, y)]
        weight = torch.tensor(chance.random(), dtype=compute, requires_grad=True) if reduction == "maxmean" else None
        leaves += [] if weight is None else [weight]
        op = qm.iqe_pairwise if form == "pairwise" else qm.iqe
        out = op(*leaves[:2], size, reduction=reduction, max_weight=weight, backend="cpu")

        exact = [t.detach().double().requires_grad_() for t in leaves]
        pair = (exact[0].unsqueeze(-2), exact[1].unsqueeze(-3)) if form == "pairwise" else exact[:2]
        expected = definition.iqe(*pair, size, reduction=reduction, max_weight=exact[2] if weight is not None else None)
        assert out.dtype == compute and out.shape == expected.shape, label
        tolerance = TOLERANCE[x.dtype] * max(1.0, expected.detach().abs().max().item() if expected.numel() else 1.0)
        torch.testing.assert_close(
            out.double(), expected, atol=tolerance, rtol=0, msg=lambda m, case=label: f"{case}\n{m}"
        )

        grad = torch.randn(out.shape, dtype=torch.float64)
        actual_grads = torch.autograd.grad(out, leaves, grad.to(compute))
        expected_grads = torch.autograd.grad(expected, exact, grad)
        for name, leaf, mine, theirs in zip("xyw", leaves, actual_grads, expected_grads, strict=False):
            assert mine.dtype == leaf.dtype and mine.shape == leaf.shape, label
            # Half gradients are rounded once to their dtype, and at ties, common in half, only sums are determined.
            if x.dtype in (torch.bfloat16, torch.float16) and name != "w":
                assert math.isclose(
                    mine.double().sum().item(), theirs.sum().item(), abs_tol=0.02 * (1 + theirs.abs().sum().item())
                ), label
                continue
            bound = TOLERANCE[x.dtype] * max(1.0, theirs.abs().max().item() if theirs.numel() else 1.0) * 10
            bound *= max(1.0, expected.detach().abs().max().item()) if name == "w" and expected.numel() else 1.0
            bound *= math.sqrt(max(1, out.numel())) if name == "w" else 1.0
            torch.testing.assert_close(
                mine.double(), theirs, atol=bound, rtol=0, msg=lambda m, case=label, n=name: f"{case} grad {n}\n{m}"
            )
