"""The ops of qmkernels.jax against the PyTorch reference in float64, and under the transformations of JAX."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import pytest
import torch

import qmkernels as qm

# Four devices, as in test_jax_kernel_call.py, and programs that are compiled in half the time.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
jax = pytest.importorskip("jax", reason="JAX is not installed")
jnp = jax.numpy
qj = qm.jax

jax.config.update("jax_enable_x64", True)


class Case(NamedTuple):
    """An op in both libraries, and the sizes of its arguments, of which the first two are x and y."""

    in_jax: Callable
    in_torch: Callable
    sizes: tuple[tuple[int, ...], ...]


def case(name: str, *sizes: tuple[int, ...], **settings: object) -> Case:
    """Takes the sizes of x, y and, if it has one, of the distance's parameter."""

    def of(library: object) -> Callable:
        function = partial(getattr(library, name), **settings)
        parameter = "weights" if name.startswith("pqe") else "max_weight"
        return lambda x, y, *given, **backend: function(x, y, **dict(zip([parameter], given, strict=False)), **backend)

    return Case(of(qj), of(qm), sizes)


ROWS, PAIRS = ((33, 48), (33, 48)), ((2, 33, 48), (2, 7, 48))
CASES = {
    "mrn": case("mrn", *ROWS),
    "mrn none": case("mrn", *ROWS, num_components=3, reduction="none", squares="mean", exponent=2.0),
    "mrn_pairwise tmd": case("mrn_pairwise", *PAIRS, preset="tmd"),
    "mrn_pairwise ogbench": case("mrn_pairwise", *PAIRS, preset="ogbench"),
    "mrn_pairwise none": case("mrn_pairwise", *PAIRS, num_components=3, reduction="none", to_minus_from=True),
    "euclidean_pairwise": case("euclidean_pairwise", *PAIRS),
    "iqe": case("iqe", *ROWS, dim_per_component=8),
    "iqe broadcast": case("iqe", (3, 1, 48), (33, 48), dim_per_component=8, reduction="none"),
    "iqe weights": case("iqe", (3, 1, 48), (3, 33, 48), (3, 1), dim_per_component=6),
    "iqe_pairwise": case("iqe_pairwise", *PAIRS, (2, 1, 1), dim_per_component=8),
    "pqe": case("pqe", *ROWS, reduction="mean"),
    "pqe_pairwise": case("pqe_pairwise", *PAIRS, (2, 1, 1, 12)),
}


def arguments_of(case: Case, seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.normal(size=size) for size in case.sizes]


def weighted_sum(function: Callable, xp: object) -> Callable:
    """Returns a number that depends on every value of the function, so that its gradient does too."""

    def total(*arguments):
        out = function(*arguments)
        return (out * xp.asarray(np.cos(np.arange(np.prod(out.shape))).reshape(out.shape), dtype=out.dtype)).sum()

    return total


def in_torch(case: Case, arguments: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Returns the value and the gradients of `weighted_sum` by the reference in float64."""
    tensors = [torch.tensor(argument, requires_grad=True) for argument in arguments]
    function = partial(case.in_torch, backend="reference")
    grads = torch.autograd.grad(weighted_sum(function, torch)(*tensors), tensors)
    return function(*tensors).detach().numpy(), [grad.numpy() for grad in grads]


def assert_equal(ours: object, theirs: object, tolerance: float) -> None:
    ours, theirs = jax.tree.leaves(ours), jax.tree.leaves(theirs)
    for a, b in zip(ours, theirs, strict=True):
        scale = max(1.0, float(np.abs(b).max(initial=0)))
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize(
    ("name", "dtype", "tolerance"),
    [*((name, "float64", 1e-10) for name in CASES), *((f"{op}_pairwise", "float32", 1e-5) for op in ("iqe", "pqe"))],
)
def test_values_and_gradients_are_those_of_the_reference(name, dtype, tolerance):
    case = CASES[name]
    arguments = arguments_of(case)
    values, grads = in_torch(case, arguments)
    arrays = [jnp.asarray(argument, dtype) for argument in arguments]
    out = jax.jit(case.in_jax)(*arrays)
    assert out.dtype == dtype
    assert_equal(out, values, tolerance)
    assert_equal(jax.grad(weighted_sum(case.in_jax, jnp), range(len(arrays)))(*arrays), grads, tolerance)
