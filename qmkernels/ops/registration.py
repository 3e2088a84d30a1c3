"""Registers the ops of ``torch.ops.qmkernels``: schema, implementation for every device, and shapes for tracing."""

from __future__ import annotations

from collections.abc import Callable

import torch

_library = torch.library.Library("qmkernels", "DEF")


def register(schema: str, implementation: Callable, fake: Callable) -> Callable:
    """Defines ``qmkernels::<schema>``; returns the op. ``fake`` returns empty tensors of the right shapes and dtypes.

    The implementation stands below autograd; autograd.Functions above the ops do the differentiating, because an
    autograd rule registered with the op itself breaks torch.func.grad.
    """
    name = schema.split("(", 1)[0]
    _library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    _library.impl(name, implementation, "CompositeExplicitAutograd")
    torch.library.register_fake(f"qmkernels::{name}", fake, lib=_library)
    return getattr(torch.ops.qmkernels, name).default
