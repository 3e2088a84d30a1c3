"""Switches live modules from torchqmet's heads to these kernels."""

from __future__ import annotations

import warnings

from torch import nn

from .torchqmet import HEADS, stand_ins


def accelerate(module: nn.Module) -> nn.Module:
    """Turns every torchqmet head inside ``module`` into this package's, in place.

    Only the classes of a head and its parts change. Parameters and buffers stay the same objects, so optimizers,
    ``requires_grad``, hooks, the training flag and references to the head all keep working. Attributes and
    ``state_dict`` keys are the same in both packages; ``isinstance`` checks of torchqmet's own classes become false.

    A class derived from a torchqmet head may rely on any of its details and is left alone, with one warning that names
    all such classes. Everything else stays unchanged, and calling it again changes nothing. Compiled functions that
    hold a head compile again. Heads of a copy of torchqmet inside another package, such as ``third_party.torchqmet``,
    are turned too.

    Args:
        module (nn.Module): Any module, for example a head itself.

    Returns:
        ``module``.

    Examples::

        >>> import torch
        >>> import qmkernels as qm
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU())
        >>> qm.compat.accelerate(model) is model
        True
    """
    ours = {
        (name, class_name): value
        for name, contents in stand_ins().items()
        for class_name, value in vars(contents).items()
        if isinstance(value, type) and issubclass(value, nn.Module)
    }
    left_alone = set()
    for head in list(module.modules()):
        kind = type(head)
        if _name(kind) in ours and kind.__name__ in HEADS:
            for part in head.modules():
                part.__class__ = ours.get(_name(type(part)), type(part))
        elif any(_is_torchqmets_head(base) for base in kind.__mro__):
            left_alone.add(f"{kind.__module__}.{kind.__qualname__}")
    if left_alone:
        warnings.warn(
            f"accelerate: left alone, because they derive from torchqmet's heads: "
            f"{', '.join(sorted(left_alone))}. Call qmkernels.compat.install_torchqmet() before they are defined.",
            stacklevel=2,
        )
    return module


def _name(kind: type) -> tuple[str, str]:
    """Returns a class's module and name; the module as in torchqmet, where a package has a copy of it."""
    _, within, submodule = f".{kind.__module__}.".partition(".torchqmet.")
    return f"torchqmet.{submodule}".rstrip(".") if within else kind.__module__, kind.__qualname__


def _is_torchqmets_head(kind: type) -> bool:
    return _name(kind) == ("torchqmet", "QuasimetricBase")
