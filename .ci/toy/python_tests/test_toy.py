"""The toy op against its formula on every backend."""

import pytest
import torch

import qmkernels as qm


@pytest.mark.parametrize("shapes", [((7, 5), (7, 5)), ((3, 1, 33), (4, 33)), ((16,), (16,)), ((0, 4), (0, 4))])
def test_the_op_equals_its_formula(shapes, backend):
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes)
    out, expected = qm.toy(x, y, 0.7), 0.7 * (x - y).abs().sum(dim=-1)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(*(torch.autograd.grad(one.square().sum(), (x, y)) for one in (out, expected)))
