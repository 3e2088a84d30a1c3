"""OGBench's value networks on these kernels: its parameter trees, its numbers, and the lines that the page changes."""

import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="jax is not installed")
linen = pytest.importorskip("flax.linen", reason="flax is not installed")

from qmkernels.jax import ogbench  # noqa: E402

jax.config.update("jax_enable_x64", True)

S, D, B, K = 11, 16, 9, 4
NETWORKS = {"GCIQEValue": {"dim_per_component": K}, "GCMRNValue": {}}
LAYERS = {"Dense_0": (S, 12), "LayerNorm_0": None, "Dense_1": (12, 8), "LayerNorm_1": None, "Dense_2": (8, D)}
TOLERANCE = {"float32": 1e-5, "float64": 1e-10}
CHECKOUT = os.environ.get("QMKERNELS_OGBENCH")


def made(module, name, **settings):
    return getattr(module, name)(hidden_dims=(12, 8), latent_dim=D, **NETWORKS[name], **settings)


def rows(dtype):
    rng = np.random.default_rng(0)
    return (jax.numpy.asarray(rng.normal(size=(B, S)), dtype) for _ in range(2))


def expected_distance(name, x, y, parameters):
    if name == "GCMRNValue":
        step, half = x - y, D // 2
        return np.sqrt((step[:, :half] ** 2).sum(-1)) + np.maximum(step[:, half:], 0).max(-1)
    alpha = 1 / (1 + np.exp(-float(parameters["alpha"]["value"])))
    components = np.zeros((B, D // K))
    for row, component in np.ndindex(components.shape):
        places = slice(component * K, (component + 1) * K)
        reached = -np.inf
        for begin, end in sorted(zip(x[row, places], y[row, places], strict=True)):
            components[row, component] += max(0.0, max(begin, end) - max(begin, reached))
            reached = max(reached, begin, end)
    return alpha * components.mean(-1) + (1 - alpha) * components.max(-1)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_has_ogbenchs_parameters_and_distances(name):
    states, goals = rows("float64")
    network = made(ogbench, name)
    parameters = jax.jit(network.init)(jax.random.PRNGKey(0), states, goals)["params"]
    assert set(parameters) == {"phi", *(["alpha"] if name == "GCIQEValue" else [])}
    assert set(parameters["phi"]) == set(LAYERS)
    for layer, shape in LAYERS.items():
        assert set(parameters["phi"][layer]) == ({"kernel", "bias"} if shape else {"scale", "bias"})
        assert shape is None or parameters["phi"][layer]["kernel"].shape == shape
    parameters = jax.tree.map(lambda value: value.astype("float64") + 0.1, parameters)
    value, x, y = jax.jit(lambda p, s, g: network.apply({"params": p}, s, g, info=True))(parameters, states, goals)
    assert x.shape == y.shape == (B, D)
    np.testing.assert_allclose(value, expected_distance(name, np.asarray(x), np.asarray(y), parameters), rtol=1e-10)
    of_latents = jax.jit(lambda p, x, y: network.apply({"params": p}, x, y, is_phi=True))
    np.testing.assert_array_equal(of_latents(parameters, x, y), value)


@pytest.mark.skipif(CHECKOUT is None, reason="QMKERNELS_OGBENCH names no checkout of OGBench")
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("encoder", [None, linen.Dense(7)], ids=["no encoder", "encoder"])
@pytest.mark.parametrize("layer_norm", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_of_ogbench_load_and_give_its_values_and_gradients(name, layer_norm, encoder, dtype, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, str(Path(CHECKOUT) / "impls")])
    from utils import networks as public

    states, goals = rows(dtype)
    theirs, ours = (made(module, name, layer_norm=layer_norm, encoder=encoder) for module in (public, ogbench))
    parameters, own = (jax.jit(network.init)(jax.random.PRNGKey(0), states, goals) for network in (theirs, ours))
    jax.tree.map(np.testing.assert_array_equal, own, parameters)  # the same seed gives the same parameters
    parameters = jax.tree.map(lambda value: value.astype(dtype) + 0.1, parameters)

    def value_and_gradients(network):
        def loss(parameters, states, goals):
            value, *latents = network.apply(parameters, states, goals, info=True)
            back = network.apply(parameters, *latents[::-1], is_phi=True)
            return (value**2 + back).mean()

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(parameters, states, goals)

    for one, other in zip(*map(jax.tree.leaves, map(value_and_gradients, (ours, theirs))), strict=True):
        assert abs(one - other).max() <= TOLERANCE[dtype] * max(1e-3, abs(other).max())


def test_the_page_shows_the_lines_that_the_benchmark_changes():
    public_jax_agents = pytest.importorskip("public_jax_agents")
    page = (Path(ogbench.__file__).parent / "README.md").read_text()
    blocks = "".join(re.findall(r"```diff\n(.*?)```", page, re.DOTALL))
    shown = {line[0] + line[1:].strip() for line in blocks.splitlines()}
    changed = set()
    for changes in public_jax_agents.CHANGES.values():
        for old, new in changes.items():
            before, after = ({line.strip() for line in text.splitlines()} for text in (old, new))
            changed |= {f"-{line}" for line in before - after} | {f"+{line}" for line in after - before}
    assert shown == changed
