"""The tile of a program: its size, and the addresses of a tile of whole components, (ROWS, BLOCK_C, BLOCK_S)."""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

# Sums over the other side take this many rows at a time: float32 loses fewer digits than in one long sum.
ROWS_A_PART = tl.constexpr(32)


@triton.jit
def component_offsets(
    row,  # int64 (ROWS,)
    component,  # (BLOCK_C,)
    num_components,
    S: tl.constexpr,  # values per component
    BLOCK_S: tl.constexpr,  # S or the next power of two
):
    """Returns the offsets in (rows, C, S) of the components' values in these rows, and which of them exist."""
    s = tl.arange(0, BLOCK_S)[None, None, :]
    return ((row[:, None] * num_components + component[None, :]) * S)[:, :, None] + s, s < S


@triton.jit
def own_rows(
    num_own,
    num_components,
    ROWS: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Returns the sample, the rows of one side and the components that a program of a pairwise gradient owns."""
    blocks = tl.cdiv(num_own, ROWS)
    blocks_c = tl.cdiv(num_components, BLOCK_C)
    program = tl.program_id(0)
    sample = (program // (blocks * blocks_c)).to(tl.int64)
    i = program // blocks_c % blocks * ROWS + tl.arange(0, ROWS)
    component = program % blocks_c * BLOCK_C + tl.arange(0, BLOCK_C)
    return sample, i, component


@triton.jit
def pairs_of_program(
    num_x,
    num_y,
    BLOCK_X: tl.constexpr,
    BLOCK_Y: tl.constexpr,
):
    """Returns the sample and the rows of x and y whose pairs a program of a pairwise forward pass computes."""
    blocks_x = tl.cdiv(num_x, BLOCK_X)
    blocks_y = tl.cdiv(num_y, BLOCK_Y)
    program = tl.program_id(0)
    sample = (program // (blocks_x * blocks_y)).to(tl.int64)
    i = program // blocks_y % blocks_x * BLOCK_X + tl.arange(0, BLOCK_X)
    j = program % blocks_y * BLOCK_Y + tl.arange(0, BLOCK_Y)
    return sample, i, j


def tile_for(size: int, at_most: int) -> int:
    """Returns the power of two that holds ``size``, but at most ``at_most``."""
    return min(triton.next_power_of_2(max(size, 1)), at_most)


class ComponentTile(NamedTuple):
    """Rows and components per program, values per component (a power of two), and warps for so many numbers."""

    rows: int
    block_c: int
    block_s: int

    @property
    def num_warps(self) -> int:
        return max(4, min(16, self.rows * self.block_c * self.block_s // 512))

    def constants(self, block: str) -> dict[str, int]:
        """Returns a launch's arguments; ``block`` is the kernel's name for block_s."""
        return {"ROWS": self.rows, "BLOCK_C": self.block_c, block: self.block_s, "num_warps": self.num_warps}


def component_tile(num_components: int, size: int) -> ComponentTile:
    """Returns the tile of programs that stream through rows: about 1024 numbers, adjacent in memory."""
    block_s = triton.next_power_of_2(size)
    block_c = tile_for(num_components, max(1024 // block_s, 1))
    return ComponentTile(max(1024 // (block_s * block_c), 1), block_c, block_s)


def own_tile(num_own: int, num_components: int, size: int) -> ComponentTile:
    """Returns the tile of pairwise gradients: 1024 numbers, in 8 rows if they fit, which share each row they load."""
    block_s = triton.next_power_of_2(size)
    rows = tile_for(num_own, max(min(8, 1024 // block_s), 1))
    return ComponentTile(rows, tile_for(num_components, max(1024 // (block_s * rows), 1)), block_s)


def pair_tile(num_x: int, num_y: int, item_size: int) -> tuple[int, int]:
    """Returns the rows of x and of y per program: 128 bytes per thread and number of a pair."""
    return tile_for(num_x, 128 // item_size), max(tile_for(num_y, 128), 16)
