"""QRL's latent dynamics loss with an IQE head as one op, from embeddings to loss."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array

from ..arguments.iqe import IqeSettings
from ..arguments.latent_dynamics import LatentDynamicsSettings
from . import definitions
from .batching import one_by_one
from .iqe import ends, kept_of_reduction
from .kernel_call import Op, Result


def _results(predicted: Any, target: Any, max_weight: Any, settings: LatentDynamicsSettings) -> list[Result]:
    (rows, size), dtype = predicted.shape, predicted.dtype
    return [
        Result((), dtype), Result((2,), dtype), Result((2, rows), dtype),
        ends((2, rows), size, settings.dim_per_component), *kept_of_reduction((2, rows), dtype, settings.reduction),
    ]  # fmt: skip


def _attributes(predicted: Array, target: Array, max_weight: Array, settings: LatentDynamicsSettings) -> dict[str, Any]:
    rows, size = predicted.shape
    return dict(rows=rows, num_components=size // settings.dim_per_component, **settings._asdict())


def _definition(
    predicted: Array, target: Array, max_weight: Array, settings: LatentDynamicsSettings
) -> tuple[Array, Array]:
    iqe = IqeSettings(*settings[:3])
    both = jnp.stack(
        [definitions.iqe(*sides, max_weight, iqe)[0] for sides in ((predicted, target), (target, predicted))]
    )
    return (jnp.square(both) if settings.power == 2 else both).mean(), both.mean(axis=1)


# Maps predicted and target (R, D) and max_weight (1,), or one without elements, to loss and stats
# (backends/reference/latent_dynamics.py).
latent_dynamics = Op(
    "latent_dynamics", num_wrt=3, num_results=6, num_outputs=2,
    results=_results,
    attributes=_attributes,
    backward_arguments=lambda grad, inputs, others: [grad, *others[1:], inputs[2]],
    definition=_definition,
    batch=one_by_one,
)  # fmt: skip
