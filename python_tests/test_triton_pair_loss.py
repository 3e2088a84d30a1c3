"""The Triton functions of losses over a matrix of distances, on a GPU or else under the interpreter."""

from __future__ import annotations

import far_rows
import pytest
import torch
from backend_comparison import DTYPES, assert_alike
from triton_testing import DEVICE, import_kernels, interpreted

import qmkernels as qm
from qmkernels.arguments.pair_loss import KINDS, SOFTMAXES, PairLossSettings
from qmkernels.backends.reference import pair_loss as reference

kernels = import_kernels("pair_loss")
pytestmark = interpreted

# One tile, tiles that rows and columns do not fill, columns without a match.
SHAPES = [(1, 1, 1, 0), (2, 7, 7, 0), (2, 33, 150, 5)]
TERMS = [(kind, terms) for kind in KINDS for terms in ("alone", "linex", "linex per row")]
TERMS += [(kind, "near") for kind in SOFTMAXES]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind, terms", TERMS)
@pytest.mark.parametrize("shape", SHAPES)
def test_forward_and_backward_return_what_the_reference_returns(shape, kind, terms, dtype):
    *shape, offset = shape
    generator = torch.Generator().manual_seed(sum(shape))
    distance, after = (6 * torch.rand(2, *shape, generator=generator, dtype=torch.float64)).to(DEVICE, dtype)
    discounts = -torch.rand(shape[:2], generator=generator, dtype=torch.float64).to(DEVICE, dtype)
    places = torch.randint(0, shape[2], (shape[0], shape[2]), dtype=torch.int32, generator=generator).to(DEVICE)
    tensors = (
        distance,
        after if terms.startswith("linex") else None,
        discounts if terms == "linex per row" else None,
        places if terms == "near" else None,
    )
    form = PairLossSettings(kind, 0.7, 0.1, 0.7, 2.0, 0.4, -0.1, 1.3, 0.6, offset, 0.3, shape[2] // 4)
    actual, expected = (module.pair_loss_forward(*tensors, *form) for module in (kernels, reference))
    assert_alike(actual, expected)
    grad = distance.new_tensor(0.37)
    grads = [module.pair_loss_backward(grad, *tensors, *expected[2:], *form) for module in (kernels, reference)]
    assert_alike(*((tensor,) for tensor in grads))


@pytest.mark.parametrize("kind, far, scale", far_rows.CASES)
def test_one_row_that_is_far_from_all_costs_the_others_no_digits(kind, far, scale):
    far_rows.check_kernels(kernels, kind, far, scale, DEVICE)


def test_public_function_runs_on_this_backend():
    head = qm.nn.IQE(16, 8).to(DEVICE)
    x, y = torch.randn(2, 9, 16, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    results = []
    for backend in ("triton", "reference"):
        leaf = x.clone().requires_grad_()
        with qm.use_backend(backend):
            loss = qm.losses.contrastive(head, leaf, y, direction="symmetric")
            results.append((*loss, *torch.autograd.grad(loss.loss, leaf)))
    assert_alike(*([tensor.detach() for tensor in result] for result in results))
