"""Random cases: how their numbers, sizes and layouts are drawn.

A case depends only on its seed and number. It draws sizes around those of tiles and registers, settings, batch
dimensions, dtypes, the memory layouts of inputs and upstream gradients, the number of threads, and numbers: normal
ones, small integers that tie, equal rows, denormal numbers, infinities, NaN.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

ROWS = (0, 1, 2, 7, 48, 49, 100, 129, 257)
SIZES = (1, 2, 3, 4, 4, 5, 7, 8, 8, 8, 9, 15, 16, 16, 17, 31, 32, 33, 64, 65, 100, 127, 128, 129, 257, 1024, 1025)
COMPONENTS = (1, 1, 2, 3, 4, 5, 7, 8, 13, 16, 17, 31, 33, 64, 100)
CONTENTS = {"normal": 8, "ties": 3, "equal rows": 2, "denormal": 1, "infinite": 1, "nan": 1}
MOST_VALUES = 150_000  # of a case's differences: all pairs times all values of a row

# How far a result may be from the reference's in the same dtype, in units of the last place of the tensor's largest
# number: (forward, gradients). Both sides sum in their own order, so sums of n terms differ by about sqrt(n) units of
# the largest term, and by more units of the result where terms cancel.
TOLERANCE = {
    "iqe": (64, 512),
    "mrn": (64, 2048),  # gradients divide by a root that has its own errors
    "pqe": (128, 512),
    "poisson": (1e8, 1e8),  # known: in float64 the reference's own errors are up to 1e-9
    "nearest": (64, 2048),
    "fsq": (16, 512),  # a slope is up to 500 half-widths of a digit
    "head": (512, 16384),  # projections and norms are matrix products, whose errors the norm's slope amplifies
    "loss": (1024, 16384),  # exponentials of distances: a unit of a distance of 100 is 100 units of its exponential
    "temporal_consistency": (1024, 64),  # of a row's gradient in units of its own terms
}


@dataclass
class Case:
    """A call on tensors, those with a gradient first, and which of its results are defined."""

    call: Callable[..., Any]
    inputs: list[Tensor]
    settings: dict[str, Any]
    tolerance: tuple[float, float]
    constants: list[Tensor] = field(default_factory=list)
    sum_over: int | None = None  # at ties only a gradient's sums over this many neighbouring values are defined
    terms: Tensor | None = (
        None  # the size of the terms that cancel in the first gradient, for an upstream gradient of 1
    )
    check: Callable[[tuple, tuple], None] | None = None  # compares the outputs, in place of tolerances


class Draw:
    """The random choices of a case."""

    def __init__(self, seed: int, number: int) -> None:
        self.chance = random.Random(f"{seed} {number}")
        self.generator = torch.Generator().manual_seed(self.chance.randrange(2**31))
        self.dtype = self.choice((torch.float32, torch.float32, torch.float64, torch.bfloat16, torch.float16))
        self.content = self.chance.choices(list(CONTENTS), list(CONTENTS.values()))[0]
        self.scale = self.choice((1.0, 1.0, 1e-3, 30.0))
        self.threads = self.choice((1, 1, 2, 3))

    def choice(self, choices):
        return choices[self.chance.randrange(len(choices))]

    def chosen(self, **choices: tuple) -> dict[str, Any]:
        """Draws one choice per setting, or sometimes no settings at all."""
        return {name: self.choice(values) for name, values in choices.items() if self.chance.random() < 0.7}

    def randn(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def batch(self) -> list[int]:
        return self.choice(([], [], [], [1], [2], [3, 2]))

    def rows(self, budget: int, least: int = 0) -> int:
        return self.choice([rows for rows in ROWS if least <= rows <= max(budget, least, 2)])

    def dim(self, budget: int) -> tuple[int, int]:
        """Draws the size and the number of components of a row of at most ``budget`` values."""
        size = self.choice([size for size in SIZES if size <= max(budget, 1)])
        return size, self.choice([count for count in COMPONENTS if count * size <= max(budget, size)])

    def values(self, *shape: int) -> Tensor:
        values = self.randn(*shape)
        if self.content == "ties":
            values = values.mul(1.5).round()
        elif self.content == "denormal":
            compute = self.dtype if self.dtype == torch.float64 else torch.float32
            values = values * torch.finfo(compute).tiny
        else:
            values = values * self.scale
        values = values.to(self.dtype)
        if self.content in ("nan", "infinite") and values.numel():
            for _ in range(self.choice((1, 1, 3))):
                special = math.nan if self.content == "nan" else self.choice((math.inf, -math.inf))
                values.view(-1)[self.chance.randrange(values.numel())] = special
        return values

    def layout(self, tensor: Tensor) -> Tensor:
        """Returns the same numbers in another memory layout."""
        kind = self.choice(("plain", "plain", "transposed", "strided", "offset", "sliced"))
        if kind == "transposed" and tensor.dim() > 1:
            return tensor.transpose(0, -1).contiguous().transpose(0, -1)
        if kind == "strided":
            return torch.stack([tensor, tensor + 1], dim=-1)[..., 0]
        if kind == "offset":
            return torch.cat([tensor.new_zeros(3), tensor.flatten()])[3:].view(tensor.shape)
        if kind == "sliced":
            return torch.cat([tensor, tensor], dim=-1)[..., : tensor.shape[-1]]
        return tensor

    def rows_of(self, *shape: int) -> Tensor:
        """Draws values in some layout; sometimes all rows are one expanded row."""
        if len(shape) > 1 and shape[-2] > 1 and self.chance.random() < 0.06:
            return self.values(*shape[:-2], 1, shape[-1]).expand(shape)
        return self.layout(self.values(*shape))

    def two(self, x_shape: tuple, y_shape: tuple) -> list[Tensor]:
        x, y = self.rows_of(*x_shape), self.rows_of(*y_shape)
        if self.content == "equal rows" and x.numel() and y.numel():
            x = x.contiguous()
            count = min(x.shape[-2], y.shape[-2]) if x.dim() > 1 and y.dim() > 1 else 0
            if count and x.shape[:-2] == y.shape[:-2]:
                x[..., :count:2, :] = y[..., :count:2, :]
        return [x, y]

    def upstream(self, like: Tensor) -> Tensor:
        """Draws a gradient of ``like``'s shape and dtype: contiguous, expanded, sliced or transposed."""
        kind = self.choice(("plain", "expanded", "row", "sliced", "transposed"))
        if kind == "expanded" or like.dim() == 0:
            grad = self.randn().to(like.dtype).expand(like.shape)
        elif kind == "row":
            grad = self.randn(*like.shape[1:]).to(like.dtype).expand(like.shape)
        elif kind == "sliced":
            grad = self.randn(*like.shape, 2).to(like.dtype)[..., 1]
        elif kind == "transposed":
            grad = self.randn(*reversed(like.shape)).to(like.dtype).permute(*reversed(range(like.dim())))
        else:
            grad = self.randn(*like.shape).to(like.dtype)
        return grad
