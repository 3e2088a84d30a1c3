"""METRA's loss as one op: embeddings to loss, and back. `losses.metra` calls it."""

from __future__ import annotations

from torch import Tensor

from ..definitions import metra as definition
from ..definitions.metra import MetraSettings
from .kernel_function import on_backend
from .loss_function import loss_function
from .registration import register


def _fake_forward(phi, phi_next, skill, log_multiplier, slack, norm, backend):
    rows = phi.shape[:-1]
    return phi.new_empty(()), phi.new_empty(rows), phi.new_empty(3), phi.new_empty(rows)


def _fake_backward(grad_loss, phi, phi_next, skill, stats, slopes, needs_skill, backend):
    shapes = (phi.shape, phi.shape, phi.shape if needs_skill else (0,), ())
    return tuple(phi.new_empty(shape) for shape in shapes)


metra_forward = register(
    "metra_forward(Tensor phi, Tensor phi_next, Tensor skill, Tensor log_multiplier, float slack, str norm,"
    " str backend) -> (Tensor, Tensor, Tensor, Tensor)",
    on_backend("metra", "metra_forward"),
    _fake_forward,
)
metra_backward = register(
    "metra_backward(Tensor grad_loss, Tensor phi, Tensor phi_next, Tensor skill, Tensor stats, Tensor slopes,"
    " bool needs_skill, str backend) -> (Tensor, Tensor, Tensor, Tensor)",
    on_backend("metra", "metra_backward"),
    _fake_backward,
)


def composed(phi: Tensor, phi_next: Tensor, skill: Tensor, log_multiplier: Tensor, *settings) -> Tensor:
    """The loss in plain PyTorch, for derivatives of derivatives."""
    settings = MetraSettings(*settings)
    step = phi_next - phi
    squared = definition.squared_distance(step, settings.norm)
    terms = definition.terms(step, skill, squared, log_multiplier, settings.slack)
    return definition.loss_of(*terms, log_multiplier)


def _gradients(grad_loss, tensors, kept, settings, needs):
    return metra_backward(grad_loss, *tensors[:3], *kept, needs[2], settings[-1])


_metra = loss_function("Metra", metra_forward, _gradients, composed, num_tensors=4, kept_from=2)


def metra(
    phi: Tensor, phi_next: Tensor, skill: Tensor, log_multiplier: Tensor, settings: MetraSettings, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, reward and stats (backends/reference/metra.py) of checked arguments in the dtype of computation."""
    return _metra(phi, phi_next, skill, log_multiplier, *settings, backend)[:3]
