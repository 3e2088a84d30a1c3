"""QRL's critic loss with an IQE head as one op, from embeddings to loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from ..arguments.iqe import IqeSettings
from ..arguments.qrl_critic import QrlCriticSettings
from . import definitions
from .batching import one_by_one
from .iqe import ends, kept_of_reduction
from .kernel_call import Op, Result


def _results(x: Any, *others_and_settings: Any) -> list[Result]:
    (rows, size), settings = x.shape, others_and_settings[-1]
    return [
        Result((), x.dtype), Result((6,), x.dtype), Result((2, rows), x.dtype),
        ends((2, rows), size, settings.dim_per_component), *kept_of_reduction((2, rows), x.dtype, settings.reduction),
    ]  # fmt: skip


def _attributes(x: Array, *others_and_settings: Any) -> dict[str, Any]:
    *_, cost, settings = others_and_settings
    num_components = x.shape[1] // settings.dim_per_component
    return dict(rows=x.shape[0], num_components=num_components, num_costs=cost.size, **settings._asdict())


def _softplus(x: Array) -> Array:
    return jnp.logaddexp(x, 0.0)


def _definition(
    x: Array, y: Array, goal: Array, max_weight: Array, raw: Array, cost: Array, settings: QrlCriticSettings
) -> tuple[Array, Array]:
    goal = goal if goal.size else jnp.roll(y, 1, axis=0)
    to_goal, local = (definitions.iqe(x, to, max_weight, IqeSettings(*settings[:3]))[0] for to in (goal, y))
    beta = settings.softplus_beta
    push = _softplus(beta * (settings.softplus_offset - to_goal)).mean() / beta
    excess = jnp.square(jax.nn.relu(local - cost)).mean() - settings.threshold
    multiplier = _softplus(raw) if settings.multiplier == "softplus" else jnp.exp(raw)
    fixed, by_raw = jax.lax.stop_gradient(multiplier), jax.grad(_softplus)(raw)
    by_raw = by_raw if settings.multiplier == "softplus" else multiplier
    loss = push + fixed * excess - (multiplier - fixed) * jax.lax.stop_gradient(excess)
    stats = [push, excess + settings.threshold, multiplier, to_goal.mean(), local.mean(), -by_raw * excess]
    return loss, jnp.stack(stats)


def _backward_arguments(grad: Array, inputs: Sequence[Array], others: Sequence[Array]) -> list[Array]:
    return [grad, *others, inputs[3]]


# Maps x, y and goal (R, D), max_weight (1,), raw () and cost (1,) or (R,) to loss and stats, which are those of
# backends/reference/qrl_critic.py. goal and max_weight may be without elements; cost has no gradient.
qrl_critic = Op(
    "qrl_critic", num_wrt=5, num_results=6, num_outputs=2,
    results=_results,
    attributes=_attributes,
    backward_arguments=_backward_arguments,
    definition=_definition,
    batch=one_by_one,
)  # fmt: skip
