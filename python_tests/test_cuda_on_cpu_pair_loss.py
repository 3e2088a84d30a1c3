"""The CUDA kernels of losses over a matrix of distances on a CPU (cuda_on_cpu.py) against backends/reference."""

from __future__ import annotations

import far_rows
import pytest
import torch
from backend_comparison import DTYPES, assert_alike
from cuda_on_cpu import kernels, needs_compiler

from qmkernels.arguments.pair_loss import KINDS, SOFTMAXES, PairLossSettings
from qmkernels.backends.native import pair_loss as native
from qmkernels.backends.reference import pair_loss as reference

pytestmark = needs_compiler
pair_loss_kernels = kernels("pair_loss")

# One tile, tiles that rows and columns do not fill, more tiles than the three blocks, columns without a match.
SHAPES = [(1, 1, 1, 0), (2, 7, 7, 0), (2, 33, 150, 5), (1, 70, 300, 100)]
TERMS = [
    (kind, terms)
    for kind in KINDS
    for terms in ("alone", "linex", "linex per row")
    if (kind, terms) != ("none", "alone")
] + [(kind, "near") for kind in SOFTMAXES]


def _problem(shape, kind: str, terms: str, dtype: torch.dtype, scale: float = 0.7):
    *shape, offset = shape
    generator = torch.Generator().manual_seed(sum(shape))
    distance, after = 6 * torch.rand(2, *shape, generator=generator, dtype=torch.float64).to(dtype)
    log_discounts = -torch.rand(shape[:2], generator=generator, dtype=torch.float64).to(dtype)
    places = torch.randint(0, shape[2], (shape[0], shape[2]), dtype=torch.int32, generator=generator)
    form = PairLossSettings(kind, scale, 0.1, 0.7, 2.0, 0.4, -0.1, 1.3, 0.6, offset, 0.3, shape[2] // 4)
    return (
        distance,
        after if terms.startswith("linex") else None,
        log_discounts if terms == "linex per row" else None,
        places if terms == "near" else None,
        *form,
    )


def _agree(arguments) -> None:
    tensors, form = arguments[:4], arguments[4:]
    actual, expected = (module.pair_loss_forward(*arguments) for module in (native, reference))
    assert_alike(actual, expected)
    grad = tensors[0].new_tensor(0.37)
    actual, expected = (
        module.pair_loss_backward(grad, *tensors, *expected[2:], *form) for module in (native, reference)
    )
    assert_alike((actual,), (expected,))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind, terms", TERMS)
@pytest.mark.parametrize("shape", SHAPES)
def test_forward_and_backward_return_what_the_reference_returns(shape, kind, terms, dtype):
    _agree(_problem(shape, kind, terms, dtype))


@pytest.mark.parametrize("kind", ["backward", "forward", "symmetric"])
def test_logits_far_apart_neither_overflow_nor_vanish(kind):
    _agree(_problem((2, 33, 150, 5), kind, "alone", torch.float32, scale=200.0))


@pytest.mark.parametrize("kind, far, scale", far_rows.CASES)
def test_one_row_that_is_far_from_all_costs_the_others_no_digits(kind, far, scale):
    far_rows.check_kernels(native, kind, far, scale)


@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_what_is_not_finite_gives_what_the_reference_gives(value, kind):
    distance, *rest = _problem((1, 5, 7, 1), kind, "alone", torch.float64)
    distance[0, 2, 4] = value
    _agree((distance, *rest))
