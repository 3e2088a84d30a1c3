"""Loads the compiled core, which needs neither torch nor JAX."""

from __future__ import annotations

import importlib.util
import warnings
from types import ModuleType

core: ModuleType | None = None
failure = ""
"""Why there is no core; empty where there is one."""

try:
    core = importlib.import_module("qmkernels._core")
except ImportError as error:
    if importlib.util.find_spec("qmkernels._core") is None:
        failure = (
            "the compiled core qmkernels._core is missing: install the package (pip install .) and run Python outside "
            "the checkout's root, where the folder qmkernels holds only sources"
        )
    else:
        failure = f"the compiled core failed to load: {error}"
        if "libgomp" in str(error):
            failure += ". Import torch first, which brings this library, or install the system's (Debian's libgomp1)"
    warnings.warn(f"qmkernels: {failure}. Ops run on the slower reference backend.", stacklevel=2)
