"""The dtypes of tensors and of what is computed from them: half precision is computed in float32."""

from __future__ import annotations

import torch
from torch import Tensor

HALF = (torch.bfloat16, torch.float16)


def compute_dtype(x: Tensor) -> torch.dtype:
    """Returns the dtype in which what depends on ``x`` is computed."""
    return torch.float32 if x.dtype in HALF else x.dtype


def in_compute_dtype(x: Tensor) -> Tensor:
    """Converts half inputs to float32, so that gradients come back in the input's dtype; returns others unchanged."""
    return x.to(torch.float32) if x.dtype in HALF else x
