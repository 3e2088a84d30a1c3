"""The Triton functions of IQE against backends/reference, on a GPU where there is one, else under Triton's interpreter.

Triton reads TRITON_INTERPRET where a function is decorated, its own library's included. So the variable is set around
the first import; where triton was imported before without it, the whole file runs once more in a process of its own.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

if importlib.util.find_spec("triton") is None:
    pytest.skip("the package triton is not installed", allow_module_level=True)

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"


def _import_interpreted() -> bool:
    """Import triton and the kernels under the interpreter, and put the environment back for other files' tests."""
    before = os.environ.get("TRITON_INTERPRET")
    os.environ["TRITON_INTERPRET"] = "1"
    try:
        import triton.language
        from triton.runtime.interpreter import InterpretedFunction

        if not isinstance(triton.language.standard.cdiv, InterpretedFunction):
            return False
        from qmkernels.backends.triton import iqe

        return isinstance(iqe.iqe_forward_kernel, InterpretedFunction)
    finally:
        if before is None:
            del os.environ["TRITON_INTERPRET"]
        else:
            os.environ["TRITON_INTERPRET"] = before


RUNS_HERE = ON_GPU or _import_interpreted()

from qmkernels.backends.reference import iqe as reference  # noqa: E402
from qmkernels.backends.triton import iqe as kernels  # noqa: E402
from qmkernels.backends.triton import iqe_pairwise as pairwise_kernels  # noqa: E402
from qmkernels.reference import iqe as definition  # noqa: E402

runs_here = pytest.mark.skipif(
    not RUNS_HERE, reason="triton was imported before without its interpreter; the file runs in a process of its own"
)


@pytest.fixture(autouse=True)
def _interpreter(monkeypatch):
    """Parts of triton are imported at the first launch and must find the variable too."""
    if not ON_GPU:
        monkeypatch.setenv("TRITON_INTERPRET", "1")


DIM_PER_COMPONENT = (1, 4, 5, 8, 16, 33, 64)
DTYPES = (torch.float32, torch.float64)
# float32: the reduction over components, and the sum over the other side, in another order than the reference's.
TOLERANCE = {torch.float32: {"rtol": 3e-6, "atol": 1e-5}, torch.float64: {"rtol": 1e-12, "atol": 1e-12}}


@pytest.mark.skipif(RUNS_HERE, reason="every test of the file runs in this process")
def test_whole_file_passes_in_a_process_whose_triton_is_interpreted():
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "pytest", "-q", "--import-mode=importlib", __file__]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def _points(*rows: int, size: int, dtype: torch.dtype, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*rows, size, generator=generator, dtype=torch.float64)
    y = torch.randn(*rows, size, generator=generator, dtype=torch.float64) + 0.5
    return x.to(DEVICE, dtype), y.to(DEVICE, dtype)


def _pair_points(num_x: int, num_y: int, size: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = _points(2, max(num_x, num_y), size=size, dtype=dtype)
    return x[:, :num_x].contiguous(), y[:, :num_y].contiguous()


def _max_weight(dtype: torch.dtype) -> torch.Tensor:
    return torch.tensor(0.3, dtype=dtype, device=DEVICE)


def _assert_alike(got: tuple[torch.Tensor, ...], wanted: tuple[torch.Tensor, ...]) -> None:
    for one, other in zip(got, wanted, strict=True):
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        if one.is_floating_point():
            torch.testing.assert_close(one, other, equal_nan=True, **TOLERANCE[one.dtype])
        else:
            assert torch.equal(one, other)


def _differentiated(function, *inputs: torch.Tensor, grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
    inputs = tuple(value.detach().requires_grad_() for value in inputs)
    return torch.autograd.grad(function(*inputs), inputs, grad)


@runs_here
@pytest.mark.parametrize("keep", (False, True))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", definition.REDUCTIONS)
@pytest.mark.parametrize("dim_per_component", DIM_PER_COMPONENT)
def test_forward_returns_what_the_reference_returns(dim_per_component, reduction, dtype, keep):
    x, y = _points(7, size=3 * dim_per_component, dtype=dtype)
    arguments = x, y, _max_weight(dtype), dim_per_component, reduction, keep
    _assert_alike(kernels.iqe_forward(*arguments), reference.iqe_forward(*arguments))


@runs_here
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", definition.REDUCTIONS)
@pytest.mark.parametrize("dim_per_component", DIM_PER_COMPONENT)
def test_backward_is_the_gradient_of_the_definition(dim_per_component, reduction, dtype):
    x, y = _points(7, size=3 * dim_per_component, dtype=dtype)
    max_weight = _max_weight(dtype)
    out, ends, largest, _ = reference.iqe_forward(x, y, max_weight, dim_per_component, reduction, True)
    grad_out = torch.randn_like(out)
    got = kernels.iqe_backward(grad_out, ends, largest, max_weight, dim_per_component, reduction)

    def distance(x, y):
        return definition.iqe(x, y, dim_per_component, reduction=reduction, max_weight=max_weight)

    _assert_alike(got, _differentiated(distance, x, y, grad=grad_out))


@runs_here
@pytest.mark.parametrize("keep", (False, True))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", definition.REDUCTIONS)
@pytest.mark.parametrize("dim_per_component", DIM_PER_COMPONENT)
def test_pairwise_forward_returns_what_the_reference_returns(dim_per_component, reduction, dtype, keep):
    x, y = _pair_points(5, 7, 3 * dim_per_component, dtype)
    arguments = x, y, _max_weight(dtype), dim_per_component, reduction, keep
    _assert_alike(kernels.iqe_pairwise_forward(*arguments), reference.iqe_pairwise_forward(*arguments))


@runs_here
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", definition.REDUCTIONS)
@pytest.mark.parametrize("dim_per_component", DIM_PER_COMPONENT)
def test_pairwise_backward_is_the_gradient_of_the_definition(dim_per_component, reduction, dtype):
    x, y = _pair_points(5, 7, 3 * dim_per_component, dtype)
    max_weight = _max_weight(dtype)
    out, largest = reference.iqe_pairwise_forward(x, y, max_weight, dim_per_component, reduction, True)
    grad_out = torch.randn_like(out)
    arguments = grad_out, x, y, largest, max_weight, dim_per_component, reduction
    grad_x, grad_y, none = kernels.iqe_pairwise_backward(*arguments, need_weight_gradient=False)
    assert none.shape == (0,)

    def distance(x, y):
        x, y = x.unsqueeze(-2), y.unsqueeze(-3)
        return definition.iqe(x, y, dim_per_component, reduction=reduction, max_weight=max_weight)

    _assert_alike((grad_x, grad_y), _differentiated(distance, x, y, grad=grad_out))


@runs_here
@pytest.mark.parametrize("num_x, num_y", ((1, 1), (1, 33), (33, 1), (17, 131), (131, 17)))
def test_pairwise_gradients_hold_where_points_pass_a_tile(num_x, num_y):
    x, y = _pair_points(num_x, num_y, 3 * 4, torch.float64)
    max_weight = _max_weight(torch.float64)
    out, largest = reference.iqe_pairwise_forward(x, y, max_weight, 4, "maxmean", True)
    _assert_alike(kernels.iqe_pairwise_forward(x, y, max_weight, 4, "maxmean", True), (out, largest))
    arguments = torch.randn_like(out), x, y, largest, max_weight, 4, "maxmean", True
    _assert_alike(kernels.iqe_pairwise_backward(*arguments), reference.iqe_pairwise_backward(*arguments))


@runs_here
def test_pairwise_offsets_of_64_bits_give_the_same_numbers(monkeypatch):
    x, y = _pair_points(5, 7, 3 * 4, torch.float64)
    out, largest = kernels.iqe_pairwise_forward(x, y, None, 4, "max", True)
    grads = kernels.iqe_pairwise_backward(out, x, y, largest, None, 4, "max", False)
    monkeypatch.setattr(pairwise_kernels, "_is_wide", lambda *_: True)
    _assert_alike(kernels.iqe_pairwise_forward(x, y, None, 4, "max", True), (out, largest))
    _assert_alike(kernels.iqe_pairwise_backward(out, x, y, largest, None, 4, "max", False), grads)


@runs_here
@pytest.mark.parametrize("num_components", (1, 2, 7, 129))
def test_any_number_of_components_is_reduced(num_components):
    x, y = _points(5, size=num_components * 8, dtype=torch.float64)
    arguments = x, y, _max_weight(torch.float64), 8, "maxmean", True
    _assert_alike(kernels.iqe_forward(*arguments), reference.iqe_forward(*arguments))


@runs_here
def test_one_component_may_span_1024_values():
    x, y = _points(3, size=1024, dtype=torch.float64)
    arguments = x, y / 64 + x, None, 1024, "sum", True
    _assert_alike(kernels.iqe_forward(*arguments), reference.iqe_forward(*arguments))


@runs_here
@pytest.mark.parametrize("dim_per_component", (4, 5, 16, 33))
def test_tied_ends_add_up_to_the_reference_subgradient(dim_per_component):
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randint(0, 5, (2, 57, 2 * dim_per_component), generator=generator).to(DEVICE, torch.float64)
    for got, wanted, coordinate in zip(
        reference.unpack_ends(kernels.iqe_forward(x, y, None, dim_per_component, "sum", True)[1], dim_per_component),
        definition.ends(x, y, dim_per_component),
        (x, y),
        strict=True,
    ):
        coordinate = coordinate.unflatten(-1, (-1, dim_per_component))
        for tied in range(5):
            assert torch.equal(
                (got.bool() & (coordinate == tied)).sum(dim=-1), (wanted & (coordinate == tied)).sum(dim=-1)
            )


@runs_here
@pytest.mark.parametrize("dim_per_component", (4, 5, 16, 33))
def test_pairwise_tied_ends_add_up_to_the_length(dim_per_component):
    # sum of y * grad_y + x * grad_x over a component is the sum of its lengths, whichever of the tied ends is taken.
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randint(0, 5, (2, 1, 9, 2 * dim_per_component), generator=generator).to(DEVICE, torch.float64)
    lengths, largest = kernels.iqe_pairwise_forward(x, y, None, dim_per_component, "none", True)
    grads = kernels.iqe_pairwise_backward(
        torch.ones_like(lengths), x, y, largest, None, dim_per_component, "none", False
    )
    by_component = (x * grads[0] + y * grads[1]).unflatten(-1, (-1, dim_per_component)).sum(dim=(1, 3))
    assert torch.equal(by_component, lengths.sum(dim=(1, 2)))


@runs_here
@pytest.mark.parametrize("side", ("x", "y"))
@pytest.mark.parametrize("reduction", ("none", "sum", "max", "maxmean"))
@pytest.mark.parametrize("dim_per_component", (4, 5, 33))
def test_nan_gives_nan_in_its_own_row_alone(dim_per_component, reduction, side):
    x, y = _points(7, size=3 * dim_per_component, dtype=torch.float32)
    (x if side == "x" else y)[2, dim_per_component + 1] = torch.nan
    arguments = x, y, _max_weight(torch.float32), dim_per_component, reduction, False
    _assert_alike(kernels.iqe_forward(*arguments), reference.iqe_forward(*arguments))


@runs_here
@pytest.mark.parametrize("side", ("x", "y"))
@pytest.mark.parametrize("reduction", ("none", "sum", "max", "maxmean"))
@pytest.mark.parametrize("dim_per_component", (4, 5, 33))
def test_nan_gives_nan_in_its_own_pairs_alone(dim_per_component, reduction, side):
    x, y = _pair_points(5, 7, 3 * dim_per_component, torch.float32)
    (x if side == "x" else y)[1, 2, dim_per_component + 1] = torch.nan
    arguments = x, y, _max_weight(torch.float32), dim_per_component, reduction, False
    _assert_alike(kernels.iqe_pairwise_forward(*arguments), reference.iqe_pairwise_forward(*arguments))


@runs_here
@pytest.mark.parametrize("infinity", (torch.inf, -torch.inf))
@pytest.mark.parametrize("side", ("x", "y"))
@pytest.mark.parametrize("dtype", DTYPES)
def test_infinity_counts_as_the_largest_finite_number(dtype, side, infinity):
    x, y = _pair_points(5, 5, 3 * 4, dtype)
    (x if side == "x" else y)[:, 2, 4:7] = infinity
    arguments = x, y, None, 4, "none", True
    _assert_alike(kernels.iqe_forward(*arguments), reference.iqe_forward(*arguments))
    _assert_alike(kernels.iqe_pairwise_forward(*arguments), reference.iqe_pairwise_forward(*arguments))


@runs_here
@pytest.mark.parametrize("reduction", definition.REDUCTIONS)
@pytest.mark.parametrize("shape", ((0, 8), (3, 0, 8)))
def test_empty_batch_returns_empty_tensors_of_the_right_shape(shape, reduction):
    x = torch.zeros(shape, dtype=torch.float64, device=DEVICE)
    arguments = x, x, _max_weight(torch.float64), 4, reduction, True
    got = kernels.iqe_forward(*arguments)
    _assert_alike(got, reference.iqe_forward(*arguments))
    grads = kernels.iqe_backward(got[0], got[1], got[2], arguments[2], 4, reduction)
    _assert_alike(grads, (x, x))


@runs_here
@pytest.mark.parametrize("shape_x, shape_y", (((0, 3, 8), (0, 2, 8)), ((2, 0, 8), (2, 3, 8)), ((2, 3, 8), (2, 0, 8))))
def test_pairwise_with_an_empty_side_returns_zero_gradients(shape_x, shape_y):
    x, y = torch.ones(shape_x, device=DEVICE), torch.ones(shape_y, device=DEVICE)
    arguments = x, y, _max_weight(torch.float32), 4, "maxmean", True
    got = kernels.iqe_pairwise_forward(*arguments)
    _assert_alike(got, reference.iqe_pairwise_forward(*arguments))
    grads = kernels.iqe_pairwise_backward(got[0], x, y, got[1], arguments[2], 4, "maxmean", True)
    _assert_alike(grads, (torch.zeros_like(x), torch.zeros_like(y), torch.zeros((), device=DEVICE)))


@runs_here
def test_two_runs_of_the_pairwise_gradient_give_the_same_bits():
    x, y = _pair_points(9, 35, 3 * 8, torch.float32)
    out, largest = kernels.iqe_pairwise_forward(x, y, None, 8, "max", True)
    arguments = torch.randn_like(out), x, y, largest, None, 8, "max", False
    for one, other in zip(
        kernels.iqe_pairwise_backward(*arguments), kernels.iqe_pairwise_backward(*arguments), strict=True
    ):
        assert torch.equal(one, other)


# Compiles one kernel ahead of time; no GPU is needed, nor may triton be interpreted.
COMPILE = Path(__file__).parent / "compile_triton_iqe.py"


@pytest.mark.parametrize("dtype", ("fp32", "fp64"))
@pytest.mark.parametrize("target", ("cuda:80:32", "cuda:90:32", "hip:gfx942:64"))
def test_every_kernel_compiles_ahead_of_time(target, dtype, tmp_path):
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, str(COMPILE), target, dtype]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.count("compiled") == 4 * 4 * 2
