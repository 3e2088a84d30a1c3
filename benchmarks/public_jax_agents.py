"""The public JAX agents whose updates measure_jax.py times: from a checkout, as they are and with the lines changed
that qmkernels/jax/README.md shows.

QMKERNELS_OGBENCH names the checkout: of https://github.com/vivekmyers/tmd-release, which is OGBench with TMD's agent.
It needs distrax, ml_collections and optax beside JAX and Flax.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np
from comparison import Unavailable

# By agent, what stands in its file, and what takes its place.
CHANGES: dict[str, dict[str, str]] = {
    "tmd": {
        "from utils.networks import (": "from qmkernels.jax import mrn\nfrom utils.networks import (",
        "        x, y = jnp.broadcast_arrays(x, y)\n": "",
        "return self.mrn_distance(x, y)": "return mrn(x, y, self.config['components'], preset='tmd')",
    },
    "qrl": {
        "from utils.networks import MLP, GCActor, GCDiscreteActor, GCIQEValue, GCMRNValue, LogParam": (
            "from qmkernels.jax.ogbench import GCIQEValue, GCMRNValue\n"
            "from utils.networks import MLP, GCActor, GCDiscreteActor, LogParam"
        ),
    },
}
OBSERVATION_DIM, ACTION_DIM = 29, 8  # of OGBench's antmaze


def checkout() -> Path:
    """The folder ``impls`` of the checkout, from which its modules can now be imported; Unavailable without one."""
    named = os.environ.get("QMKERNELS_OGBENCH")
    if not named:
        raise Unavailable("QMKERNELS_OGBENCH names no checkout")
    folder = Path(named) / "impls"
    if not (folder / "agents" / "tmd.py").exists():
        raise Unavailable(f"QMKERNELS_OGBENCH={named} has no impls/agents/tmd.py")
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    try:
        importlib.import_module("utils.networks")
    except ImportError as error:
        raise Unavailable(f"the checkout cannot be imported: {error}") from error
    return folder


def agent_module(name: str, changed: bool) -> ModuleType:
    """The module of the agent "tmd" or "qrl"."""
    source = (checkout() / "agents" / f"{name}.py").read_text()
    for old, new in CHANGES[name].items() if changed else ():
        if source.count(old) != 1:
            raise Unavailable(f"agents/{name}.py of the checkout has not, once, the line {old!r}")
        source = source.replace(old, new)
    module = ModuleType(f"{name}_{'changed' if changed else 'public'}")
    sys.modules[module.__name__] = module
    exec(compile(source, f"agents/{name}.py", "exec"), module.__dict__)
    return module


def update(name: str, changed: bool, batch_size: int) -> Callable[[], Any]:
    """One update of the agent, at its own settings; returns its diagnostics."""
    module = agent_module(name, changed)
    rng = np.random.default_rng(0)

    def rows(size: int) -> np.ndarray:
        return rng.normal(size=(batch_size, size)).astype(np.float32)

    states = ("observations", "next_observations", "value_goals", "actor_goals")
    batch = {key: rows(OBSERVATION_DIM) for key in states} | {"actions": np.tanh(rows(ACTION_DIM))}
    (kind,) = (value for key, value in vars(module).items() if key.endswith("Agent"))
    agent = kind.create(0, batch["observations"], batch["actions"], module.get_config())
    return lambda: jax.block_until_ready(agent.update(batch))[1]
