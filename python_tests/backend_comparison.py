"""Shared by the tests of a backend's functions against backends/reference: points, and the comparison of results."""

from __future__ import annotations

import torch

DTYPES = (torch.float32, torch.float64)
HALF = (torch.bfloat16, torch.float16)
# float32: sums over components and over the other side are in another order than the reference's.
TOLERANCE = {torch.float32: {"rtol": 3e-6, "atol": 1e-5}, torch.float64: {"rtol": 1e-12, "atol": 1e-12}}


def points(*rows: int, size: int, dtype: torch.dtype, device: str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
    """Returns x and y, (*rows, size) each."""
    generator = torch.Generator().manual_seed(sum(rows) + size)
    x = torch.randn(*rows, size, generator=generator, dtype=torch.float64)
    y = torch.randn(*rows, size, generator=generator, dtype=torch.float64) + 0.5
    return x.to(device, dtype), y.to(device, dtype)


def pair_points(num_x: int, num_y: int, size: int, dtype: torch.dtype, *, batch: int = 2, device: str = "cpu"):
    """Returns x (batch, num_x, size) and y (batch, num_y, size)."""
    x, y = points(batch, max(num_x, num_y), size=size, dtype=dtype, device=device)
    return x[:, :num_x].contiguous(), y[:, :num_y].contiguous()


def assert_same(actual: tuple[torch.Tensor | None, ...], expected: tuple[torch.Tensor | None, ...]) -> None:
    """Asserts equal dtypes and bits, except that any NaN equals any other."""
    torch.testing.assert_close(tuple(actual), tuple(expected), rtol=0, atol=0, equal_nan=True)


def with_special_values(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Puts NaN and infinities into rows of their own, of at least seven."""
    x[3, 0], y[4, -1] = torch.nan, torch.nan
    x[5, -1], y[6, 0] = torch.inf, -torch.inf
    return x, y


def assert_alike(actual: tuple[torch.Tensor | None, ...], expected: tuple[torch.Tensor | None, ...]) -> None:
    """Asserts equal shapes, dtypes and values, floats within TOLERANCE, and None in the same places."""
    for ours, other in zip(actual, expected, strict=True):
        if other is None:
            assert ours is None
            continue
        assert ours.shape == other.shape
        assert ours.dtype == other.dtype
        if ours.is_floating_point():
            torch.testing.assert_close(ours, other, equal_nan=True, **TOLERANCE[ours.dtype])
        else:
            assert torch.equal(ours, other)
