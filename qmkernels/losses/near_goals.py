"""Which goals are near each other in time, for contrastive losses that take no such goal as a negative."""

from __future__ import annotations

from numbers import Integral

import torch
from torch import Tensor
from torch.nn import functional

from . import checks


def places_of_goals(loss: str, y: Tensor, clip: Tensor, time: Tensor, window: int) -> Tensor:
    """Returns places of goals y (..., M), int32 (..., M), which differ by at most ``window`` exactly for goals of one
    clip whose times do; raises unless clip and time are integer tensors, one number per goal.

    Sorted by clip and then by time, goals lie as far apart as their times, but at most window + 1; so the places are
    small whatever the numbers are, and nothing waits for the device.
    """
    for name, value in (("clip", clip), ("time", time)):
        if not isinstance(value, Tensor) or value.dtype.is_floating_point or value.dtype.is_complex:
            kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"{loss}: the {name} of exclude must be an integer tensor, got {kind}.")
        if value.device != y.device:
            raise RuntimeError(f"{loss}: the {name} of exclude must be on {y.device}, like y, got {value.device}.")
        checks.check_per_row(loss, f"the {name} of exclude", value, y.shape[:-1])
    if not isinstance(window, Integral):
        raise TypeError(f"{loss}: the window of exclude must be a whole number, got {type(window).__name__}.")
    most = (2**31 - 1) // y.shape[-2] - 1
    if not 0 <= window <= most:
        raise ValueError(
            f"{loss}: the window of exclude must be 0 to {most} for {y.shape[-2]} goals, got {window}; to exclude "
            "whole clips, give all their goals the same time."
        )
    clip, time = (value.long().expand(y.shape[:-1]) for value in (clip, time))
    order = time.argsort(dim=-1, stable=True)
    order = order.gather(-1, clip.gather(-1, order).argsort(dim=-1, stable=True))
    same_clip = clip.gather(-1, order).diff(dim=-1) == 0
    gaps = torch.where(same_clip, time.gather(-1, order).diff(dim=-1).clamp(max=window + 1), window + 1)
    places = functional.pad(gaps, (1, 0)).cumsum(dim=-1)
    return torch.empty_like(places).scatter(-1, order, places).int()
