"""METRA's loss as one op, from embeddings to loss; `losses.metra` calls it.

Copy this op to add a loss: csrc/README.md lists the files. A loss returns a scalar and diagnostics, keeps what its
backward kernel needs, and gets higher derivatives from ``plain``, the same loss in plain PyTorch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..arguments.metra import MetraSettings
from ..definitions import metra as definition
from .autograd import Op
from .registration import Kernel, schema_of


def composed(
    phi: Tensor, phi_next: Tensor, skill: Tensor, log_multiplier: Tensor, *settings
) -> tuple[Tensor, Tensor, Tensor]:
    """Computes loss, reward and stats in plain PyTorch."""
    settings = MetraSettings(*settings)
    step = phi_next - phi
    squared = definition.squared_distance(step, settings.norm)
    terms = definition.terms(step, skill, squared, log_multiplier, settings.slack)
    reward, constraint, multiplier = terms
    stats = torch.stack([constraint, multiplier, squared.mean()]).detach()
    return definition.loss_of(*terms, log_multiplier), reward.detach(), stats


def _backward(run, grad_loss, saved, settings, needs):
    phi, phi_next, skill, _, stats, slopes = saved
    return run(grad_loss, phi, phi_next, skill, stats, slopes, needs[2])


# Maps (phi, phi_next, skill, log_multiplier), checked, the last in the compute dtype, and the fields of MetraSettings
# to loss, reward and stats (backends/reference/metra.py).
metra = Op(
    "Metra",
    Kernel(
        "metra",
        "metra_forward(Tensor phi, Tensor phi_next, Tensor skill, Tensor log_multiplier,"
        f" {schema_of(MetraSettings)}, str backend) -> (Tensor, Tensor, Tensor, Tensor)",
        definition.metra_forward_outputs,
    ),
    Kernel(
        "metra",
        "metra_backward(Tensor grad_loss, Tensor phi, Tensor phi_next, Tensor skill, Tensor stats, Tensor slopes,"
        " bool needs_skill, str backend) -> (Tensor, Tensor, Tensor, Tensor)",
        definition.metra_backward_outputs,
    ),
    plain=composed,
    saved=lambda tensors, outputs: (*tensors, *outputs[2:]),
    backward=_backward,
    num_results=3,
)
