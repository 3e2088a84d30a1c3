"""MRN: the published formulas, as accurate as plain PyTorch, finite where x == y, quasimetric where it claims."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import qmkernels as qm
from qmkernels.arguments.mrn import ASYMMETRIC, PRESETS, MrnSettings
from qmkernels.backends import dispatch
from qmkernels.definitions import mrn as definition

QUASIMETRIC = ({}, {"squares": "mean"}, {"exponent": 0.5}, {"asymmetric": "none"}, {"preset": "torchqmet_fixed"})
# Errors relative to the largest value. In float32 sums are in another order than plain PyTorch's.
TOLERANCE = {torch.float64: 1e-14, torch.float32: 3e-6}


def published(preset, x, y):
    """Computes the sources' formulas for one pair (D,), with Python's own arithmetic."""
    difference = (x - y).tolist()
    half = len(difference) // 2
    if preset in ("torchqmet", "torchqmet_fixed"):
        symmetric = sum(v * v for v in difference[:half]) / half
        root = symmetric if preset == "torchqmet" else math.sqrt(symmetric)
        return root + max(max(difference[half:]), 0.0)
    if preset == "ogbench":
        return math.sqrt(max(sum(v * v for v in difference[:half]), 1e-12)) + max(max(difference[half:]), 0.0)
    if preset == "etd":
        return max(max(difference[:half]), 0.0) + math.sqrt(sum(v * v for v in difference[half:]) + 1e-8)
    size, total = len(difference) // 8, 0.0
    for c in range(8):
        part = difference[c * size : (c + 1) * size]
        asymmetric, symmetric = part[: size // 2], part[size // 2 :]
        if preset == "mqe":
            root = math.sqrt(sum((v + 1e-8) ** 2 for v in symmetric))
        else:
            root = math.sqrt(sum(v * v for v in symmetric) + (1e-6 if preset == "tmd" else 0.0))
        total += max(max(asymmetric), 0.0) + root
    return total / 8 / (math.sqrt(len(difference)) if preset == "mqe" else 1.0)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_its_published_formula(preset, backend):
    x, y = torch.randn(2, 5, 64, dtype=torch.float64).unbind(0)
    y[3] = x[3]
    expected = torch.tensor([published(preset, a, b) for a, b in zip(x, y, strict=True)], dtype=torch.float64)
    torch.testing.assert_close(qm.mrn(x, y, preset=preset), expected, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(qm.mrn_pairwise(x, y, preset=preset).diagonal(), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_where_x_equals_y(preset, dtype, backend):
    for function in (qm.mrn, qm.mrn_pairwise):
        x = torch.randn(4, 32, dtype=dtype)
        leaves = x.clone().requires_grad_(), x.clone().requires_grad_()
        function(*leaves, preset=preset).sum().backward()
        assert all(leaf.grad.isfinite().all() for leaf in leaves)


def test_explicit_settings_replace_those_of_a_preset():
    x, y = torch.randn(2, 3, 32, dtype=torch.float64).unbind(0)
    mixed = qm.mrn(x, y, 4, preset="tmd", eps=0.0, reduction="sum", scale=2.0)
    torch.testing.assert_close(mixed, 2 * qm.mrn(x, y, 4))


FORMS = [
    MrnSettings(1), MrnSettings(3, "second", "mean", 2.0), MrnSettings(2, "none", "sum", 1.0, 1e-3, "max", "none", 0.3),
    MrnSettings(2, "first", "mean", 1.5, 0.5, "max", "mean"), MrnSettings(4, "second", "sum", 0.5, 1e-2, "difference"),
    MrnSettings(8, "first", "sum", 1.0, 1e-6, "add", "mean"), MrnSettings(1, "second", "sum", 1.0, 1e-12, "max"),
]  # fmt: skip


def _error(actual, expected):
    return ((actual.double() - expected).abs().max() / expected.abs().max().clamp(min=1e-30)).item()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("size", [1, 2, 3, 15, 16, 33, 130])
@pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(map(str, form)))
def test_kernels_are_as_accurate_as_plain_pytorch(form, size, dtype):
    if reason := dispatch.why_not("cpu", "mrn", "cpu"):
        pytest.skip(reason)
    kernels, plain = dispatch.resolve("mrn", "cpu", "cpu").module, dispatch.resolve("mrn", "cpu", "reference").module
    dim = form.num_components * size
    x, y = torch.randn(2, 21, dim, dtype=dtype), torch.randn(2, 38, dim, dtype=dtype)
    y[:, 7] = x[:, 7]
    rows = x, y[:, :21].contiguous()
    for name, inputs in (("", rows), ("pairwise_", (x, y)), ("pairwise_", (y, x[:, :3].contiguous()))):
        forward, backward = f"mrn_{name}forward", f"mrn_{name}backward"
        exact_inputs = [tensor.double() for tensor in inputs]
        exact = getattr(plain, forward)(*exact_inputs, *form)
        grad = torch.randn(exact.shape, dtype=dtype)
        exact = exact, *getattr(plain, backward)(grad.double(), *exact_inputs, *form)
        ours = getattr(kernels, forward)(*inputs, *form), *getattr(kernels, backward)(grad, *inputs, *form)
        theirs = getattr(plain, forward)(*inputs, *form), *getattr(plain, backward)(grad, *inputs, *form)
        for actual, same_dtype, expected in zip(ours, theirs, exact, strict=True):
            assert _error(actual, expected) <= _error(same_dtype, expected) + TOLERANCE[dtype]


def test_of_equal_largest_differences_one_has_the_gradient(backend):
    x = torch.tensor([[2.0, 5.0, 5.0, 1.0, 5.0, 0.0]] * 3).repeat(1, 6).requires_grad_()
    y = torch.zeros(3, 36)
    qm.mrn(x, y).sum().backward()
    assert (x.grad[:, :18].sum(dim=1) == 1).all() and ((x.grad[:, :18] == 1) == (x.grad[:, :18] != 0)).all()
    x.grad = None
    qm.mrn_pairwise(x, y).sum().backward()
    assert (x.grad[:, :18].sum(dim=1) == 3).all()


@pytest.mark.parametrize("where", [0, 13, 20, 39])
@pytest.mark.parametrize("asymmetric", ASYMMETRIC)
def test_nan_gives_nan_only_in_its_row_and_infinities_what_the_formula_gives(asymmetric, where, backend):
    x, y = torch.randn(2, 5, 40).unbind(0)
    x[2, where] = torch.nan
    out = qm.mrn(x, y, asymmetric=asymmetric)
    assert out[2].isnan() and not out[[0, 1, 3, 4]].isnan().any()
    matrix = qm.mrn_pairwise(x, y, asymmetric=asymmetric)
    assert matrix[2].isnan().all() and not matrix[[0, 1, 3, 4]].isnan().any()
    grads = torch.autograd.grad(qm.mrn(x.requires_grad_(), y, asymmetric=asymmetric).sum(), x)[0]
    assert grads[2].isnan().any() and not grads[[0, 1, 3, 4]].isnan().any()
    x = torch.randn(5, 40)
    x[0, where], x[1, where], x[2, where], y[2, where] = torch.inf, -torch.inf, torch.inf, torch.inf
    for pairs, wide in ((qm.mrn, (x, y)), (qm.mrn_pairwise, (x[:, None], y))):
        expected = definition.mrn(*wide, MrnSettings(asymmetric=asymmetric))
        torch.testing.assert_close(pairs(x, y, asymmetric=asymmetric), expected, equal_nan=True)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**31), st.sampled_from(QUASIMETRIC), st.sampled_from([2, 5, 24]))
def test_the_forms_without_eps_are_quasimetrics(seed, form, size):
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(7, 2 * size, dtype=torch.float64, generator=generator).mul(4).round().div(4)
    d = qm.mrn_pairwise(points, points, 2, **form)
    assert (d.diagonal() == 0).all() and (d >= 0).all()
    assert (d[:, None, :] <= d[:, :, None] + d[None] + 1e-9).all()
    torch.testing.assert_close(qm.mrn(points[:, None], points, 2, **form), d)


def test_euclidean_pairwise_is_exact_on_the_diagonal_and_between_near_rows(backend):
    x = 1000 + torch.randn(20, 24, dtype=torch.float32)
    y = x + 1e-3 * torch.randn_like(x)
    exact = torch.cdist(x.double(), y.double(), compute_mode="donot_use_mm_for_euclid_dist")
    torch.testing.assert_close(qm.euclidean_pairwise(x, y).double(), exact, rtol=1e-5, atol=0)
    leaf = x.clone().requires_grad_()
    d = qm.euclidean_pairwise(leaf, leaf)
    assert (d.diagonal() == 0).all()
    d.diagonal().sum().backward()
    assert not leaf.grad.any()


def test_pairwise_training_memory_stays_far_below_a_tensor_of_pairs():
    """Memory is why pairwise kernels exist: 512 x 512 pairs of 512 values would be 512 MiB per tensor."""
    if reason := dispatch.why_not("cpu", "mrn", "cpu"):
        pytest.skip(reason)
    x, y = torch.randn(2, 512, 512).unbind(0)
    x.requires_grad_(), y.requires_grad_()
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        qm.mrn_pairwise(x, y, preset="tmd").sum().backward()
    allocated = sum(max(event.self_cpu_memory_usage, 0) for event in profile.events())
    results = (512 * 512 + 2 * 512 * 512) * 4
    assert allocated - results < 16 * 2**20


@pytest.mark.parametrize(
    "keywords, error, message",
    [
        ({"preset": "qrl"}, ValueError, "preset must be one of torchqmet"),
        ({"num_components": 5}, ValueError, "multiple of num_components, got 32 and 5"),
        ({"num_components": 0}, ValueError, "at least 1"),
        ({"num_components": 2.0}, TypeError, "num_components must be an int"),
        ({"asymmetric": "both"}, ValueError, "asymmetric must be one of first, second, none"),
        ({"squares": "max"}, ValueError, "squares must be one of"),
        ({"exponent": 0.0}, ValueError, "exponent must be positive"),
        ({"eps": -1.0}, ValueError, "eps must be at least 0"),
        ({"eps_form": "inside"}, ValueError, "eps_form must be one of"),
        ({"reduction": "max"}, ValueError, "reduction must be one of"),
    ],
)
@pytest.mark.parametrize("function", [qm.mrn, qm.mrn_pairwise])
def test_wrong_settings_are_refused_with_the_choices(function, keywords, error, message):
    with pytest.raises(error, match=message):
        function(torch.zeros(2, 32), torch.zeros(2, 32), **keywords)


@pytest.mark.parametrize(
    "x, y, error, message",
    [
        (torch.zeros(2, 4), torch.zeros(2, 6), ValueError, "same last size"),
        (torch.zeros(2, 4), torch.zeros(3, 4), ValueError, "must broadcast"),
        (torch.zeros(2, 4, dtype=torch.int64), torch.zeros(2, 4), TypeError, "got torch.int64"),
        (torch.zeros(2, 4, dtype=torch.float64), torch.zeros(2, 4), TypeError, "same dtype"),
        (torch.zeros(2, 4), torch.zeros(2, 4, device="meta"), RuntimeError, "same device"),
        ([1.0], torch.zeros(2, 4), TypeError, "must be a tensor, got list"),
    ],
)
def test_wrong_tensors_are_refused_before_any_work(x, y, error, message):
    with pytest.raises(error, match=message):
        qm.mrn(x, y)
    if isinstance(x, torch.Tensor) and error is ValueError and "last" in message:
        with pytest.raises(ValueError, match="same last size"):
            qm.euclidean_pairwise(x, y)


def test_pairwise_needs_two_dimensions():
    with pytest.raises(ValueError, match=r"x and y must be \(\*b, N, D\)"):
        qm.mrn_pairwise(torch.zeros(4), torch.zeros(2, 4))


def test_pairwise_gradients_of_two_threads_are_those_of_one():
    # Few positive differences: where there was none, 0 used to be added to a value that another thread was writing.
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(100, 1088, generator=generator), torch.randn(2, 1088, generator=generator)
    arguments = torch.randn(1, 100, 2, generator=generator), x[None], y[None]
    settings = MrnSettings(num_components=64, asymmetric="second")
    kernels, threads = dispatch.resolve("mrn", "cpu", "cpu").module, torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = kernels.mrn_pairwise_backward(*arguments, *settings)
        torch.set_num_threads(2)
        for _ in range(200):
            together = kernels.mrn_pairwise_backward(*arguments, *settings)
            assert all(torch.equal(first, second) for first, second in zip(alone, together, strict=True))
    finally:
        torch.set_num_threads(threads)
