"""The losses that quasimetric methods are made of: embeddings and a head in, a named tuple with ``loss`` out."""

from .contrastive import contrastive
from .iqrl import temporal_consistency
from .metra import metra
from .metric_rl import metric_contrastive
from .qrl import latent_dynamics, qrl_critic
from .tmd import linex, tmd_critic

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
