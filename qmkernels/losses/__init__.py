"""The losses of quasimetric methods: they take a head and embeddings, and return a named tuple with ``loss``."""

from .contrastive import contrastive
from .coulomb_repulsion import coulomb_repulsion
from .eikonal import eikonal
from .expectile_backup import expectile_backup
from .latent_dynamics import latent_dynamics
from .linex import linex
from .metra import metra
from .metric_contrastive import metric_contrastive
from .qrl_critic import qrl_critic
from .step_gap import step_gap
from .temporal_consistency import temporal_consistency
from .tmd_critic import tmd_critic

__all__ = [
    "contrastive",
    "coulomb_repulsion",
    "eikonal",
    "expectile_backup",
    "latent_dynamics",
    "linex",
    "metra",
    "metric_contrastive",
    "qrl_critic",
    "step_gap",
    "temporal_consistency",
    "tmd_critic",
]
