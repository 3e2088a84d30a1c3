"""Compiled kernels for quasimetric learning in PyTorch and JAX. Distances go from ``x`` to ``y``.

Names are imported when they are used, and torch with them: ``import qmkernels`` itself does not import it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import torch_ops

if TYPE_CHECKING:
    from . import agents, backends, compat, data, distributed, losses, nn
    from . import jax as jax
    from .backends.dispatch import use_backend
    from .ops.fsq import fsq, fsq_codes
    from .ops.iqe import iqe, iqe_pairwise
    from .ops.mrn import euclidean_pairwise, mrn, mrn_pairwise
    from .ops.nearest import nearest
    from .ops.poisson import log_poisson_le, poisson_gt, poisson_le
    from .ops.pqe import pqe, pqe_pairwise
    from .ops.shortest_paths import shortest_paths
    from .ops.through import through

    __version__: str

__all__ = [
    "agents",
    "backends",
    "compat",
    "data",
    "distributed",
    "euclidean_pairwise",
    "fsq",
    "fsq_codes",
    "iqe",
    "iqe_pairwise",
    "log_poisson_le",
    "losses",
    "mrn",
    "mrn_pairwise",
    "nearest",
    "nn",
    "poisson_gt",
    "poisson_le",
    "pqe",
    "pqe_pairwise",
    "shortest_paths",
    "through",
    "use_backend",
]

_MODULES = ("agents", "backends", "compat", "data", "distributed", "jax", "losses", "nn")
# Where a name is that is neither one of these modules nor that of its own module in `ops`.
_HOMES = {
    "euclidean_pairwise": "ops.mrn",
    "fsq_codes": "ops.fsq",
    "iqe_pairwise": "ops.iqe",
    "log_poisson_le": "ops.poisson",
    "mrn_pairwise": "ops.mrn",
    "poisson_gt": "ops.poisson",
    "poisson_le": "ops.poisson",
    "pqe_pairwise": "ops.pqe",
    "use_backend": "backends.dispatch",
}


def __getattr__(name: str) -> Any:
    """Imports a public name on first use."""
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    if name in __all__:
        value = getattr(importlib.import_module(f".{_HOMES.get(name, f'ops.{name}')}", __name__), name)
    elif name == "__version__":
        value = _version()
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("qmkernels")
    except PackageNotFoundError:  # the sources, without an installation
        return "0+sources"


torch_ops.register_with_torch()
