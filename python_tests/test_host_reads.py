"""Nothing waits for the device: ops, losses, heads and updates read no number on the host.

On a GPU such a read waits, and in a CUDA graph it cannot be captured. Here tensors are on torch's device "meta", which
has no numbers to read: a read raises. Its ops are the reference's, or with a dispatch mode the shapes of the kernels'.
"""

from __future__ import annotations

import contextlib

import agent_cases
import head_cases
import op_cases
import op_checks
import pytest
import torch
from torch import Tensor

import qmkernels as qm


def _empty(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta", requires_grad=True)


def _differentiated(out: Tensor, *inputs: Tensor) -> None:
    assert out.device.type == "meta"
    torch.autograd.grad(out.sum(), inputs, allow_unused=True)


def test_a_read_of_a_number_raises():
    for read in (Tensor.item, Tensor.tolist, bool, Tensor.nonzero, lambda tensor: tensor[tensor > 0]):
        with pytest.raises((RuntimeError, NotImplementedError)):
            read(torch.ones(1, device="meta"))


@pytest.mark.parametrize("calls", (contextlib.nullcontext, op_checks.recorded), ids=("reference", "kernels"))
@op_cases.every()
def test_ops_and_losses(case, calls):
    tensors = case.tensors(torch.float32, size=4, rows=9, device="meta")
    function = case.at(4)
    if isinstance(function, torch.nn.Module):
        function = function.to("meta")
    with calls():
        _differentiated(function(*tensors), *(tensor for tensor in tensors if tensor.requires_grad))


@pytest.mark.parametrize("form", ("forward", "pairwise"))
@pytest.mark.parametrize("name", head_cases.HEADS)
def test_heads(name, form):
    head, x, y = head_cases.make(name).to("meta"), _empty(9, head_cases.SIZE), _empty(9, head_cases.SIZE)
    _differentiated(getattr(head, form)(x, y), x, y, *head.parameters())


@pytest.mark.parametrize(
    "function",
    (
        lambda head, x, y: qm.losses.eikonal(head, x, y).loss,
        lambda head, x, y: qm.losses.eikonal(head, x, y, direction=y - x).loss,
        lambda head, x, y: qm.losses.contrastive(head, x, y, label_smoothing=0.1).loss,
        lambda head, x, y: qm.through(x, y, x, metric=head).distances,
    ),
    ids=("eikonal", "eikonal along a direction", "smoothed labels", "through landmarks"),
)
def test_what_has_no_row_of_its_own(function):
    x, y = _empty(33, 12), _empty(33, 12)
    _differentiated(function(qm.nn.LatentMRN(12, 3), x, y), x, y)


@agent_cases.every()
def test_updates_of_agents(case, monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # it knows no such device
    agent = case.make(device="meta")
    batch = {name: value.to("meta") for name, value in case.rows(agent).items()}
    with op_checks.recorded():  # the kernels' shapes, which take less time than the reference
        metrics = agent.update(batch)
    assert all(value.device.type == "meta" for value in metrics.values())
