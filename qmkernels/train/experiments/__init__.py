"""The methods that can be trained, one file each: settings, presets, and what is particular to the method's run."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..experiment import Experiment

METHODS = {
    "qrl": "quasimetric RL: a distance that local costs bound, pushed apart everywhere else",
    "tmd": "temporal metric distillation: a contrastive distance that is made consistent along transitions",
    "metric_rl": "MetricRL: latents whose distances count steps, and imitation of actions that bring goals nearer",
    "metra": "METRA: latents whose steps have at most length 1, and skills that travel far in them, without rewards",
    "iqrl": "iQRL: quantised latents that predict the next ones, and TD3 on them",
    "crl": "contrastive RL: which goals follow a state and an action, and an actor that makes its goal likely",
    "ddpg_her": "DDPG with hindsight goals: discounted steps to goals that episodes happened to reach",
    "gcbc": "goal-conditioned behaviour cloning: imitates the data's actions, given the goals they led to",
}


def experiment_of(method: str) -> type[Experiment]:
    """Returns a method's experiment class, importing its module on demand."""
    return importlib.import_module(f".{method}", __name__).EXPERIMENT
