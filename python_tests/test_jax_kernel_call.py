"""Kernels as JAX primitives: every op against its definition in jax.numpy, under the transformations of JAX, on several
devices and threads, and with arguments that do not fit. Needs no torch."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest

# Four devices, and programs that are compiled in half the time.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
jax = pytest.importorskip("jax", reason="JAX is not installed")
jnp = jax.numpy

import qmkernels  # noqa: E402
from qmkernels.arguments.iqe import IqeSettings  # noqa: E402
from qmkernels.arguments.latent_dynamics import LatentDynamicsSettings  # noqa: E402
from qmkernels.arguments.metra import MetraSettings  # noqa: E402
from qmkernels.arguments.mrn import resolved_settings  # noqa: E402
from qmkernels.arguments.pair_loss import KINDS, PairLossSettings  # noqa: E402
from qmkernels.arguments.qrl_critic import QrlCriticSettings  # noqa: E402

qj = qmkernels.jax
from qmkernels.jax import fsq, iqe, mrn, pqe  # noqa: E402, F401
from qmkernels.jax.kernel_call import Op  # noqa: E402
from qmkernels.jax.latent_dynamics import latent_dynamics  # noqa: E402
from qmkernels.jax.metra import metra  # noqa: E402
from qmkernels.jax.pair_loss import pair_loss  # noqa: E402
from qmkernels.jax.qrl_critic import qrl_critic  # noqa: E402
from qmkernels.jax.temporal_consistency import TemporalConsistencySettings, temporal_consistency  # noqa: E402

jax.config.update("jax_enable_x64", True)

IQE, MRN, PQE, FSQ = (sys.modules[f"qmkernels.jax.{name}"] for name in ("iqe", "mrn", "pqe", "fsq"))


class Case(NamedTuple):
    """An op, its inputs by shape, an absent one None and a number a constant, and its settings."""

    op: Op
    inputs: tuple[tuple[int, ...] | None | float, ...]
    settings: Any


ROWS, PAIRS, WEIGHT = ((33, 24), (33, 24)), ((2, 33, 24), (2, 7, 24)), (0.3,)
CASES = {
    "mrn": Case(MRN._ROWS, ROWS, resolved_settings("", 24, "tmd", {})),
    "mrn_pairwise": Case(MRN._PAIRS, PAIRS, resolved_settings("", 24, "ogbench", {})),
    "iqe": Case(IQE._ROWS, (*ROWS, (3,)), IqeSettings(6)),
    "iqe max": Case(IQE._ROWS, (*ROWS, None), IqeSettings(6, "max")),
    "iqe_pairwise": Case(IQE._PAIRS, (*PAIRS, (2,)), IqeSettings(6, "maxmean", "sigmoid")),
    "iqe_pairwise sum": Case(IQE._PAIRS, (*PAIRS, None), IqeSettings(6, "sum")),
    "pqe": Case(PQE._ROWS, (*ROWS, (3, 4)), PQE.PqeSettings(6)),
    "pqe_pairwise": Case(PQE._PAIRS, (*PAIRS, (1, 4)), PQE.PqeSettings(6)),
    "fsq": Case(FSQ._fsq, ((33, 6),), FSQ.FsqSettings((5, 8, 7))),
    **{
        f"pair_loss {kind}": Case(
            pair_loss,
            ((2, 5, 7), None if kind in ("repulsion", "coulomb") else (2, 5, 7), (2, 5) if kind == "none" else None),
            PairLossSettings(kind=kind, scale=0.7, logsumexp_weight=0.1, offset=1, log_discount=-0.1),
        )
        for kind in KINDS
    },
    "qrl_critic": Case(qrl_critic, (*ROWS, ROWS[0], (1,), (), (33,)), QrlCriticSettings(6)),
    "qrl_critic rolled": Case(qrl_critic, (*ROWS, None, None, (), (1,)), QrlCriticSettings(6, "sum", multiplier="exp")),
    "latent_dynamics": Case(latent_dynamics, (*ROWS, (1,)), LatentDynamicsSettings(6)),
    "metra": Case(metra, (*ROWS, ROWS[0], ()), MetraSettings()),
    "temporal_consistency": Case(temporal_consistency, ((3, 5, 6), (3, 5, 6), (3, 5)), TemporalConsistencySettings()),
}  # fmt: skip
DISTANCES = ("mrn", "mrn_pairwise", "iqe", "iqe_pairwise", "pqe", "pqe_pairwise")


def inputs_of(case: Case, seed: int = 0) -> list[jax.Array]:
    random = np.random.default_rng(seed)
    is_distance = case.op is pair_loss
    values = [random.normal(size=(0,) if size is None else size) for size in case.inputs]
    no_places = [jnp.zeros((0,), jnp.int32)] if is_distance else []
    return [jnp.asarray(np.abs(v) if is_distance and v.ndim == 3 else v) for v in values] + no_places


def functions(case: Case) -> tuple[Any, Any]:
    """The first result by the kernel and by the definition."""
    return (
        lambda *inputs: case.op(*inputs, settings=case.settings)[0],
        lambda *inputs: case.op.definition(*inputs, case.settings)[0],
    )


def gradients(function, case: Case):
    """The gradients by the inputs that have some, of a number that depends on every value."""

    def total(*inputs):
        out = function(*inputs)
        return (jnp.sin(out) * jnp.cos(jnp.arange(out.size)).reshape(out.shape)).sum()

    return jax.grad(total, tuple(range(case.op.num_wrt)))


def assert_close(ours, theirs, tolerance: float = 1e-9) -> None:
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", CASES)
def test_results_and_gradients_are_those_of_the_definition(name):
    case = CASES[name]
    inputs = inputs_of(case)
    ours, theirs = functions(case)
    results = jax.jit(partial(case.op, settings=case.settings))(*inputs)
    assert_close(list(results), list(case.op.definition(*inputs, case.settings)))
    assert_close(jax.jit(gradients(ours, case))(*inputs), jax.jit(gradients(theirs, case))(*inputs))


@pytest.mark.parametrize(
    "name", ["mrn", "mrn_pairwise", "iqe", "iqe_pairwise", "pqe_pairwise", "fsq", "pair_loss symmetric"]
)
def test_mapped_calls_and_gradients_are_those_of_single_ones(name):
    case = CASES[name]
    function, inputs, others = functions(case)[0], inputs_of(case), inputs_of(case, 1)
    wrt = tuple(range(case.op.num_wrt))
    with_grads = jax.jit(jax.value_and_grad(lambda *inputs: jnp.sin(function(*inputs)).sum(), wrt))
    some = [[0, *(None for _ in inputs[1:])], [None, 0, *(None for _ in inputs[2:])], [0 for _ in inputs]]
    for dims in some if name in DISTANCES else some[-1:]:
        mapped = [i if d is None else jnp.stack([i, o], d) for i, o, d in zip(inputs, others, dims, strict=True)]
        second = [i if d is None else o for i, o, d in zip(inputs, others, dims, strict=True)]
        single = jax.tree.map(lambda *pair: jnp.stack(pair), with_grads(*inputs), with_grads(*second))
        assert_close(jax.vmap(with_grads, dims)(*mapped), single)
        # Of the sum over the axis, with the gradient in one call.
        summed = jax.grad(lambda *m, dims=dims: jnp.sin(jax.vmap(function, dims)(*m)).sum(), wrt)
        assert_close(summed(*mapped), [g.sum(0) if d is None else g for g, d in zip(single[1], dims, strict=False)])


def calls_in(function, *arguments) -> str:
    return str(jax.make_jaxpr(function)(*arguments))


def test_mapping_over_both_sides_is_one_pairwise_kernel_that_copies_neither():
    x, y = inputs_of(CASES["mrn"])
    by_rows = jax.vmap(jax.vmap(partial(qj.mrn, preset="tmd"), (None, 0)), (0, None))
    assert "qmkernels_mrn_pairwise_forward" in calls_in(by_rows, x, y) and "33,33,24]" not in calls_in(by_rows, x, y)
    assert_close(by_rows(x, y), qj.mrn_pairwise(x, y, preset="tmd"))


@pytest.mark.parametrize("name", ["mrn_pairwise", "iqe", "pqe"])
def test_further_derivatives_are_those_of_the_definition(name):
    case = CASES[name]
    inputs, moved = inputs_of(case), inputs_of(case, 1)
    results = []
    for function in functions(case):
        grads = gradients(function, case)

        def of_grads(*inputs, grads=grads):
            return sum(jnp.square(grad).sum() for grad in grads(*inputs))

        by_grads = jax.grad(of_grads, tuple(range(len(inputs))))
        jvp = partial(jax.jvp, function)
        results.append(jax.jit(lambda a, b, jvp=jvp, by=by_grads: (jvp(a, b), by(*a)))(tuple(inputs), tuple(moved)))
    assert_close(*results, tolerance=1e-7)


def test_eikonal_gradients_flow_through_an_encoder():
    case = CASES["mrn"]
    x, y = inputs_of(case)
    results = []
    for function in functions(case):

        def loss(weight, function=function):
            grads = jax.vmap(jax.grad(lambda a, b: function(a[None], b[None])[0]))(jnp.tanh(x @ weight), y)
            return jnp.square(jnp.linalg.norm(grads, axis=-1) - 1).mean()

        results.append(jax.jit(jax.grad(loss))(jnp.eye(24) + 0.1))
    assert_close(*results)


@pytest.mark.skipif(len(jax.devices()) < 4, reason="needs four devices, set before JAX begins")
def test_sharded_rows_give_the_values_and_gradients_of_one_device():
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), ("rows",))
    rows, whole = jax.sharding.PartitionSpec("rows"), jax.sharding.PartitionSpec()
    x, y = inputs_of(CASES["iqe"])[:2]
    x = x[:32]
    distance = partial(qj.iqe_pairwise, dim_per_component=6)
    sharded = jax.shard_map(distance, mesh=mesh, in_specs=(rows, whole), out_specs=rows)
    results = [
        jax.jit(jax.value_and_grad(lambda x, y, f=f: jnp.sin(f(x, y)).sum(), (0, 1)))(x, y) for f in (distance, sharded)
    ]
    assert_close(*results)


@pytest.mark.parametrize("shapes", [((0, 6), (0, 6)), ((3, 0, 6), (1, 5, 6)), ((0, 4, 6), (0, 5, 6))])
def test_arrays_without_rows_have_empty_distances_and_gradients_of_zero(shapes):
    x, y = (jnp.ones(shape) for shape in shapes)
    distance = qj.iqe if x.ndim == 2 else qj.iqe_pairwise
    value, grads = jax.value_and_grad(lambda x, y: distance(x, y, 3).sum(), (0, 1))(x, y)
    assert value == 0 and all(not grad.any() for grad in grads)


def test_nan_stays_in_its_row():
    x, y = inputs_of(CASES["mrn_pairwise"])
    x = x.at[0, 2, 3].set(jnp.nan)
    for distance in (qj.mrn_pairwise, partial(qj.iqe_pairwise, dim_per_component=6)):
        where = jnp.isnan(distance(x, y))
        assert where[0, 2].all() and where.sum() == where[0, 2].size


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_arrays_are_computed_in_float32(dtype):
    x, y = (side.astype(dtype) for side in inputs_of(CASES["mrn"]))
    out = qj.mrn(x, y)
    assert out.dtype == "float32"
    assert_close(out, qj.mrn(x.astype("float32"), y.astype("float32")))
    assert jax.grad(lambda x: qj.mrn(x, y).sum())(x).dtype == dtype


def test_indices_are_integers_of_jax_and_those_of_the_definition():
    x, bank = jnp.asarray(np.random.default_rng(0).integers(0, 3, (520, 2)), "float32"), jnp.zeros((1030, 2), "float32")
    bank = bank.at[:, 0].set(jnp.arange(1030) % 7)
    k, metric = 5, qj.mrn
    every = np.asarray(metric(x[:, None], bank))
    order = np.argsort(every, axis=1, kind="stable")[:, :k]
    for wide in (True, False):
        with jax.enable_x64(wide) if hasattr(jax, "enable_x64") else jax.experimental.enable_x64(wide):
            found = jax.jit(lambda x, bank: qj.nearest(x, bank, k, metric=metric))(x, bank)
            assert found.indices.dtype == ("int64" if wide else "int32")
            np.testing.assert_array_equal(found.indices, order)
            np.testing.assert_array_equal(found.values, np.take_along_axis(every, order, 1))
            assert qj.fsq(x, [5, 8]).indices.dtype == found.indices.dtype
    mapped = jax.vmap(lambda x: qj.nearest(x, bank, k, metric=metric).indices)(x[:4])
    np.testing.assert_array_equal(mapped, order[:4])


def test_gradients_of_nearest_are_those_of_its_distances():
    x, y = inputs_of(CASES["mrn"])
    grads = jax.grad(lambda x, y: jnp.sin(qj.nearest(x, y, 3, metric=qj.mrn).values).sum(), (0, 1))(x, y)
    smallest = lambda x, y: -jax.lax.top_k(-qj.mrn_pairwise(x, y), 3)[0]  # noqa: E731
    assert_close(grads, jax.grad(lambda x, y: jnp.sin(smallest(x, y)).sum(), (0, 1))(x, y))


def test_calls_from_many_threads_do_not_wait_for_each_other():
    x, y = (jnp.tile(side, (1, 6, 1)) for side in inputs_of(CASES["mrn_pairwise"]))
    step = jax.jit(jax.value_and_grad(lambda x, y: qj.mrn_pairwise(x, y).sum()))
    want = step(x, y)
    with ThreadPoolExecutor(8) as pool:
        for value, grad in pool.map(lambda _: step(x, y), range(64), timeout=120):
            assert value == want[0] and (grad == want[1]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": 34}, "x must have 816 elements, got 792"),
        ({"rows": -33}, "the attribute rows has another type or value"),
        ({"dim": 25}, "do not fit each other"),
        ({"num_components": 0}, "do not fit each other"),
        ({"squares": "product"}, "the attribute squares has another type or value"),
        ({"eps": 1}, "the attribute eps has another type or value"),
        ({"scale": None}, "the attribute scale is missing"),
    ],
)
def test_handlers_refuse_what_does_not_fit(change, message):
    case = CASES["mrn"]
    x, y = inputs_of(case)
    attributes = {**case.op.attributes(x, y, case.settings), **change}
    attributes = {
        name: np.int64(value) if isinstance(value, int) else np.float64(value) if isinstance(value, float) else value
        for name, value in attributes.items() if value is not None
    }  # fmt: skip
    with pytest.raises(Exception, match=message):
        jax.ffi.ffi_call("qmkernels_mrn_forward", jax.ShapeDtypeStruct((33,), x.dtype))(x, y, **attributes)


def test_handlers_refuse_another_dtype():
    case = CASES["mrn"]
    x, y = inputs_of(case)
    with pytest.raises(Exception, match="y has another dtype"):
        case.op._forward_kernel(x, y.astype("float32"), settings=case.settings, keep=True)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda x: qj.mrn(x, x[:, :7]), ValueError, r"mrn: x and y must have the same last size, got x \(33, 24\)"),
        (lambda x: qj.mrn(x, x[:5]), ValueError, "mrn: leading dimensions must broadcast"),
        (lambda x: qj.mrn(x, x, 7), ValueError, "mrn: the last size must be a multiple of num_components"),
        (lambda x: qj.mrn(x, x, preset="other"), ValueError, "mrn: preset must be one of"),
        (lambda x: qj.mrn(x, [1.0]), TypeError, "mrn: y must be an array, got list"),
        (lambda x: qj.mrn(x, x.astype(int)), TypeError, "mrn: y must be float64, float32, bfloat16 or float16"),
        (lambda x: qj.mrn(x, x.astype("float32")), TypeError, "mrn: x and y must have the same dtype"),
        (lambda x: qj.mrn_pairwise(x, x[0]), ValueError, "mrn_pairwise: x and y must be"),
        (
            lambda x: qj.iqe(x, x, 6, reduction="sum", max_weight=0.3),
            ValueError,
            "iqe: max_weight belongs to reduction",
        ),
        (lambda x: qj.iqe(x, x, 6, max_weight=jnp.ones(5)), ValueError, "iqe: weights must broadcast to"),
        (lambda x: qj.pqe(x, x, 6, weights=jnp.ones(5)), ValueError, "pqe: weights must be"),
        (lambda x: qj.fsq(x, [5, 8, 7, 3, 3]), ValueError, "fsq: the last size of z must be a multiple"),
        (lambda x: qj.nearest(x, x, 34, metric=qj.mrn), ValueError, "nearest: k must be from 1 to the bank's 33 rows"),
    ],
)
def test_bad_arguments_are_refused_when_the_call_is_traced(call, kind, message):
    with pytest.raises(kind, match=message):
        jax.eval_shape(call, jax.ShapeDtypeStruct((33, 24), "float64"))


@pytest.mark.parametrize("has_cuda", [True, False])
def test_a_program_for_another_platform_calls_its_kernels_or_the_definitions(has_cuda):
    program = f"""
import warnings
import jax.export
from qmkernels import compiled
cpu = {{name: found["cpu"] for name, found in compiled.core.xla_targets().items()}}
platforms = {["cpu", "CUDA"] if has_cuda else ["cpu"]}  # as a core with, or without, CUDA kernels says
targets = {{name: dict.fromkeys(platforms, handler) for name, handler in cpu.items()}}
compiled.core = type("Core", (), dict(xla_targets=lambda: targets))
import qmkernels.jax
x = jax.ShapeDtypeStruct((5, 8), "float32")
names = ["qmkernels_mrn_pairwise_" + kind for kind in ("forward", "backward")]
checks = [jax.export.DisabledSafetyCheck.custom_call(name) for name in names]
grad = jax.jit(jax.value_and_grad(lambda x: qmkernels.jax.mrn_pairwise(x, x).sum()))
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    for _ in range(2):
        text = jax.export.export(grad, platforms=["cuda"], disabled_checks=checks)(x).mlir_module()
print(*(name in text for name in names), len(said), "torch" in __import__("sys").modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}\n{program}"],
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    expected = ["True", "True", "0", "False"] if has_cuda else ["False", "False", "1", "False"]
    assert done.stdout.split() == expected, done.stderr
