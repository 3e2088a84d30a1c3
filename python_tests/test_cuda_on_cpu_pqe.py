"""PQE-LH's CUDA kernels on a CPU (cuda_on_cpu.py) against backends/reference."""

from __future__ import annotations

import pytest
import torch
from backend_comparison import DTYPES, HALF, assert_alike, assert_same, pair_points, points, with_special_values
from cuda_on_cpu import check_half_without_a_copy, kernels, needs_compiler, off_a_boundary

import qmkernels as qm
from qmkernels.backends.native import pqe as native
from qmkernels.backends.reference import pqe as reference

pytestmark = needs_compiler
pqe_kernels = kernels("pqe")

# Full and partial packs of 16 bytes, part of a slice of 32, several slices.
DIM_PER_COMPONENT = (1, 2, 5, 8, 16, 33, 64, 77)
WEIGHTED = pytest.mark.parametrize("weighted", (True, False), ids=("weights", "components"))


def _weights(x: torch.Tensor, dim_per_component: int, weighted: bool, num_runs: int | None) -> torch.Tensor | None:
    """(C,), or (num_runs, C)."""
    if not weighted:
        return None
    generator, shape = torch.Generator().manual_seed(3), () if num_runs is None else (num_runs,)
    return torch.rand(*shape, x.shape[-1] // dim_per_component, generator=generator, dtype=torch.float64).to(x.dtype)


def _gradients_alike(actual: tuple[torch.Tensor | None, ...], expected: tuple[torch.Tensor | None, ...]) -> None:
    assert_alike(actual[:2], expected[:2])
    if expected[2] is None:
        assert actual[2] is None
        return
    # A sum over all rows or pairs, of both signs, has the error of its largest terms.
    scale = 1e-5 if expected[2].dtype == torch.float32 else 1e-12
    torch.testing.assert_close(actual[2], expected[2], rtol=scale, atol=10 * scale, equal_nan=True)


def _rows_agree(
    x: torch.Tensor, y: torch.Tensor, dim_per_component: int, weighted: bool, num_runs: int | None = None
) -> None:
    weights = _weights(x, dim_per_component, weighted, num_runs)
    out = reference.pqe_forward(x, y, weights, dim_per_component)
    assert_alike((native.pqe_forward(x, y, weights, dim_per_component),), (out,))
    grad_out = torch.randn_like(out)
    for need_weights in {False, weighted}:
        arguments = grad_out, x, y, weights, dim_per_component, need_weights
        _gradients_alike(native.pqe_backward(*arguments), reference.pqe_backward(*arguments))


def _pairs_agree(
    x: torch.Tensor, y: torch.Tensor, dim_per_component: int, weighted: bool, num_runs: int | None = None
) -> None:
    weights = _weights(x, dim_per_component, weighted, num_runs)
    out = reference.pqe_pairwise_forward(x, y, weights, dim_per_component)
    assert_alike((native.pqe_pairwise_forward(x, y, weights, dim_per_component),), (out,))
    grad_out = torch.randn_like(out)
    for need_weights in {False, weighted}:
        arguments = grad_out, x, y, weights, dim_per_component, need_weights
        _gradients_alike(native.pqe_pairwise_backward(*arguments), reference.pqe_pairwise_backward(*arguments))


@pytest.mark.parametrize("dtype", DTYPES)
@WEIGHTED
@pytest.mark.parametrize("dim_per_component", (*DIM_PER_COMPONENT, 1001))
def test_rows_agree_with_the_reference(dim_per_component, weighted, dtype):
    _rows_agree(*points(47, size=3 * dim_per_component, dtype=dtype), dim_per_component, weighted)


@WEIGHTED
@pytest.mark.parametrize("num_components", (1, 2, 31, 129))
def test_any_number_of_components_is_reduced(num_components, weighted):
    _rows_agree(*points(5, size=num_components * 8, dtype=torch.float64), 8, weighted)


def test_many_rows_add_up_to_the_gradient_of_weights():
    # At most 8192 groups: five rows per group, and fewer in the last.
    _rows_agree(*points(8192 * 4 + 7, size=2, dtype=torch.float64), 2, True)


# Groups have four rows, and the last of a run fewer.
@pytest.mark.parametrize("dim_per_component", (1, 8, 33))
@pytest.mark.parametrize("num_runs, rows_per_run", ((1, 47), (47, 1), (2, 3), (5, 23)))
def test_a_run_of_rows_has_its_own_weights(num_runs, rows_per_run, dim_per_component):
    x, y = points(num_runs * rows_per_run, size=3 * dim_per_component, dtype=torch.float64)
    _rows_agree(x, y, dim_per_component, True, num_runs)


@pytest.mark.parametrize("dtype", DTYPES)
@WEIGHTED
@pytest.mark.parametrize("dim_per_component", DIM_PER_COMPONENT)
def test_pairs_agree_with_the_reference(dim_per_component, weighted, dtype):
    # One more than a tile on either side; the gradient of y is that of x with the sides exchanged.
    _pairs_agree(*pair_points(33, 65, 3 * dim_per_component, dtype), dim_per_component, weighted)


# One matrix has few blocks, so a block handles a slice of a component or, with many components, one component. With 100
# matrices it handles some of the seven components, with 256 all of them.
@pytest.mark.parametrize("batch, num_components, size", ((1, 1, 300), (1, 7, 40), (100, 7, 8), (256, 7, 8)))
@WEIGHTED
def test_pairs_agree_however_the_work_is_split_over_blocks(weighted, batch, num_components, size):
    x, y = points(batch, 3, size=num_components * size, dtype=torch.float32)
    _pairs_agree(x, y, size, weighted)
    _pairs_agree(x, y, size, weighted, batch)
    if batch % 2 == 0:
        _pairs_agree(x, y, size, weighted, 2)


def test_part_of_a_component_uses_the_weights_of_its_matrix():
    _pairs_agree(*points(2, 3, size=300, dtype=torch.float32), 300, True, 2)


# A goal against candidates, and the other way round.
@pytest.mark.parametrize("num_x, num_y", ((1, 3), (41, 1), (1, 41)))
@pytest.mark.parametrize("dim_per_component, num_runs", ((1, 1), (16, 3), (33, 1)))
@WEIGHTED
def test_pairs_with_a_single_row_agree_with_the_reference(weighted, dim_per_component, num_runs, num_x, num_y):
    x, y = pair_points(num_x, num_y, 3 * dim_per_component, torch.float64, batch=3)
    _pairs_agree(x, y, dim_per_component, weighted, num_runs)


@pytest.mark.parametrize("dim_per_component", (8, 40))
def test_gradients_add_up_over_tiles_where_the_work_is_not_split(dim_per_component):
    _pairs_agree(*pair_points(2, 65, 3 * dim_per_component, torch.float32, batch=86), dim_per_component, True)


@pytest.mark.parametrize("dim_per_component", (8, 36))
def test_tensors_off_a_boundary_of_16_bytes_are_taken_too(dim_per_component):
    x, y = (off_a_boundary(tensor) for tensor in pair_points(5, 5, 3 * dim_per_component, torch.float32))
    _rows_agree(x, y, dim_per_component, True)
    _pairs_agree(x, y, dim_per_component, True)


@WEIGHTED
@pytest.mark.parametrize("dim_per_component", (5, 16, 77))
def test_where_values_are_equal_the_gradient_is_that_from_above(dim_per_component, weighted):
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randint(0, 3, (2, 2, 9, 3 * dim_per_component), generator=generator).double()
    _rows_agree(x, y, dim_per_component, weighted)
    _pairs_agree(x, y, dim_per_component, weighted)
    assert torch.equal(native.pqe_forward(x, x, None, dim_per_component), torch.zeros(2, 9, 3).double())


@pytest.mark.parametrize("dtype", DTYPES)
@WEIGHTED
@pytest.mark.parametrize("value", (torch.nan, torch.inf, -torch.inf, 1e30))
@pytest.mark.parametrize("side", ("x", "y"))
def test_nan_and_infinity_reach_what_they_reach_in_the_reference(side, value, weighted, dtype):
    x, y = pair_points(5, 7, 3 * 16, dtype)
    (x if side == "x" else y)[1, -1, 17] = value  # in the last row of the tile
    _rows_agree(x[:, :5].contiguous(), y[:, :5].contiguous(), 16, weighted)
    _pairs_agree(x, y, 16, weighted)


def test_two_runs_give_the_same_bits():
    x, y = pair_points(33, 65, 3 * 40, torch.float32)
    grad_out = torch.randn(2, 33, 65)
    runs = [native.pqe_pairwise_backward(grad_out, x, y, torch.ones(3), 40, True) for _ in range(2)]
    assert all(torch.equal(first, second) for first, second in zip(*runs, strict=True))


@pytest.mark.parametrize("dtype", HALF)
@WEIGHTED
@pytest.mark.parametrize("dim_per_component", (1, 5, 8, 12, 33, 150))
def test_rows_in_half_precision_give_the_numbers_of_float32(dim_per_component, weighted, dtype):
    x, y = with_special_values(*points(14, size=3 * dim_per_component, dtype=dtype))
    weights = _weights(x.float(), dim_per_component, weighted, 2)
    out = native.pqe_forward(x, y, weights, dim_per_component)
    assert_same((out,), (native.pqe_forward(x.float(), y.float(), weights, dim_per_component),))
    grad_out, settings = torch.randn_like(out), (weights, dim_per_component, weighted)
    *grads, of_weights = native.pqe_backward(grad_out, x, y, *settings)
    *expected, expected_of_weights = native.pqe_backward(grad_out, x.float(), y.float(), *settings)
    assert_same((*grads, of_weights), (*(grad.to(dtype) for grad in expected), expected_of_weights))


@pytest.mark.parametrize("head", (qm.pqe, qm.nn.PQELH(24, 4)), ids=("function", "module"))
def test_half_precision_reaches_the_kernels_without_a_copy(head, monkeypatch):
    x, y = points(5, size=24, dtype=torch.float32)
    check_half_without_a_copy(monkeypatch, lambda x, y: head(x, y).sum(), x=x, y=y)


def test_half_precision_off_a_boundary_is_taken_too():
    x, y = (off_a_boundary(tensor) for tensor in points(5, size=24, dtype=torch.bfloat16))
    assert_alike((native.pqe_forward(x, y, None, 8),), (reference.pqe_forward(x.float(), y.float(), None, 8),))
