"""The CUDA kernels that select nearest neighbours, on a CPU (cuda_on_cpu.py), against backends/reference."""

from __future__ import annotations

import pytest
import torch
from backend_comparison import DTYPES
from cuda_on_cpu import kernels, needs_compiler

from qmkernels.backends.native import nearest as native
from qmkernels.backends.reference import nearest as reference

pytestmark = needs_compiler
nearest_kernels = kernels("nearest")


def _merged(module, tiles: list[torch.Tensor], k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Merges tiles of distances, starting as ops/nearest.py does."""
    values = tiles[0].new_full((tiles[0].shape[0], k), torch.inf)
    indices = torch.full(values.shape, -1)
    first = 0
    for tile in tiles:
        values, indices = module.nearest_merge(tile, values, indices, first)
        first += tile.shape[1]
    return values, indices


def _agrees(tiles: list[torch.Tensor], k: int) -> None:
    (values, indices), (wanted_values, wanted_indices) = (_merged(module, tiles, k) for module in (native, reference))
    assert torch.equal(indices, wanted_indices)
    taken = indices >= 0  # the value of an empty place is undefined
    torch.testing.assert_close(values[taken], wanted_values[taken], rtol=0, atol=0, equal_nan=True)


def _tiles(rows: int, *columns: int, dtype: torch.dtype, levels: int = 0) -> list[torch.Tensor]:
    """Makes random distances; with `levels`, integers below that, which tie."""
    generator = torch.Generator().manual_seed(rows + sum(columns))
    shapes = [(rows, count) for count in columns]
    if levels:
        return [torch.randint(levels, shape, generator=generator).to(dtype) for shape in shapes]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


# Up to 32 in a warp's registers, more by a block in shared memory, and more than it gathers at once.
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("levels", (0, 5), ids=("distinct", "ties"))
@pytest.mark.parametrize("k", (1, 2, 7, 31, 32, 33, 300, 1500))
def test_the_k_smallest_of_several_tiles_agree_with_the_reference(k, levels, dtype):
    _agrees(_tiles(11, 1, 30, 129, 700, 1000, dtype=dtype, levels=levels), k)


@pytest.mark.parametrize("levels", (0, 5), ids=("distinct", "ties"))
@pytest.mark.parametrize("k", (1, 2, 32, 40))
def test_few_rows_are_shared_out_among_warps(k, levels):
    _agrees(_tiles(3, 1024, 3001, dtype=torch.float32, levels=levels), k)


@pytest.mark.parametrize("k", (1, 5, 50))
@pytest.mark.parametrize("order", ("ascending", "descending"))
def test_sorted_distances_agree_with_the_reference(order, k):
    row = torch.arange(2500, dtype=torch.float32)
    row = row if order == "ascending" else row.flip(0)
    _agrees([tile.expand(3, -1).contiguous() for tile in row.split(1300)], k)


@pytest.mark.parametrize("k", (1, 3, 20, 60, 130))
def test_nan_comes_after_every_number_and_before_empty_places(k):
    tiles = _tiles(7, 20, 50, 30, dtype=torch.float64, levels=3)
    tiles[0][0] = torch.nan
    tiles[0][1, 3] = tiles[1][1, 3] = torch.nan
    for tile in tiles:
        tile[2] = torch.nan
        tile[3] = torch.inf
    tiles[1][3, 5] = torch.nan
    tiles[2][4] = -torch.inf
    _agrees([tile.contiguous() for tile in tiles], k)


@pytest.mark.parametrize("k", (1, 5, 70))
def test_arguments_are_left_as_they_were(k):
    (distances,) = _tiles(4, 90, dtype=torch.float32)
    values, indices = torch.full((4, k), torch.inf), torch.full((4, k), -1)
    native.nearest_merge(distances, values, indices, 0)
    assert values.isinf().all()
    assert (indices == -1).all()


@pytest.mark.parametrize("k", (1, 4, 64))
def test_indices_beyond_32_bits_are_kept(k):
    (distances,) = _tiles(2, 80, dtype=torch.float32)
    values, indices = torch.full((2, k), torch.inf), torch.full((2, k), -1)
    first = 2**40
    actual = native.nearest_merge(distances, values, indices, first)
    expected = distances.sort(dim=1, stable=True)
    assert torch.equal(actual[0], expected.values[:, :k])
    assert torch.equal(actual[1], expected.indices[:, :k] + first)
