"""QRL's critic loss with an IQE head as one op, from embeddings to loss; `losses.qrl_critic` calls it."""

from __future__ import annotations

import torch
from torch import Tensor

from ..arguments.iqe import IqeSettings
from ..arguments.qrl_critic import QrlCriticSettings
from ..definitions import qrl_critic as definition
from .autograd import Op
from .registration import Kernel, schema_of


def _composed(
    x: Tensor, y: Tensor, goal: Tensor | None, max_weight: Tensor | None, raw: Tensor, cost: Tensor, *settings
) -> tuple[Tensor, Tensor]:
    settings = QrlCriticSettings(*settings)
    to_goal, local = definition.distances(x, y, goal, max_weight, settings)
    terms = definition.terms(to_goal, local, raw, cost, settings)
    stats = torch.stack([*terms, to_goal.mean(), local.mean()]).detach()
    return definition.loss_of(*terms, settings.threshold), stats


def _backward(run, grad_loss, saved, settings, needs):
    """Returns the gradients of all tensors but cost, which has none."""
    x, _, goal, max_weight, _, _, *kept = saved
    has_goal, iqe = goal is not None, settings[:3]
    grad_x, grad_y, grad_goal, grad_max_weight, grad_raw = run(grad_loss, *kept, max_weight, x, has_goal, *iqe)
    grad_goal = grad_goal if has_goal else None
    return grad_x, grad_y, grad_goal, None if max_weight is None else grad_max_weight, grad_raw, None


# Maps (x, y, goal, max_weight, raw, cost), checked and from max_weight on in the compute dtype, and the fields of
# QrlCriticSettings to loss and stats (backends/reference/qrl_critic.py).
qrl_critic = Op(
    "QrlCritic",
    Kernel(
        "qrl_critic",
        "qrl_critic_forward(Tensor x, Tensor y, Tensor? goal, Tensor? max_weight, Tensor raw, Tensor cost,"
        f" {schema_of(QrlCriticSettings)}, str backend) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
        definition.qrl_critic_forward_outputs,
    ),
    Kernel(
        "qrl_critic",
        "qrl_critic_backward(Tensor grad_loss, Tensor stats, Tensor slopes, Tensor ends, Tensor largest, Tensor spread,"
        f" Tensor? max_weight, Tensor like, bool has_goal, {schema_of(IqeSettings)}, str backend)"
        " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
        definition.qrl_critic_backward_outputs,
    ),
    plain=_composed,
    saved=lambda tensors, outputs: (*tensors, *outputs[1:]),
    backward=_backward,
    num_results=2,
    parameter=3,
    fixed=(5,),
)
