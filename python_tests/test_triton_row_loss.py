"""The Triton functions of losses over rows, on a GPU where there is one, else under the interpreter."""

from __future__ import annotations

import pytest
import torch
from backend_comparison import HALF, assert_alike, assert_same, with_special_values
from triton_testing import DEVICE, assert_rounded, import_kernels, interpreted, points

import qmkernels as qm
from qmkernels.arguments.iqe import IqeSettings
from qmkernels.arguments.mrn import MrnSettings
from qmkernels.arguments.row_loss import RowLossSettings
from qmkernels.backends.reference import row_loss as reference

kernels = import_kernels("row_loss")
pytestmark = interpreted

FORMS = [
    RowLossSettings("smooth_l1", beta=0.7), RowLossSettings("smooth_l1", beta=0.0), RowLossSettings("squared"),
    RowLossSettings("relative"), RowLossSettings("upper"), RowLossSettings("apart"),
    RowLossSettings("apart", power=2.0), RowLossSettings("apart", power=1.5),
    RowLossSettings("expectile", expectile=0.9), RowLossSettings("expectile", expectile=0.2, huber_delta=0.8),
]  # fmt: skip
MRN = MrnSettings(num_components=3, eps=1e-6, reduction="mean")
HEADS = [IqeSettings(5, "maxmean", "sigmoid"), IqeSettings(5, "max"), IqeSettings(15, "sum"), MRN]


def _rows(rows, dtype, with_others=True, size=15):
    """Makes x and y, and target, weight and mask; rows that the mask leaves out have no valid target."""
    x, y = (0.4 * side for side in points(rows, size=size, dtype=dtype))
    target = torch.linspace(0.1, 3, rows, dtype=dtype, device=DEVICE)
    if not with_others:
        return x, y, target[:1].contiguous(), None, None
    mask = (torch.arange(rows, device=DEVICE) % 3 != 1).to(dtype)
    return x, y, target.where(mask != 0, -1.0), torch.linspace(0.5, 2, rows, dtype=dtype, device=DEVICE), mask


def _agree(head, form, x, y, *others):
    """Compares all that both functions return, and returns the loss and the slopes."""
    grad_loss = torch.tensor(-1.7, dtype=x.dtype, device=DEVICE)
    if head is MRN:
        inputs = x, y, *others, *MRN, *form
        kept = reference.row_loss_mrn_forward(*inputs)
        assert_alike(kernels.row_loss_mrn_forward(*inputs), kept)
        arguments = grad_loss, kept[2], x, y, *MRN
        assert_alike(kernels.row_loss_mrn_backward(*arguments), reference.row_loss_mrn_backward(*arguments))
    else:
        max_weight = torch.tensor(0.3, dtype=x.dtype, device=DEVICE) if head.reduction == "maxmean" else None
        inputs = x, y, max_weight, *others, *head, *form
        kept = reference.row_loss_iqe_forward(*inputs)
        assert_alike(kernels.row_loss_iqe_forward(*inputs), kept)
        # As ops do, empty tensors for what is not kept.
        kept = [torch.empty(0, device=DEVICE) if tensor is None else tensor for tensor in kept]
        arguments = grad_loss, *kept[2:], max_weight, x, *head
        assert_alike(kernels.row_loss_iqe_backward(*arguments), reference.row_loss_iqe_backward(*arguments))
    return kept[0], kept[2]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_every_form_is_that_of_the_reference(form):
    _agree(MRN, form, *_rows(20, torch.float64))


@pytest.mark.parametrize("with_others", (True, False), ids=("weight and mask", "one target"))
@pytest.mark.parametrize("rows, dtype", ((1, torch.float64), (70, torch.float32)))  # one, and more than a program's
@pytest.mark.parametrize("head", HEADS, ids=str)
def test_any_number_of_rows_is_added_up(head, rows, dtype, with_others):
    assert kernels.row_tile(3, 5)["ROWS"] < 70
    _agree(head, FORMS[0], *_rows(rows, dtype, with_others))


@pytest.mark.parametrize("reduction, dtype", (("maxmean", torch.float32), ("sum", torch.float64)))
def test_long_components_give_what_the_reference_gives(reduction, dtype):
    _agree(IqeSettings(33, reduction, "sigmoid"), FORMS[0], *_rows(7, dtype, size=66))


@pytest.mark.parametrize("head", HEADS[::3], ids=("iqe", "mrn"))
def test_what_is_left_out_or_not_finite_gives_what_the_reference_gives(head):
    x, y, target, weight, mask = _rows(9, torch.float64)
    loss, slopes = _agree(head, RowLossSettings(), x, y, target, weight, torch.zeros_like(mask))
    assert loss == 0 and not slopes.any()
    x[2, 3], target[3] = torch.inf, torch.nan
    for form in (RowLossSettings(), FORMS[-1]):
        _agree(head, form, x, y, target, weight, mask)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("head", HEADS[::3], ids=("iqe", "mrn"))
def test_rows_in_half_precision_give_the_numbers_of_float32(head, dtype):
    _, _, *others = _rows(9, torch.float32)
    form = RowLossSettings()
    grad_loss, weight = torch.tensor(-1.7, device=DEVICE), torch.tensor(0.3, device=DEVICE)
    for prepared in (lambda x, y: (x, y), with_special_values):
        x, y = prepared(*points(9, size=15, dtype=dtype))
        results = []
        for rows in ((x, y), (x.float(), y.float())):
            if head is MRN:
                kept = kernels.row_loss_mrn_forward(*rows, *others, *MRN, *form)
                grads = kernels.row_loss_mrn_backward(grad_loss, kept[2], *rows, *MRN)
            else:
                kept = kernels.row_loss_iqe_forward(*rows, weight, *others, *head, *form)
                grads = kernels.row_loss_iqe_backward(grad_loss, *kept[2:], weight, rows[0], *head)
            results.append((kept, grads[:2]))
        (kept, grads), (expected, exact) = results
        assert_same(kept, expected)
        assert_rounded(grads, exact, dtype)


def test_public_function_runs_on_this_backend():
    x, y = (side.requires_grad_() for side in points(9, size=24, dtype=torch.float64))
    steps = torch.arange(9, device=DEVICE) + 1
    head = qm.nn.IQE(24, 8).to(DEVICE, torch.float64)
    results = []
    for backend in ("triton", "reference"):
        with qm.use_backend(backend):
            result = qm.losses.step_gap(head, x, y, steps)
        grads = torch.autograd.grad(result.loss, [x, y, *head.parameters()])
        results.append((*(tensor.detach() for tensor in result), *grads))
    assert_alike(*results)
