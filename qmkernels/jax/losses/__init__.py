"""The losses of quasimetric methods on JAX arrays: they take a head and embeddings, and return a named tuple, a pytree,
whose ``loss`` is differentiable and whose diagnostics are not.

They are those of `qmkernels.losses`, under the same names and with the same numbers. A head is a function of x and y,
whose leading dimensions broadcast: ``partial(qmkernels.jax.mrn, preset="tmd")``. Learned weights are arrays that it
closes over: ``partial(qmkernels.jax.iqe, dim_per_component=8, max_weight=jax.nn.sigmoid(raw))``, made inside the
function that is differentiated.

Losses over all pairs take the rows, ``(..., N, D)``. They call the head with ``(..., N, 1, D)`` and ``(..., 1, M, D)``,
for which the distances of `qmkernels.jax` run their pairwise kernels, or give the rows to its attribute ``pairwise``,
if it has one.
"""

from .contrastive import contrastive
from .latent_dynamics import latent_dynamics
from .linex import linex
from .metra import metra
from .metric_contrastive import metric_contrastive
from .qrl_critic import qrl_critic
from .temporal_consistency import temporal_consistency
from .tmd_critic import tmd_critic

__all__ = [
    "contrastive",
    "latent_dynamics",
    "linex",
    "metra",
    "metric_contrastive",
    "qrl_critic",
    "temporal_consistency",
    "tmd_critic",
]
