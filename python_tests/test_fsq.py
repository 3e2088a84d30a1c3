"""Finite scalar quantisation: codes, indices, the straight-through gradient, and the op contract."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

import qmkernels as qm
from qmkernels.backends import dispatch
from qmkernels.definitions import fsq as definition

LEVELS = ([2], [5], [8, 8], [8, 5, 3], [7, 5, 5, 5], [3, 4, 5, 6, 7], [1000, 999], [2] * 62)
NAMES = [f"{levels[:5]} of {len(levels)}" for levels in LEVELS]
DTYPES = (torch.float32, torch.float64)


def _values(levels, rows=7, groups=5, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(rows, groups * len(levels), generator=generator, dtype=torch.float64)).to(dtype)


def _middles(levels):
    """Returns inputs in the middle of each level of each value of a group, (max levels, n) in float64."""
    rows = []
    for constants, count in zip(definition.constants(levels), levels, strict=True):
        digit = torch.arange(max(levels), dtype=torch.float64).clamp(max=count - 1) - constants.width
        rows.append(torch.atanh((digit + constants.offset) / constants.half) - constants.shift)
    return torch.stack(rows, dim=-1)


def test_codes_and_indices_of_the_formula_by_hand(backend):
    z, levels = [0.3, -1.2, 0.0, 0.9], [5, 4]
    codes, index = [], []
    for j, value in enumerate(z):
        count = levels[j % 2]
        half, offset = (count - 1) * 1.001 / 2, 0.5 if count == 4 else 0.0
        digit = round(math.tanh(value + math.atanh(offset / half)) * half - offset)
        codes.append(digit / 2)
        index.append(digit + 2)
    result = qm.fsq(torch.tensor(z), levels)
    assert result.codes.tolist() == codes
    assert result.indices.tolist() == [index[0] + 5 * index[1], index[2] + 5 * index[3]]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("levels", LEVELS, ids=NAMES)
def test_every_level_is_reached_and_its_code_is_the_quotient_rounded_once(levels, dtype, backend):
    codes, _ = qm.fsq(_middles(levels).to(dtype), levels)
    for j, count in enumerate(levels):
        digit = torch.arange(max(levels), dtype=dtype).clamp(max=count - 1) - count // 2
        assert torch.equal(codes[:, j], digit / (count // 2))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("levels", LEVELS, ids=NAMES)
def test_kernel_codes_equal_the_references_except_at_the_middle_between_two_levels(levels, dtype, backend):
    z = _values(levels, rows=501, groups=7, dtype=dtype)
    codes, indices = qm.fsq(z, levels)
    expected, wanted_indices = qm.fsq(z, levels, backend="reference")
    shift, half, offset, _, _ = (
        torch.tensor(values, dtype=torch.float64).repeat(7)
        for values in zip(*definition.constants(levels), strict=True)
    )
    # In double, from the constants and z as rounded to the dtype.
    bounded = (z.double() + shift.to(dtype)).tanh() * half.to(dtype) - offset
    from_boundary = (bounded - bounded.floor() - 0.5).abs()
    differs = codes != expected
    assert (from_boundary[differs] <= 8 * torch.finfo(dtype).eps * half.expand_as(bounded)[differs]).all()
    same = ~differs.unflatten(-1, (7, -1)).any(dim=-1)
    assert torch.equal(indices[same], wanted_indices[same])


@pytest.mark.parametrize("size", [0, 1, 2, 3, 15, 16, 17, 33, 123, 507, 1023, 1025, 70001])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 7])
def test_no_size_leaves_a_value_out_or_writes_past_the_end(size, n, backend):
    levels = [3, 4, 5, 6, 7, 8, 9][:n]
    generator = torch.Generator().manual_seed(size)
    expected = torch.randint(0, math.prod(levels), (size,), generator=generator)
    places = torch.stack(
        [
            expected // constants.place % count
            for constants, count in zip(definition.constants(levels), levels, strict=True)
        ],
        -1,
    )
    z = _middles(levels).gather(0, places).flatten().float()
    codes, indices = qm.fsq(z, levels)
    assert torch.equal(indices, expected)
    assert torch.equal(codes, qm.fsq_codes(expected, levels))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(2, 1000), min_size=1, max_size=6), st.integers(1, 40), st.integers(0, 2**31))
def test_indices_lead_back_to_the_codes_and_are_in_range(levels, groups, seed):
    z = 3 * torch.randn(groups * len(levels), generator=torch.Generator().manual_seed(seed))
    codes, indices = qm.fsq(z, levels)
    assert (indices >= 0).all() and (indices < math.prod(levels)).all()
    assert torch.equal(qm.fsq_codes(indices, levels), codes)
    assert codes.abs().max() <= 1


@pytest.mark.parametrize("levels", LEVELS, ids=NAMES)
def test_codes_do_not_fall_and_infinities_give_the_outermost_levels(levels, backend):
    n = len(levels)
    z = torch.linspace(-30, 30, 2001, dtype=torch.float64)[:, None].repeat(1, n)
    z[0], z[-1] = -torch.inf, torch.inf
    codes, indices = qm.fsq(z, levels)
    assert (codes.diff(dim=0) >= 0).all()
    assert indices[0].item() == 0 and indices[-1].item() == math.prod(levels) - 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("levels", [[8], [8, 5], [8, 5, 3], [7, 5, 5, 5, 5]], ids=str)
def test_nan_gives_nan_in_its_own_place_and_its_group_no_index(levels, dtype, backend):
    n = len(levels)
    z = _values(levels, rows=60, groups=9, dtype=dtype).requires_grad_()
    with torch.no_grad():
        z[3, 1] = z[17, n * 4] = z[59, -1] = torch.nan
    codes, indices = qm.fsq(z, levels)
    is_nan = z.detach().isnan()
    assert torch.equal(codes.isnan(), is_nan)
    assert torch.equal(indices == -1, is_nan.unflatten(-1, (9, n)).any(dim=-1))
    assert torch.equal(torch.autograd.grad(codes.sum(), z)[0].isnan(), is_nan)
    back = qm.fsq_codes(indices, levels, dtype)
    assert torch.equal(back.isnan(), (indices == -1).repeat_interleave(n, dim=-1))


# --- The gradient: that of `straight_through`.


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("levels", LEVELS, ids=NAMES)
def test_the_gradient_is_that_of_the_bounded_value(levels, dtype, backend):
    z = _values(levels, rows=37, groups=7, dtype=dtype).requires_grad_()
    grad = _values(levels, rows=37, groups=7, dtype=dtype, seed=1)
    (actual,) = torch.autograd.grad(qm.fsq(z, levels).codes, z, grad)
    exact = z.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(definition.straight_through(exact, levels), exact, grad.double())
    tolerance = 20 * torch.finfo(dtype).eps
    torch.testing.assert_close(actual.double(), expected, rtol=tolerance, atol=4 * tolerance)


def test_the_gradient_is_accurate_where_the_tanh_is_almost_one():
    if reason := dispatch.why_not("cpu", "fsq", "cpu"):
        pytest.skip(reason)
    z = torch.linspace(5, 40, 101).requires_grad_()
    (grad,) = torch.autograd.grad(qm.fsq(z, [5], backend="cpu").codes.sum(), z)
    expected = 2.002 / 2 / z.detach().double().cosh().square()
    torch.testing.assert_close(grad.double(), expected, rtol=1e-6, atol=1e-37)


def test_the_definition_passes_gradcheck():
    z = _values([8, 5, 3], rows=2, groups=2).requires_grad_()
    assert gradcheck(lambda z: definition.straight_through(z, [8, 5, 3]), z)
    grad = torch.randn_like(z)
    (expected,) = torch.autograd.grad(definition.straight_through(z, [8, 5, 3]), z, grad)
    torch.testing.assert_close(definition.gradient(grad, z, [8, 5, 3]), expected)


def test_the_gradient_itself_passes_gradcheck_and_gradgradcheck_in_both_modes(backend):
    z = _values([8, 5, 3], rows=2, groups=2).requires_grad_()
    grad = torch.randn_like(z).requires_grad_()

    def gradient(grad, z):
        return torch.autograd.grad(qm.fsq(z, [8, 5, 3]).codes, z, grad, create_graph=True)[0]

    assert gradcheck(gradient, (grad, z), check_batched_grad=True)
    assert gradgradcheck(gradient, (grad, z))
    (derivative,) = torch.autograd.grad(gradient(grad, z), z, torch.ones_like(z))
    _, pull = torch.func.vjp(lambda z: qm.fsq(z, [8, 5, 3]).codes, z.detach())
    _, tangent = torch.func.jvp(
        lambda z: torch.func.vjp(lambda z: qm.fsq(z, [8, 5, 3]).codes, z)[1](grad.detach())[0],
        (z.detach(),), (torch.ones_like(z),),
    )  # fmt: skip
    torch.testing.assert_close(pull(grad.detach())[0], gradient(grad, z).detach())
    torch.testing.assert_close(tangent, derivative)


# --- The op contract (DESIGN).


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_torch_compile_traces_the_whole_graph_and_changes_no_number(dynamic):
    torch._dynamo.reset()

    def step(z):
        codes, indices = qm.fsq(2 * z, [8, 5, 3])
        return codes + 1, indices, qm.fsq_codes(indices, [8, 5, 3])

    compiled = torch.compile(step, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for rows in (4, 9):
        z = _values([8, 5, 3], rows=rows).requires_grad_()
        actual, expected = compiled(z), step(z)
        torch.testing.assert_close(actual, expected)
        grad = torch.randn_like(expected[0])
        torch.testing.assert_close(torch.autograd.grad(actual[0], z, grad), torch.autograd.grad(expected[0], z, grad))
        with torch.no_grad():
            torch.testing.assert_close(compiled(z), expected)


def test_func_grad_vmap_and_their_compositions_equal_a_loop(backend):
    levels = (8, 5)
    batch = _values(levels, rows=3, groups=4)

    def loss(z):
        return qm.fsq(z, levels).codes.pow(3).sum()

    leaf = batch.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(leaf), leaf)
    torch.testing.assert_close(torch.func.grad(loss)(batch), expected)
    torch.testing.assert_close(torch.vmap(torch.func.grad(loss))(batch), expected)
    torch.testing.assert_close(torch.func.grad(lambda z: torch.vmap(loss)(z).sum())(batch), expected)
    for dim in (0, 1, 2):
        stacked = torch.stack([batch, batch + 0.3], dim=dim)
        result = torch.vmap(lambda z: tuple(qm.fsq(z, levels)), in_dims=dim)(stacked)
        for part, whole in zip(result, qm.fsq(torch.stack([batch, batch + 0.3]), levels), strict=True):
            assert torch.equal(part, whole)
    result = torch.vmap(lambda i: qm.fsq_codes(i, levels))(qm.fsq(batch, levels).indices)
    assert torch.equal(result, qm.fsq(batch.float(), levels).codes)


@pytest.mark.parametrize("shape", [(0, 6), (4, 0), (2, 0, 6), (0,)])
def test_empty_inputs_give_empty_outputs(shape, backend):
    z = torch.zeros(shape, requires_grad=True)
    codes, indices = qm.fsq(z, [3, 3])
    assert codes.shape == z.shape and indices.shape == (*shape[:-1], shape[-1] // 2) and indices.dtype == torch.int64
    codes.sum().backward()
    assert z.grad.shape == z.shape
    assert qm.fsq_codes(indices, [3, 3]).shape == z.shape


def test_indices_take_part_in_no_gradient_and_arguments_are_not_mutated(backend):
    z = _values([8, 5]).requires_grad_()
    before = z.detach().clone()
    codes, indices = qm.fsq(z, [8, 5])
    assert codes.requires_grad and not indices.requires_grad
    codes.sum().backward()
    assert torch.equal(z.detach(), before)


def test_backward_keeps_the_input_alone(backend):
    kept = []
    z = _values([8, 5], rows=50).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        qm.fsq(z, [8, 5])
    assert len(kept) == 1 and kept[0].shape == z.shape


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_codes_of_indices_come_in_the_dtype_asked_for(dtype):
    indices = torch.arange(40, dtype=torch.int32)
    codes = qm.fsq_codes(indices, [8, 5], dtype)
    assert codes.dtype == dtype
    torch.testing.assert_close(codes.float(), qm.fsq_codes(indices, [8, 5]), rtol=4e-3, atol=0)


def test_an_index_out_of_range_gives_nan_where_it_is_not_looked_at():
    indices = torch.tensor([[3, 40], [-2, -1]])
    codes = torch.vmap(lambda indices: qm.fsq_codes(indices, [8, 5]))(indices)
    assert codes.isnan().tolist() == [[False, False, True, True], [True] * 4]


@pytest.mark.parametrize(
    "z, levels, error, message",
    [
        (torch.zeros(4), [], ValueError, "at least one int"),
        (torch.zeros(4), [8, 1], ValueError, "from 2 to 1000"),
        (torch.zeros(4), [8, 1001], ValueError, "from 2 to 1000"),
        (torch.zeros(63), [2] * 63, ValueError, "below 2\\^63"),
        (torch.zeros(5), [8, 8], ValueError, "multiple of the number of levels, 2, got \\(5,\\)"),
        (torch.tensor(1.0), [8], ValueError, "multiple of the number of levels"),
        (torch.zeros(4), [8.0, 8], TypeError, "levels must be ints, got float"),
        (torch.zeros(4), [True], TypeError, "levels must be ints, got bool"),
        (torch.zeros(4), 8, TypeError, "list or tuple of ints, got int"),
        (torch.zeros(4, dtype=torch.int64), [8, 8], TypeError, "must be float64"),
        ([0.0, 0.0], [8, 8], TypeError, "must be a tensor, got list"),
    ],
)
def test_wrong_arguments_are_refused(z, levels, error, message):
    with pytest.raises(error, match=message):
        qm.fsq(z, levels)


@pytest.mark.parametrize(
    "indices, options, error, message",
    [
        (torch.tensor([40]), {}, ValueError, "from 0 to 39, got 40 to 40"),
        (torch.tensor([0, -2]), {}, ValueError, "from 0 to 39, got -2 to 0"),
        (torch.tensor([1.0]), {}, TypeError, "tensor of integers, got torch.float32"),
        ([1], {}, TypeError, "tensor of integers, got list"),
        (torch.tensor([True]), {}, TypeError, "integers of shape"),
        (torch.tensor(1), {}, TypeError, "integers of shape"),
        (torch.tensor([1]), {"dtype": torch.int32}, TypeError, "floating point dtype"),
    ],
)
def test_wrong_arguments_of_the_way_back_are_refused(indices, options, error, message):
    with pytest.raises(error, match=message):
        qm.fsq_codes(indices, [8, 5], **options)
