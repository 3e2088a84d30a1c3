"""METRA's loss as one op, from embeddings to loss."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from ..arguments.metra import MetraSettings
from .batching import one_by_one
from .kernel_call import Op, Result


def _definition(
    phi: Array, phi_next: Array, skill: Array, log_multiplier: Array, settings: MetraSettings
) -> tuple[Array, Array, Array]:
    step = phi_next - phi
    squares = jnp.square(step)
    squared = squares.sum(axis=-1) if settings.norm == "sum" else squares.mean(axis=-1)
    reward = (step * skill).sum(axis=-1)
    slack = 1 - squared
    constraint = jnp.where(slack > settings.slack, settings.slack, slack).mean()
    multiplier = jax.lax.stop_gradient(jnp.exp(log_multiplier))
    loss = -reward.mean() - multiplier * constraint + log_multiplier * jax.lax.stop_gradient(constraint)
    return loss, reward, jnp.stack([constraint, multiplier, squared.mean()])


# Maps phi, phi_next and skill (R, D) and log_multiplier () to loss, reward and stats (backends/reference/metra.py).
metra = Op(
    "metra", num_wrt=4, num_results=4, num_outputs=3,
    results=lambda phi, phi_next, skill, log_multiplier, settings: [
        Result(shape, phi.dtype) for shape in ((), phi.shape[:1], (3,), phi.shape[:1])
    ],
    attributes=lambda phi, phi_next, skill, log_multiplier, settings: dict(
        rows=phi.shape[0], dim=phi.shape[1], **settings._asdict()
    ),
    backward_arguments=lambda grad, inputs, others: [grad, *inputs[:3], *others[1:]],
    definition=_definition,
    batch=one_by_one,
)  # fmt: skip
