"""The Triton function of nearest neighbours against backends/reference, on a GPU or under the interpreter."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from backend_comparison import DTYPES, assert_alike
from triton_testing import DEVICE, import_kernels, interpreted

import qmkernels as qm
from qmkernels.backends.reference import nearest as reference

kernels = import_kernels("nearest")
pytestmark = interpreted


def _tiles_agree(tiles: tuple[torch.Tensor, ...], k: int) -> None:
    """Checks that merging the tiles one after another gives the reference's bits after every tile."""
    num_rows = tiles[0].shape[0]
    values = tiles[0].new_full((num_rows, k), torch.inf)
    indices = torch.full((num_rows, k), -1, dtype=torch.int64, device=DEVICE)
    first = 0
    for tile in tiles:
        tile = tile.contiguous()
        actual = kernels.nearest_merge(tile, values, indices, first)
        values, indices = reference.nearest_merge(tile, values, indices, first)
        torch.testing.assert_close(actual, (values, indices), rtol=0, atol=0, equal_nan=True)
        first += tile.shape[1]


def _distances(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(DEVICE, dtype)


@pytest.mark.parametrize("widths", ((7,), (1, 1, 1), (3, 33, 5), (40, 2)))
@pytest.mark.parametrize("k", (1, 2, 5, 17))
@pytest.mark.parametrize("dtype", DTYPES)
def test_tiles_are_merged_as_by_the_reference(dtype, k, widths):
    _tiles_agree(_distances(5, sum(widths), dtype=dtype).split(widths, dim=1), k)


@pytest.mark.parametrize("k", (1, 9))
def test_a_tile_may_be_wider_than_a_block(k):
    _tiles_agree(_distances(3, 2500).split((1025, 1475), dim=1), k)


@pytest.mark.parametrize("k", (1, 4, 30))
@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_distances_come_in_the_order_of_their_indices(dtype, k):
    tied = torch.randint(0, 3, (9, 24), generator=torch.Generator().manual_seed(0)).to(DEVICE, dtype)
    _tiles_agree((tied * -0.0).split(8, dim=1), k)
    _tiles_agree(tied.split(8, dim=1), k)


@pytest.mark.parametrize("k", (1, 4, 30, 1100))
@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_comes_after_every_number_and_empty_places_after_everything(dtype, k):
    distances = _distances(6, 20, dtype=dtype)
    distances[0, 3:17] = torch.nan
    distances[1] = torch.nan
    distances[2, ::2] = torch.inf
    distances[3, ::3] = -torch.inf
    distances[4, 5], distances[4, 6], distances[4, 7] = torch.inf, torch.nan, -torch.inf
    _tiles_agree(distances.split((7, 12, 1), dim=1), k)


@pytest.mark.parametrize("k", (1024, 1025))
def test_many_neighbours_are_found_in_the_kernel_and_by_sorting(k):
    _tiles_agree(_distances(1, 1200).split((700, 500), dim=1), k)


def test_sorting_is_the_same_as_the_kernel():
    distances = torch.randint(0, 9, (4, 30), generator=torch.Generator().manual_seed(0)).to(DEVICE, torch.float32)
    distances[:, 4:7] = torch.nan
    values = torch.full((4, 12), torch.inf, device=DEVICE)
    indices = torch.full((4, 12), -1, dtype=torch.int64, device=DEVICE)
    for first in (0, 10, 20):
        tile = distances[:, first : first + 10].contiguous()
        sorted_values, sorted_indices = kernels._merged_by_sorting(tile, values, indices, first)
        values, indices = kernels.nearest_merge(tile, values, indices, first)
        torch.testing.assert_close(sorted_values[:, :12], values, rtol=0, atol=0, equal_nan=True)
        assert torch.equal(sorted_indices[:, :12], indices)


def test_indices_may_pass_32_bits():
    distances, first = _distances(3, 5), 2**33
    values, indices = distances.new_full((3, 2), torch.inf), torch.full((3, 2), -1, device=DEVICE)
    actual = kernels.nearest_merge(distances, values, indices, first)
    assert_alike(actual, reference.nearest_merge(distances, values, indices, first))
    assert (actual[1] >= first).all()


@pytest.mark.parametrize("num_rows, num_columns", ((0, 5), (3, 0)))
def test_no_rows_or_no_columns_change_nothing(num_rows, num_columns):
    filled = _distances(num_rows, 3).sort(dim=1).values
    indices = torch.arange(3, device=DEVICE).expand(num_rows, 3).contiguous()
    tile = _distances(num_rows, num_columns)
    assert_alike(kernels.nearest_merge(tile, filled, indices, 3), (filled, indices))


@pytest.mark.parametrize("k", (1, 4))
def test_public_function_runs_on_this_backend(k):
    generator = torch.Generator().manual_seed(0)
    x, bank = (torch.randn(n, 8, generator=generator, dtype=torch.float64).to(DEVICE) for n in (5, 40))
    x.requires_grad_()
    metric = partial(qm.iqe, dim_per_component=4, backend="reference")
    results = []
    for backend in ("triton", "reference"):
        result = qm.nearest(x, bank, k, metric=metric, backend=backend)
        results.append((result.values.detach(), result.indices, *torch.autograd.grad(result.values.sum(), x)))
    assert_alike(*results)
