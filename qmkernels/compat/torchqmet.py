"""The modules that ``import torchqmet`` gives: a drop-in for code written for that package."""

from __future__ import annotations

import importlib.machinery
import sys
from types import ModuleType

import torch
from torch import Tensor
from torch.nn import functional

from .. import nn
from ..nn import deep_linear_net, mrn, neural_norms, pqe_measures, pqe_shapes, reductions, transforms
from ..ops.iqe import iqe
from . import cdf_ops

# The version of the interface that these modules follow; its local part tells them from the original.
VERSION = "0.1.0+qmkernels"

# The heads, in torchqmet's order.
HEADS = ("PQE", "PQELH", "PQEGG", "IQE", "MRN", "MRNFixed", "DeepNorm", "WideNorm")


def install_torchqmet() -> ModuleType:
    """Makes ``import torchqmet`` and its submodules give this package's modules, from now on, in this process.

    It works whether or not torchqmet is installed or already imported, and calling it again changes nothing. Call it
    before importing code that uses torchqmet: names bound earlier, by ``import torchqmet`` or
    ``from torchqmet import IQE``, keep their values, and so do derived classes and live modules (for those see
    `accelerate`). Weights transfer by ``state_dict``, whose keys are the same; a whole module that was pickled with
    torchqmet loads as one of this package's.

    Returns:
        The module that ``import torchqmet`` now gives.

    Examples::

        >>> import qmkernels as qm
        >>> _ = qm.compat.install_torchqmet()
        >>> from torchqmet import IQE
        >>> IQE is qm.nn.IQE
        True
    """
    installed = sys.modules.get("torchqmet")
    if getattr(installed, "__version__", None) == VERSION:
        return installed
    for name in [name for name in sys.modules if name == "torchqmet" or name.startswith("torchqmet.")]:
        del sys.modules[name]
    modules = stand_ins()
    for name, module in modules.items():
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(modules[parent], child, module)
    sys.modules.update(modules)
    return modules["torchqmet"]


def stand_ins() -> dict[str, ModuleType]:
    """Returns this package's modules, keyed by torchqmet's names for them."""
    heads = {name: getattr(nn, name) for name in HEADS}
    base = {"QuasimetricBase": nn.QuasimetricBase}
    measures = _public(pqe_measures, "MeasureBase", "LebesgueMeasure", "GaussianBasedMeasure")
    shapes = _public(pqe_shapes, "ShapeBase", "HalfLineShape", "GaussianShape")
    pqe = {name: heads[name] for name in ("PQE", "PQELH", "PQEGG")}
    return {
        "torchqmet": _module(
            "torchqmet",
            **base,
            **heads,
            **_public(reductions, "ReductionBase", "make_reduction"),
            **_public(transforms, "TransformBase", "make_transform"),
            __doc__="qmkernels in place of torchqmet; see qmkernels.compat.install_torchqmet.",
            __version__=VERSION,
            __all__=list(HEADS),
            __path__=[],
        ),
        "torchqmet.iqe": _module("torchqmet.iqe", **base, IQE=nn.IQE, iqe=_components),
        "torchqmet.mrn": _module("torchqmet.mrn", **base, **_public(mrn, "MRNProjector", "MRN", "MRNFixed")),
        "torchqmet.neural_norms": _module(
            "torchqmet.neural_norms",
            **base,
            **_public(neural_norms, "ConstrainedLinear", "max_relu", "MaxReLU", "make_activation"),
            **_public(neural_norms, "DeepNorm", "WideNorm"),
        ),
        "torchqmet.pqe": _module("torchqmet.pqe", **base, **pqe, **measures, **shapes, __path__=[]),
        "torchqmet.pqe.measures": _module("torchqmet.pqe.measures", **measures),
        "torchqmet.pqe.shapes": _module("torchqmet.pqe.shapes", **shapes),
        "torchqmet.pqe.cdf_ops": _module(
            "torchqmet.pqe.cdf_ops", **_public(cdf_ops, *cdf_ops.__all__), __all__=cdf_ops.__all__
        ),
        "torchqmet.reductions": reductions,
        "torchqmet.transforms": transforms,
        "torchqmet.utils": _module(
            "torchqmet.utils",
            **_public(deep_linear_net, "DeepLinearNet", "get_num_effective_parameters"),
            multidot=torch.linalg.multi_dot,
            sigmoid_pow=_sigmoid_pow,
        ),
    }


def _public(module: ModuleType, *names: str) -> dict[str, object]:
    return {name: getattr(module, name) for name in names}


def _module(name: str, **contents: object) -> ModuleType:
    """Makes a module of that name; an empty ``__path__`` makes it a package that never reads an installed one."""
    module = ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, loader=None, is_package="__path__" in contents)
    vars(module).update(contents)
    return module


def _components(x: Tensor, y: Tensor) -> Tensor:
    """Stands in for ``torchqmet.iqe.iqe``: maps x and y ``(..., C, K)`` to the components ``(..., C)``."""
    return iqe(x.flatten(-2), y.flatten(-2), x.shape[-1], reduction="none")


def _sigmoid_pow(x: Tensor, y: Tensor) -> Tensor:
    """Computes ``sigmoid(x) ** y``, with a finite gradient where the sigmoid underflows."""
    return torch.exp(functional.logsigmoid(x) * y)
