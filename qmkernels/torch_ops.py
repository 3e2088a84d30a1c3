"""Registers ``torch.ops.qmkernels`` where both torch and qmkernels are imported, in either order.

Exported and compiled programs call these ops by name, and use no name of qmkernels that would import them.
"""

from __future__ import annotations

import importlib.util
import sys
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


def register_with_torch() -> None:
    """Registers the ops now if torch is imported, else as soon as it is."""
    if sys.modules.get("torch") is not None:
        _register()
    else:
        sys.meta_path.insert(0, _WaitsForTorch())


def _register() -> None:
    from .ops.registration import register_all

    register_all()


class _WaitsForTorch(MetaPathFinder):
    """Finds torch as the finders after it do, and lets its loader register the ops once torch has run."""

    def find_spec(self, name: str, path: object = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "torch":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = partial(_run_and_register, spec.loader.exec_module)  # type: ignore[method-assign]
        return spec


def _run_and_register(run, module: ModuleType) -> None:
    run(module)
    _register()
