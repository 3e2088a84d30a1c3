"""The Triton functions of QRL's latent dynamics, on a GPU where there is one, else under the interpreter."""

from __future__ import annotations

import pytest
import torch
from backend_comparison import HALF, assert_alike, assert_same, with_special_values
from triton_testing import DEVICE, assert_rounded, import_kernels, interpreted, points

from qmkernels.arguments.latent_dynamics import LatentDynamicsSettings
from qmkernels.backends.reference import latent_dynamics as reference

kernels = import_kernels("latent_dynamics")
pytestmark = interpreted
CASES = [(reduction, torch.float32) for reduction in ("sum", "mean", "max", "maxmean", "spread")]
CASES += [(reduction, torch.float64) for reduction in ("sum", "maxmean")]


def _inputs(rows, num_components, dim_per_component, dtype=torch.float64, reduction="maxmean", power=2) -> list:
    """Makes the arguments of the two forward functions."""
    predicted, target = points(rows, size=num_components * dim_per_component, dtype=dtype)
    max_weight = torch.tensor(0.3, dtype=dtype, device=DEVICE) if reduction == "maxmean" else None
    form = LatentDynamicsSettings(dim_per_component, reduction, "sigmoid", power)
    return [0.4 * predicted, 0.4 * target, max_weight, *form]


def _agree(inputs: list) -> None:
    kept = reference.latent_dynamics_forward(*inputs)
    assert_alike(kernels.latent_dynamics_forward(*inputs), kept)
    # As ops do, empty tensors for what is not kept.
    kept = [torch.empty(0, device=DEVICE) if tensor is None else tensor for tensor in kept]
    arguments = torch.tensor(-1.7, dtype=kept[0].dtype, device=DEVICE), *kept[2:], inputs[2], inputs[0], *inputs[3:6]
    assert_alike(kernels.latent_dynamics_backward(*arguments), reference.latent_dynamics_backward(*arguments))


@pytest.mark.parametrize("power", (1, 2))
@pytest.mark.parametrize("reduction, dtype", CASES)
@pytest.mark.parametrize("dim_per_component", (1, 5, 8))
def test_the_loss_and_its_gradients_are_those_of_the_reference(dim_per_component, reduction, dtype, power):
    _agree(_inputs(7, 3, dim_per_component, dtype, reduction, power))


# Rows one below, at and one above the 256 of a program, and more distances than a block of the weight's gradient;
# components one below, at and one above its 128; long components.
@pytest.mark.parametrize(
    "rows, num_components, dim_per_component",
    [
        (1, 1, 1),
        *((rows, 2, 2) for rows in (255, 256, 257, 520)),
        *((2, num, 8) for num in (127, 128, 129)),
        (5, 2, 32),
        (2, 2, 77),
    ],
)
def test_any_number_of_rows_and_components_is_taken(rows, num_components, dim_per_component):
    _agree(_inputs(rows, num_components, dim_per_component))


@pytest.mark.parametrize("value", (torch.nan, torch.inf, -torch.inf))
@pytest.mark.parametrize("side", (0, 1), ids=("predicted", "target"))
@pytest.mark.parametrize("reduction", ("max", "maxmean"))
def test_what_is_not_finite_gives_what_the_reference_gives(reduction, side, value):
    inputs = _inputs(7, 3, 5, reduction=reduction, power=1)
    inputs[side][2, 6] = value
    _agree(inputs)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("dim_per_component", (5, 8))
def test_latents_in_half_precision_give_the_numbers_of_float32(dim_per_component, dtype):
    predicted, target, *settings = _inputs(9, 3, dim_per_component, torch.float32)
    latents = predicted.to(dtype), target.to(dtype)
    for prepared in (lambda x, y: (x, y), with_special_values):
        prepared(*latents)
        results = []
        for rows in (latents, tuple(rows.float() for rows in latents)):
            kept = kernels.latent_dynamics_forward(*rows, *settings)
            arguments = torch.tensor(-1.7, device=DEVICE), *kept[2:], settings[0], rows[0], *settings[1:4]
            results.append((kept, kernels.latent_dynamics_backward(*arguments)))
        (kept, (*grads, of_weight)), (expected, (*exact, exact_of_weight)) = results
        assert_same((*kept, of_weight), (*expected, exact_of_weight))
        assert_rounded(grads, exact, dtype)
