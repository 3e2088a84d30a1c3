"""QRL's latent dynamics loss with an IQE head as one op, from embeddings to loss; `losses.latent_dynamics` calls it."""

from __future__ import annotations

from torch import Tensor

from ..arguments.iqe import IqeSettings
from ..arguments.latent_dynamics import LatentDynamicsSettings
from ..definitions import latent_dynamics as definition
from .autograd import Op
from .registration import Kernel, schema_of


def _composed(predicted: Tensor, target: Tensor, max_weight: Tensor | None, *settings) -> tuple[Tensor, Tensor]:
    settings = LatentDynamicsSettings(*settings)
    both = definition.distances(predicted, target, max_weight, settings)
    return definition.loss_of(both, settings.power), both.detach().mean(dim=1)


def _backward(run, grad_loss, saved, settings, needs):
    predicted, _, max_weight, *kept = saved
    iqe = settings[:3]
    grad_predicted, grad_target, grad_max_weight = run(grad_loss, *kept, max_weight, predicted, *iqe)
    return grad_predicted, grad_target, None if max_weight is None else grad_max_weight


# Maps (predicted, target, max_weight), checked, max_weight in the compute dtype, and the fields of
# LatentDynamicsSettings to loss and stats (backends/reference/latent_dynamics.py).
latent_dynamics = Op(
    "LatentDynamics",
    Kernel(
        "latent_dynamics",
        "latent_dynamics_forward(Tensor predicted, Tensor target, Tensor? max_weight,"
        f" {schema_of(LatentDynamicsSettings)}, str backend) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
        definition.latent_dynamics_forward_outputs,
    ),
    Kernel(
        "latent_dynamics",
        "latent_dynamics_backward(Tensor grad_loss, Tensor slopes, Tensor ends, Tensor largest, Tensor spread,"
        f" Tensor? max_weight, Tensor like, {schema_of(IqeSettings)}, str backend) -> (Tensor, Tensor, Tensor)",
        definition.latent_dynamics_backward_outputs,
    ),
    plain=_composed,
    saved=lambda tensors, outputs: (*tensors, *outputs[2:]),
    backward=_backward,
    num_results=2,
    parameter=2,
)
