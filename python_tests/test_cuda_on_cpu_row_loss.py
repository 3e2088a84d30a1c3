"""The CUDA kernels of the losses over rows on a CPU (cuda_on_cpu.py) against backends/reference."""

from __future__ import annotations

import pytest
import torch
from backend_comparison import HALF, assert_alike, assert_same, points, with_special_values
from cuda_on_cpu import check_half_without_a_copy, kernels, needs_compiler

import qmkernels as qm
from qmkernels.arguments.iqe import IqeSettings
from qmkernels.arguments.mrn import MrnSettings
from qmkernels.arguments.row_loss import RowLossSettings
from qmkernels.backends.native import row_loss as native
from qmkernels.backends.reference import row_loss as reference

pytestmark = needs_compiler
row_loss_kernels = kernels("row_loss", "iqe", "mrn")

FORMS = [
    RowLossSettings("smooth_l1", beta=0.7), RowLossSettings("smooth_l1", beta=0.0), RowLossSettings("squared"),
    RowLossSettings("relative"), RowLossSettings("upper"), RowLossSettings("apart"),
    RowLossSettings("apart", power=2.0), RowLossSettings("apart", power=1.5),
    RowLossSettings("expectile", expectile=0.9), RowLossSettings("expectile", expectile=0.2, huber_delta=0.8),
]  # fmt: skip
IQE = IqeSettings(5, "maxmean", "sigmoid")
MRN = MrnSettings(num_components=3, eps=1e-6, reduction="mean")


def _rows(rows, dtype, with_others=True):
    """Makes x and y, and target, weight and mask."""
    x, y = points(rows, size=15, dtype=dtype)
    x, y = 0.4 * x, 0.4 * y  # sums of squares within the tolerance of distances
    mask = (torch.arange(rows) % 3 != 1).to(dtype)
    target = torch.linspace(0.1, 3, rows, dtype=dtype)
    if not with_others:
        return x, y, target[:1].contiguous(), None, None
    return x, y, target.where(mask != 0, -1.0), torch.linspace(0.5, 2, rows, dtype=dtype), mask


def _agree(head, rows, dtype, form, *options):
    x, y, *others = _rows(rows, dtype, *options)
    grad_loss = torch.tensor(-1.7, dtype=dtype)
    if head == "iqe":
        inputs = x, y, torch.tensor(0.3, dtype=dtype), *others, *IQE, *form
        kept = reference.row_loss_iqe_forward(*inputs)
        assert_alike(native.row_loss_iqe_forward(*inputs), kept)
        arguments = grad_loss, *kept[2:], inputs[2], x, *IQE
        assert_alike(native.row_loss_iqe_backward(*arguments), reference.row_loss_iqe_backward(*arguments))
    else:
        inputs = x, y, *others, *MRN, *form
        kept = reference.row_loss_mrn_forward(*inputs)
        assert_alike(native.row_loss_mrn_forward(*inputs), kept)
        arguments = grad_loss, kept[2], x, y, *MRN
        assert_alike(native.row_loss_mrn_backward(*arguments), reference.row_loss_mrn_backward(*arguments))


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("head, dtype", (("iqe", torch.float32), ("mrn", torch.float64)))
def test_the_loss_and_its_gradients_agree_with_the_reference(head, dtype, form):
    _agree(head, 47, dtype, form)


@pytest.mark.parametrize("with_others", (True, False), ids=("weight and mask", "one target"))
@pytest.mark.parametrize("rows", (1, 2, 600))  # more rows than threads that sum them
@pytest.mark.parametrize("head", ("iqe", "mrn"))
def test_any_number_of_rows_is_added_up(head, rows, with_others):
    _agree(head, rows, torch.float64, RowLossSettings(), with_others)


def test_without_a_row_left_loss_and_slopes_are_zero():
    x, y, target, weight, mask = _rows(9, torch.float32)
    results = native.row_loss_mrn_forward(x, y, target, weight, torch.zeros_like(mask), *MRN, *RowLossSettings())
    assert not any(value.any() for value in results)


def test_nan_reaches_the_loss_and_only_its_rows_slope():
    x, y, target, weight, mask = _rows(9, torch.float32)
    target[3] = torch.nan
    loss, _, slopes = native.row_loss_mrn_forward(x, y, target, weight, mask, *MRN, *RowLossSettings())
    assert loss.isnan()
    assert slopes.isnan().nonzero().tolist() == [[3]]


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("head", ("iqe", "mrn"))
def test_rows_in_half_precision_give_the_numbers_of_float32(head, dtype):
    _, _, *others = _rows(9, torch.float32)
    grad_loss, form, weight = torch.tensor(-1.7), RowLossSettings(), torch.tensor(0.3)
    for prepared in (lambda x, y: (x, y), with_special_values):
        x, y = prepared(*points(9, size=15, dtype=dtype))
        results = []
        for rows in ((x, y), (x.float(), y.float())):
            if head == "iqe":
                kept = native.row_loss_iqe_forward(*rows, weight, *others, *IQE, *form)
                grads = native.row_loss_iqe_backward(grad_loss, *kept[2:], weight, rows[0], *IQE)
            else:
                kept = native.row_loss_mrn_forward(*rows, *others, *MRN, *form)
                grads = native.row_loss_mrn_backward(grad_loss, kept[2], *rows, *MRN)
            results.append((kept, grads[:2]))
        (kept, grads), (expected, exact) = results
        assert_same(kept, expected)
        assert_same(grads, (grad.to(dtype) for grad in exact))


@pytest.mark.parametrize("head", (qm.nn.IQE(24, 8), qm.nn.LatentMRN(24)), ids=("iqe", "mrn"))
def test_half_precision_reaches_the_kernels_without_a_copy(head, monkeypatch):
    x, y = points(5, size=24, dtype=torch.float32)
    check_half_without_a_copy(monkeypatch, lambda x, y: qm.losses.step_gap(head, x, y, 2.0).loss, x=x, y=y)
