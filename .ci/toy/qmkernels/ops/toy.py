"""The toy op for users: checks, broadcasting, autograd."""

from __future__ import annotations

from torch import Tensor

from ..backends import dispatch
from ..definitions import toy as definition
from ..definitions.toy import ToySettings
from . import arguments, broadcasting
from .autograd import Op
from .registration import Kernel, schema_of

_SETTINGS = f"{schema_of(ToySettings)}, str backend"
_toy = Op(
    "Toy",
    Kernel("toy", f"toy_forward(Tensor x, Tensor y, {_SETTINGS}) -> Tensor", definition.toy_forward_outputs),
    Kernel(
        "toy",
        f"toy_backward(Tensor grad_out, Tensor x, Tensor y, {_SETTINGS}) -> (Tensor, Tensor)",
        definition.toy_backward_outputs,
    ),
    gradient=definition.gradient,
)


def toy(x: Tensor, y: Tensor, factor: float = 1.0, *, backend: str | None = None) -> Tensor:
    """``factor * |x - y|_1``, (...) of x and y (..., D), whose leading dimensions broadcast."""
    x, y = arguments.embeddings("toy", x, y)
    shape = broadcasting.broadcast_shape("toy", x, y)
    x, y = (rows.expand(*shape, rows.shape[-1]) for rows in (x, y))
    return _toy((x, y), ToySettings(float(factor)), dispatch.requested(backend))
