"""OGBench's goal-conditioned value networks with a quasimetric head, as Flax modules on these kernels; needs Flax.

Drop-ins for the classes of the same names in OGBench's ``impls/utils/networks.py``: the same arguments, parameter trees
and numbers, so that checkpoints load.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from .iqe import iqe
from .mrn import mrn

__all__ = ["GCIQEValue", "GCMRNValue"]


class _Layers(nn.Module):
    """Dense layers, with GELU and, if wanted, layer normalisation after all but the last."""

    sizes: Sequence[int]
    layer_norm: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        *hidden, last = self.sizes
        init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
        for size in hidden:
            x = nn.gelu(nn.Dense(size, kernel_init=init)(x))
            x = nn.LayerNorm()(x) if self.layer_norm else x
        return nn.Dense(last, kernel_init=init)(x)


class _Scalar(nn.Module):
    """A learned number, 0 at first."""

    @nn.compact
    def __call__(self) -> Array:
        return self.param("value", nn.initializers.zeros, ())


class _GoalValue(nn.Module):
    """What the two networks share: they encode states and goals alike, and return the distance of the latents."""

    def _value(
        self, distance: Callable[[Array, Array], Array], observations: Array, goals: Array, is_phi: bool, info: bool
    ) -> Array | tuple[Array, Array, Array]:
        if not is_phi:
            if self.encoder is not None:
                observations, goals = self.encoder(observations), self.encoder(goals)
            observations, goals = self.phi(observations), self.phi(goals)
        value = distance(observations, goals)
        return (value, observations, goals) if info else value


class GCMRNValue(_GoalValue):
    """The distance from states to goals by OGBench's metric residual network: the Euclidean distance of the first half
    of the latents plus the largest positive difference in the second.

    Attributes:
        hidden_dims: sizes of the hidden layers.
        latent_dim: D, the size of the latents.
        layer_norm: normalises the hidden layers. Default True.
        encoder: a module for observations and goals, of images for example. Default None.

    Call it with observations and goals, ``(..., S)``, or with latents, ``(..., D)``, and ``is_phi=True``; it returns
    distances ``(...)``, with ``info=True`` also the latents of both. Its parameters are those of ``phi``. The gradient
    is that of `qmkernels.jax.mrn`.

    Source: https://github.com/seohongpark/ogbench.
    """

    hidden_dims: Sequence[int]
    latent_dim: int
    layer_norm: bool = True
    encoder: Any = None

    def setup(self) -> None:
        self.phi = _Layers((*self.hidden_dims, self.latent_dim), self.layer_norm)

    def __call__(
        self, observations: Array, goals: Array, is_phi: bool = False, info: bool = False
    ) -> Array | tuple[Array, Array, Array]:
        return self._value(lambda x, y: mrn(x, y, preset="ogbench"), observations, goals, is_phi, info)


class GCIQEValue(_GoalValue):
    """The distance from states to goals by interval quasimetric embeddings, whose components are reduced by a learned
    mixture of their mean and their largest.

    Attributes:
        hidden_dims: sizes of the hidden layers.
        latent_dim: D, the size of the latents.
        dim_per_component: K, the number of intervals in a component; it divides D.
        layer_norm: normalises the hidden layers. Default True.
        encoder: a module for observations and goals, of images for example. Default None.

    Call it as `GCMRNValue`. Its parameters are those of ``phi`` and ``alpha``; the mean weighs sigmoid(alpha). The
    gradient is that of `qmkernels.jax.iqe`.

    Source: https://github.com/seohongpark/ogbench.
    """

    hidden_dims: Sequence[int]
    latent_dim: int
    dim_per_component: int
    layer_norm: bool = True
    encoder: Any = None

    def setup(self) -> None:
        self.phi = _Layers((*self.hidden_dims, self.latent_dim), self.layer_norm)
        self.alpha = _Scalar()

    def __call__(
        self, observations: Array, goals: Array, is_phi: bool = False, info: bool = False
    ) -> Array | tuple[Array, Array, Array]:
        largest = jax.nn.sigmoid(-self.alpha())

        def distance(x: Array, y: Array) -> Array:
            return iqe(
                x, y, self.dim_per_component, max_weight=jnp.asarray(largest, jnp.promote_types(x.dtype, "float32"))
            )

        return self._value(distance, observations, goals, is_phi, info)
