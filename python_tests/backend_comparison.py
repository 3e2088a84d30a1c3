"""What the tests of one backend's functions against backends/reference share: points, and what counts as alike."""

from __future__ import annotations

import torch

DTYPES = (torch.float32, torch.float64)
# float32: sums over components and over the other side, in another order than the reference's.
TOLERANCE = {torch.float32: {"rtol": 3e-6, "atol": 1e-5}, torch.float64: {"rtol": 1e-12, "atol": 1e-12}}


def points(*rows: int, size: int, dtype: torch.dtype, device: str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
    """x and y (*rows, size)."""
    generator = torch.Generator().manual_seed(sum(rows) + size)
    x = torch.randn(*rows, size, generator=generator, dtype=torch.float64)
    y = torch.randn(*rows, size, generator=generator, dtype=torch.float64) + 0.5
    return x.to(device, dtype), y.to(device, dtype)


def pair_points(num_x: int, num_y: int, size: int, dtype: torch.dtype, *, batch: int = 2, device: str = "cpu"):
    """x (batch, num_x, size) and y (batch, num_y, size)."""
    x, y = points(batch, max(num_x, num_y), size=size, dtype=dtype, device=device)
    return x[:, :num_x].contiguous(), y[:, :num_y].contiguous()


def assert_alike(got: tuple[torch.Tensor | None, ...], wanted: tuple[torch.Tensor | None, ...]) -> None:
    """Of the same shapes and dtypes; equal, floats within TOLERANCE; None in the same places."""
    for one, other in zip(got, wanted, strict=True):
        if other is None:
            assert one is None
            continue
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        if one.is_floating_point():
            torch.testing.assert_close(one, other, equal_nan=True, **TOLERANCE[one.dtype])
        else:
            assert torch.equal(one, other)
