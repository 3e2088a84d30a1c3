"""IQE's CUDA kernels on a CPU (cuda_on_cpu.py) against backends/reference."""

from __future__ import annotations

import iqe_gradients
import pytest
import torch
from backend_comparison import HALF, assert_alike, assert_same, pair_points, points, with_special_values
from cuda_on_cpu import check_half_without_a_copy, kernels, needs_compiler, off_a_boundary

import qmkernels as qm
from qmkernels.arguments.iqe import REDUCTIONS
from qmkernels.backends.native import iqe as native
from qmkernels.backends.reference import iqe as reference
from qmkernels.definitions import iqe as definition

pytestmark = needs_compiler
iqe_kernels = kernels("iqe")

# Of rows 4, 8, 16, 32 and, in float32, 64 have their own kernels, of pairs 8, 16, 32 and 64; 24 and 33 are filled up;
# 83 exceeds the shared memory of pairs.
DIM_PER_COMPONENT = (1, 4, 5, 8, 16, 24, 32, 33, 64, 83)
# Every reduction in one dtype; in the other, the three that the kernels distinguish.
CASES = [(reduction, torch.float32) for reduction in REDUCTIONS]
CASES += [(reduction, torch.float64) for reduction in ("none", "sum", "maxmean")]
# The gradients of pairs take the longest here: every case for one size, and for the others one of each kind.
PAIRS_BACKWARD = [(8, *case) for case in CASES] + [
    (dim_per_component, reduction, dtype)
    for dim_per_component in DIM_PER_COMPONENT
    if dim_per_component != 8
    for reduction, dtype in (("none", torch.float32), ("maxmean", torch.float32), ("sum", torch.float64))
]


@pytest.mark.parametrize("keep", (False, True))
@pytest.mark.parametrize("reduction, dtype", CASES)
@pytest.mark.parametrize("dim_per_component", DIM_PER_COMPONENT)
def test_forward_returns_what_the_reference_returns(dim_per_component, reduction, dtype, keep):
    x, y = points(47, size=7 * dim_per_component, dtype=dtype)
    arguments = x, y, torch.tensor(0.3, dtype=dtype), dim_per_component, reduction, "sigmoid", keep
    assert_alike(native.iqe_forward(*arguments), reference.iqe_forward(*arguments))


@pytest.mark.parametrize("dim_per_component", (4, 5))
@pytest.mark.parametrize("num_components", (1, 2, 31, 128, 129, 300))
def test_any_number_of_components_is_reduced(num_components, dim_per_component):
    x, y = points(5, size=num_components * dim_per_component, dtype=torch.float64)
    arguments = x, y, torch.tensor(0.3, dtype=torch.float64), dim_per_component, "maxmean", "one_minus_sigmoid", True
    assert_alike(native.iqe_forward(*arguments), reference.iqe_forward(*arguments))


@pytest.mark.parametrize("dim_per_component", (8, 32, 64))
def test_tensors_off_a_boundary_of_16_bytes_are_taken_too(dim_per_component):
    size = 3 * dim_per_component
    x, y = points(9, size=size, dtype=torch.float32)
    arguments = off_a_boundary(x), off_a_boundary(y), None, dim_per_component, "sum", "identity", True
    assert_alike(native.iqe_forward(*arguments), reference.iqe_forward(*arguments))


@pytest.mark.parametrize("dim_per_component", (1024, 2500))
def test_one_component_may_span_all_values(dim_per_component):
    x, y = points(2, size=dim_per_component, dtype=torch.float64)
    arguments = x, y / 64 + x, None, dim_per_component, "sum", "identity", True
    assert_alike(native.iqe_forward(*arguments), reference.iqe_forward(*arguments))


@pytest.mark.parametrize("reduction, dtype", CASES)
@pytest.mark.parametrize("dim_per_component", DIM_PER_COMPONENT)
def test_backward_is_the_gradient_of_the_definition(dim_per_component, reduction, dtype):
    x, y = points(48, size=7 * dim_per_component, dtype=dtype)
    iqe_gradients.check_rows(native, x, y, dim_per_component, reduction)


@pytest.mark.parametrize("reduction, dtype", CASES)
@pytest.mark.parametrize("dim_per_component", DIM_PER_COMPONENT)
def test_pairwise_forward_returns_what_the_reference_returns(dim_per_component, reduction, dtype):
    # One more than a tile on either side.
    x, y = pair_points(17, 129, 5 * dim_per_component, dtype)
    arguments = x, y, torch.tensor(0.3, dtype=dtype), dim_per_component, reduction, "sigmoid", True
    assert_alike(native.iqe_pairwise_forward(*arguments), reference.iqe_pairwise_forward(*arguments))


# One matrix has few blocks, so a block handles one component; with 100 matrices two of the seven, with 256 all of them.
@pytest.mark.parametrize("batch", (1, 100, 256))
@pytest.mark.parametrize("reduction", ("none", "mean", "maxmean"))
def test_pairwise_components_are_reduced_however_they_are_split_over_blocks(reduction, batch):
    x, y = points(batch, 3, size=7 * 8, dtype=torch.float32)
    arguments = x, y, torch.tensor(0.3), 8, reduction, "sigmoid", True
    assert_alike(native.iqe_pairwise_forward(*arguments), reference.iqe_pairwise_forward(*arguments))


@pytest.mark.parametrize("dim_per_component, reduction, dtype", PAIRS_BACKWARD)
def test_pairwise_backward_is_the_gradient_of_the_definition(dim_per_component, reduction, dtype):
    # One more than a tile on either side; the gradient of y is that of x with the sides exchanged.
    x, y = pair_points(9, 129, 3 * dim_per_component, dtype)
    iqe_gradients.check_pairs(native, x, y, dim_per_component, reduction)


# A goal against candidates, and the other way round. The gradient of the single row is one sum over three rows, or
# sums over groups of four or more.
@pytest.mark.parametrize("num_x, num_y", ((1, 3), (1, 41), (41, 1), (1, 1)))
@pytest.mark.parametrize("dim_per_component, reduction, dtype", [(8, *case) for case in CASES] + [
    (1, "sum", torch.float32), (4, "max", torch.float64), (5, "maxmean", torch.float32), (16, "none", torch.float32),
    (32, "maxmean", torch.float64), (33, "sum", torch.float32), (83, "maxmean", torch.float64),
])  # fmt: skip
def test_pairs_with_a_single_row_agree_with_the_definition(dim_per_component, reduction, dtype, num_x, num_y):
    x, y = pair_points(num_x, num_y, 5 * dim_per_component, dtype)
    arguments = x, y, torch.tensor(0.3, dtype=dtype), dim_per_component, reduction, "sigmoid", True
    assert_alike(native.iqe_pairwise_forward(*arguments), reference.iqe_pairwise_forward(*arguments))
    iqe_gradients.check_pairs(native, x, y, dim_per_component, reduction)


def test_the_gradient_of_a_single_row_adds_up_over_large_groups():
    iqe_gradients.check_pairs(native, *pair_points(1501, 1, 128 * 4, torch.float32), 4, "maxmean")


@pytest.mark.parametrize("side", ("x", "y"))
@pytest.mark.parametrize("reduction", ("none", "sum", "max", "maxmean"))
@pytest.mark.parametrize("dim_per_component", (4, 5, 8, 33, 64, 77))
def test_nan_gives_nan_only_in_its_row(dim_per_component, reduction, side):
    x, y = points(7, size=3 * dim_per_component, dtype=torch.float32)
    (x if side == "x" else y)[2, dim_per_component + 1] = torch.nan
    arguments = x, y, torch.tensor(0.3), dim_per_component, reduction, "sigmoid", False
    assert_alike(native.iqe_forward(*arguments), reference.iqe_forward(*arguments))


@pytest.mark.parametrize("side", ("x", "y"))
@pytest.mark.parametrize("reduction", ("none", "sum", "max", "maxmean"))
@pytest.mark.parametrize("dim_per_component", (4, 5, 8, 33, 77))
def test_nan_gives_nan_only_in_its_pairs(dim_per_component, reduction, side):
    x, y = pair_points(5, 7, 3 * dim_per_component, torch.float32)
    (x if side == "x" else y)[1, 2, dim_per_component + 1] = torch.nan
    arguments = x, y, torch.tensor(0.3), dim_per_component, reduction, "sigmoid", False
    assert_alike(native.iqe_pairwise_forward(*arguments), reference.iqe_pairwise_forward(*arguments))


@pytest.mark.parametrize("infinity", (torch.inf, -torch.inf))
@pytest.mark.parametrize("side", ("x", "y"))
@pytest.mark.parametrize("dim_per_component", (4, 5))
def test_infinity_counts_as_the_largest_finite_number(dim_per_component, side, infinity):
    x, y = pair_points(5, 5, 3 * dim_per_component, torch.float64)
    (x if side == "x" else y)[:, 2, dim_per_component : 2 * dim_per_component - 1] = infinity
    arguments = x, y, None, dim_per_component, "none", "identity", True
    assert_alike(native.iqe_forward(*arguments), reference.iqe_forward(*arguments))
    assert_alike(native.iqe_pairwise_forward(*arguments), reference.iqe_pairwise_forward(*arguments))


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
@pytest.mark.parametrize("dim_per_component", (4, 5, 16, 33, 64, 70))
def test_tied_ends_add_up_to_the_reference_subgradient(dim_per_component, dtype):
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randint(0, 5, (2, 57, 2 * dim_per_component), generator=generator).to(dtype)
    ends = native.iqe_forward(x, y, None, dim_per_component, "sum", "identity", True)[1]
    for actual, expected, coordinate in zip(
        definition.unpack_ends(ends, dim_per_component), definition.ends(x, y, dim_per_component), (x, y), strict=True
    ):
        coordinate = coordinate.unflatten(-1, (-1, dim_per_component))
        for tied in range(5):
            here = coordinate == tied
            assert torch.equal((actual.bool() & here).sum(dim=-1), (expected & here).sum(dim=-1))


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
@pytest.mark.parametrize("dim_per_component", (4, 8, 16, 32, 33, 64))
def test_pairwise_tied_ends_add_up_to_the_length(dim_per_component, dtype):
    # sum of y * grad_y + x * grad_x over a component is the sum of its lengths, whichever of the tied ends is taken.
    generator = torch.Generator().manual_seed(1)
    rows, others = torch.randint(0, 5, (2, 1, 9, 2 * dim_per_component), generator=generator).to(dtype)
    for x, y in ((rows, others), (rows[:, :1], others), (rows, others[:, :1])):
        lengths, largest = native.iqe_pairwise_forward(x, y, None, dim_per_component, "none", "identity", True)
        ones = torch.ones_like(lengths)
        grads = native.iqe_pairwise_backward(ones, x, y, largest, None, dim_per_component, "none", "identity", False)
        of_x, of_y = (
            (s * g).sum(dim=1).unflatten(-1, (-1, dim_per_component)) for s, g in zip((x, y), grads[:2], strict=True)
        )
        assert torch.equal((of_x + of_y).sum(dim=-1), lengths.sum(dim=(1, 2)))


@pytest.mark.parametrize("side", ("x", "y"))
@pytest.mark.parametrize("dim_per_component", (4, 5, 8, 33, 64, 77))
def test_the_gradient_of_a_component_with_a_nan_is_nan(dim_per_component, side):
    x, y = points(7, size=3 * dim_per_component, dtype=torch.float32)
    (x if side == "x" else y)[2, dim_per_component + 1] = torch.nan
    kept = [
        module.iqe_forward(x, y, None, dim_per_component, "mean", "identity", True) for module in (native, reference)
    ]
    assert torch.equal(kept[0][1][2, 1], kept[1][1][2, 1])
    for others in kept:
        arguments = torch.ones(7), *others[1:], None, dim_per_component, "mean", "identity", False
        for grad in native.iqe_backward(*arguments)[:2]:
            nan = grad.isnan().unflatten(-1, (3, -1))
            assert nan[2, 1].all() and nan.sum() == dim_per_component


@pytest.mark.parametrize("side", ("x", "y"))
@pytest.mark.parametrize("dim_per_component", (4, 8, 33))
def test_the_pairwise_gradients_of_all_pairs_with_a_nan_are_nan(dim_per_component, side):
    rows, others = pair_points(5, 7, 3 * dim_per_component, torch.float32)
    (rows if side == "x" else others)[1, 2, dim_per_component + 1] = torch.nan
    none = torch.empty(0, dtype=torch.int32)
    for x, y in ((rows, others), (rows[:, 2:3].contiguous(), others), (rows, others[:, 2:3].contiguous())):
        grad_out = torch.ones(x.shape[0], x.shape[1], y.shape[1])
        arguments = grad_out, x, y, none, None, dim_per_component, "mean", "identity", False
        for actual, expected in zip(
            native.iqe_pairwise_backward(*arguments)[:2], reference.iqe_pairwise_backward(*arguments), strict=False
        ):
            assert torch.equal(actual.isnan(), expected.isnan()) and actual.isnan().any()


@pytest.mark.parametrize("dim_per_component", (4, 5, 8, 33))
def test_an_infinite_gradient_of_a_maximum_reaches_only_its_component(dim_per_component):
    iqe_gradients.check_infinite_upstream(
        native, *pair_points(5, 5, 3 * dim_per_component, torch.float32), dim_per_component
    )


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("dim_per_component", (4, 5, 8, 16, 24, 32, 64))
def test_rows_in_half_precision_give_the_numbers_of_float32(dim_per_component, dtype):
    x, y = with_special_values(*points(8, size=7 * dim_per_component, dtype=dtype))
    arguments = torch.tensor([0.3, -0.9]), dim_per_component, "maxmean", "sigmoid"
    out, *kept = native.iqe_forward(x, y, *arguments, True)
    assert_same((out, *kept), native.iqe_forward(x.float(), y.float(), *arguments, True))
    assert_same(native.iqe_forward(x, y, *arguments, False)[:1], (out,))
    grad_out = torch.randn_like(out)
    *grads, grad_weight = native.iqe_backward(grad_out, *kept, *arguments, True, x.new_empty(1))
    *expected, of_weight = native.iqe_backward(grad_out, *kept, *arguments, True)
    assert_same((*grads, grad_weight), (*(grad.to(dtype) for grad in expected), of_weight))


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("dim_per_component", (4, 8))
def test_half_precision_off_a_boundary_is_taken_too(dim_per_component, dtype):
    x, y = (off_a_boundary(tensor) for tensor in points(9, size=3 * dim_per_component, dtype=dtype))
    settings = None, dim_per_component, "none", "identity", True
    assert_alike(native.iqe_forward(x, y, *settings), reference.iqe_forward(x.float(), y.float(), *settings))


@pytest.mark.parametrize("head", (qm.iqe, qm.nn.IQE(32, 16)), ids=("function", "module"))
def test_half_precision_reaches_the_kernels_without_a_copy(head, monkeypatch):
    x, y = points(5, size=32, dtype=torch.float32)
    check_half_without_a_copy(monkeypatch, lambda x, y: head(x, y).sum(), x=x, y=y)
