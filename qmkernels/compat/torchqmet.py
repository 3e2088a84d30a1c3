"""``import torchqmet`` gives these modules: the drop-in for code written for that package."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

from torch import Tensor

from .. import nn
from ..nn import deep_linear_net
from ..ops.iqe import iqe

# The interface that these modules follow; the local part tells them from the original.
VERSION = "0.1.0+qmkernels"

_CLASSES = ("PQE", "PQELH", "PQEGG", "IQE", "MRN", "MRNFixed", "DeepNorm", "WideNorm")
_SUBMODULES_TO_COME = ("mrn", "neural_norms", "pqe")


def install_torchqmet() -> ModuleType:
    """Makes ``import torchqmet`` and its submodules give the modules of this package, from now on, in this process.

    It does not matter whether torchqmet is installed, nor whether it was imported already. Calling it again changes
    nothing. Call it before the code that uses torchqmet is imported: names that were bound earlier, by
    ``import torchqmet`` or ``from torchqmet import IQE``, keep what they had, and so do live modules and classes
    derived from torchqmet's. Weights move by ``state_dict``, whose keys are the same; a whole module that was pickled
    with torchqmet loads as one of ours.

    A class that this version of qmkernels does not have raises an error that says so when it is asked for, not when
    torchqmet is imported.

    Returns:
        The module that ``import torchqmet`` gives from now on.

    Examples::

        >>> import qmkernels as qm
        >>> _ = qm.compat.install_torchqmet()
        >>> from torchqmet import IQE
        >>> IQE is qm.nn.IQE
        True
    """
    installed = sys.modules.get("torchqmet")
    if isinstance(installed, _StandIn):
        return installed
    for name in [name for name in sys.modules if name == "torchqmet" or name.startswith("torchqmet.")]:
        del sys.modules[name]
    package = _build_package()
    sys.modules["torchqmet"] = package
    for name in ("iqe", "reductions", "transforms", "utils"):
        sys.modules[f"torchqmet.{name}"] = getattr(package, name)
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _RefusingFinder)]
    sys.meta_path.insert(0, _RefusingFinder())
    return package


class _StandIn(ModuleType):
    """The package; a class of its own so that it is told from the original."""

    def __getattr__(self, name: str) -> object:
        if name in _CLASSES:
            raise AttributeError(_not_in_this_version(f"torchqmet.{name}"))
        raise AttributeError(f"module 'torchqmet' (qmkernels in its place) has no attribute {name!r}")


class _RefusingFinder(importlib.abc.MetaPathFinder):
    """Says why in an ImportError.

    For ``from torchqmet import MRN`` Python tries ``torchqmet.MRN`` as a submodule once the attribute is not found;
    without this finder the message would be only that the name cannot be imported.
    """

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        package, _, rest = name.partition(".")
        first = rest.partition(".")[0]
        if package == "torchqmet" and first in (*_CLASSES, *_SUBMODULES_TO_COME):
            raise ImportError(_not_in_this_version(name), name=name)
        return None


def _not_in_this_version(name: str) -> str:
    have = ", ".join(["QuasimetricBase", *(class_name for class_name in _CLASSES if hasattr(nn, class_name))])
    return f"{name} is not in this version of qmkernels, which stands in for torchqmet and has: {have}."


def _build_package() -> ModuleType:
    package = _StandIn("torchqmet", "qmkernels in the place of torchqmet; see qmkernels.compat.install_torchqmet.")
    # An empty path: a package, so that submodules are looked for, but never among the files of an installed torchqmet.
    package.__path__ = []
    package.__spec__ = importlib.machinery.ModuleSpec("torchqmet", loader=None, is_package=True)
    package.__version__ = VERSION
    package.QuasimetricBase = nn.QuasimetricBase
    package.__all__ = [name for name in _CLASSES if hasattr(nn, name)]
    for name in package.__all__:
        setattr(package, name, getattr(nn, name))

    package.reductions = nn.reductions
    package.ReductionBase, package.make_reduction = nn.reductions.ReductionBase, nn.reductions.make_reduction
    package.transforms = nn.transforms
    package.TransformBase, package.make_transform = nn.transforms.TransformBase, nn.transforms.make_transform
    package.iqe = _submodule("iqe", iqe=_components, IQE=nn.IQE, QuasimetricBase=nn.QuasimetricBase)
    package.utils = _submodule(
        "utils",
        DeepLinearNet=deep_linear_net.DeepLinearNet,
        get_num_effective_parameters=deep_linear_net.get_num_effective_parameters,
    )
    return package


def _submodule(name: str, **contents: object) -> ModuleType:
    module = ModuleType(f"torchqmet.{name}")
    module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, loader=None)
    vars(module).update(contents)
    return module


def _components(x: Tensor, y: Tensor) -> Tensor:
    """torchqmet's function ``torchqmet.iqe.iqe``: x and y ``(..., C, K)`` to the components ``(..., C)``."""
    return iqe(x, y, x.shape[-1], reduction="sum")
