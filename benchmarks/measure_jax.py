"""Measures the JAX front end beside plain jax.numpy, both under jit: a row for each in benchmarks/results/jax_cpu.csv.

    QMKERNELS_OGBENCH=<checkout> python benchmarks/measure_jax.py

XLA uses all cores that the process may use (``taskset``), and so do the kernels. The contenders of a case take turns
with the same inputs; a row has the median and the 20% and 80% quantiles of one call's time, and its peak memory above
its inputs and results. The plain forms broadcast, as the public code does. The whole updates are those of the public
agents, from the checkout of https://github.com/vivekmyers/tmd-release, as they are and with the lines changed that
qmkernels/jax/README.md shows (public_jax_agents.py).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import public_jax_agents
import torch
from comparison import HERE, Unavailable, append_rows, quantiles, warn_if_loaded
from jax import Array

from qmkernels import jax as qj
from qmkernels.info import usable_cores, version_of
from qmkernels.measurement import interleaved_times_ms, peak_mib

COLUMNS = (
    "date", "commit", "machine", "cores", "threads", "load_average", "python", "jax", "qmkernels", "isa", "command",
    "case", "contender", "median_ms", "low_ms", "high_ms", "rounds", "peak_mib", "max_error", "note",
)  # fmt: skip
MEMBERS, ROWS, SIZE, COMPONENTS, EPS = 2, 512, 512, 8, 1e-6
IQE_ROWS, IQE_DIM = 256, 8
# Of a case, its contenders: each makes a call, which returns arrays; the first is what the others are compared with.
Case = dict[str, Callable[[], Callable[[], object]]]


def mrn_of_broadcast_rows(x: Array, y: Array) -> Array:
    """TMD's distance of rows that broadcast."""
    step = (x - y).reshape(*jnp.broadcast_shapes(x.shape, y.shape)[:-1], COMPONENTS, -1)
    asymmetric, symmetric = jnp.split(step, 2, axis=-1)
    norm = jnp.sqrt(jnp.square(symmetric).sum(axis=-1) + EPS)
    return (jax.nn.relu(asymmetric).max(axis=-1) + norm).mean(axis=-1)


def mrn_of_every_pair(x: Array, y: Array) -> Array:
    return mrn_of_broadcast_rows(x[..., :, None, :], y[..., None, :, :])


def iqe_of_rows(x: Array, y: Array, max_weight: Array) -> Array:
    """The length of each component's union of intervals: sorted by where they begin, each adds what lies beyond the
    furthest end before it."""
    x, y = (rows.reshape(len(rows), -1, IQE_DIM) for rows in (x, y))
    order = jnp.argsort(x, axis=-1)
    begin = jnp.take_along_axis(x, order, axis=-1)
    end = jnp.maximum(begin, jnp.take_along_axis(y, order, axis=-1))
    furthest = jax.lax.cummax(end, axis=2)
    reached = jnp.concatenate([jnp.full_like(end[..., :1], -jnp.inf), furthest[..., :-1]], axis=-1)
    components = jax.nn.relu(end - jnp.maximum(begin, reached)).sum(axis=-1)
    return max_weight * components.max(axis=-1) + (1 - max_weight) * components.mean(axis=-1)


def info_nce(logits: Array) -> Array:
    """The mean cross-entropy of the goals' softmaxes over states."""
    return -jnp.diagonal(jax.nn.log_softmax(logits, axis=-2), axis1=-2, axis2=-1).mean()


def matrices() -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    return tuple(jnp.asarray(rng.normal(size=(MEMBERS, ROWS, SIZE)), jnp.float32) for _ in range(2))


def iqe_inputs() -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(0)
    return (*(jnp.asarray(rng.normal(size=(IQE_ROWS, SIZE)), jnp.float32) for _ in range(2)), jnp.float32(0.5))


def compiled(function: Callable, inputs: Callable[[], tuple]) -> Callable[[], Callable[[], object]]:
    """Makes a call of a jitted function that waits for the results."""

    def make() -> Callable[[], object]:
        call, arrays = jax.jit(function), inputs()
        return lambda: jax.block_until_ready(call(*arrays))

    return make


def iqe_of_ogbench() -> Callable[[], object]:
    """The value network of the checkout on latents, at the same weight."""
    public_jax_agents.checkout()
    from utils.networks import GCIQEValue

    network = GCIQEValue(hidden_dims=(), latent_dim=SIZE, dim_per_component=IQE_DIM)
    parameters = {"params": {"alpha": {"value": jnp.float32(0.0)}}}

    def distances(x: Array, y: Array, weight: Array) -> Array:
        return network.apply(parameters, x, y, is_phi=True)

    return compiled(with_gradient(distances), iqe_inputs)()


def with_gradient(distances: Callable) -> Callable:
    """The distances, and the gradients of their sum by both rows."""

    def both(x: Array, y: Array, weight: Array) -> tuple[Array, tuple[Array, Array]]:
        found, pull_back = jax.vjp(lambda x, y: distances(x, y, weight), x, y)
        return found, pull_back(jnp.ones_like(found))

    return both


def cases() -> dict[str, Case]:
    tmd = partial(qj.mrn, preset="tmd")
    pairs = (0, 1)
    return {
        f"mrn_pairwise {MEMBERS} x {ROWS} x {ROWS}, D={SIZE}, forward": {
            "jax.numpy": compiled(mrn_of_every_pair, matrices),
            "ours": compiled(partial(qj.mrn_pairwise, preset="tmd"), matrices),
        },
        f"InfoNCE {MEMBERS} x {ROWS} x {ROWS}, D={SIZE}, value and gradient": {
            "jax.numpy": compiled(
                jax.value_and_grad(lambda x, y: info_nce(-mrn_of_every_pair(x, y) / SIZE**0.5), argnums=pairs), matrices
            ),
            "ours": compiled(
                jax.value_and_grad(lambda x, y: qj.losses.contrastive(tmd, x, y).loss, argnums=pairs), matrices
            ),
        },
        f"iqe {IQE_ROWS}, D={SIZE}, K={IQE_DIM}, forward": {
            "jax.numpy": compiled(iqe_of_rows, iqe_inputs),
            "ours": compiled(lambda x, y, weight: qj.iqe(x, y, IQE_DIM, max_weight=weight), iqe_inputs),
        },
        f"iqe {IQE_ROWS}, D={SIZE}, K={IQE_DIM}, value and gradient": {
            "jax.numpy": compiled(with_gradient(iqe_of_rows), iqe_inputs),
            "public": iqe_of_ogbench,
            "ours": compiled(with_gradient(lambda x, y, w: qj.iqe(x, y, IQE_DIM, max_weight=w)), iqe_inputs),
        },
        **{
            f"{name.upper()} agent, whole update, batch 256": {
                "public": partial(public_jax_agents.update, name, False, 256),
                "ours": partial(public_jax_agents.update, name, True, 256),
            }
            for name in public_jax_agents.CHANGES
        },
    }


def numbers(results: object) -> list[np.ndarray]:
    return [
        np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(results) if jnp.issubdtype(leaf.dtype, jnp.floating)
    ]


def largest_difference(results: object, others: object) -> float:
    """The largest difference of an array, relative to its largest value."""
    pairs = zip(numbers(results), numbers(others), strict=True)
    return max(float(abs(one - other).max() / max(1e-30, abs(other).max())) for one, other in pairs)


def measure(name: str, case: Case, rounds: int, seconds: float) -> list[dict[str, object]]:
    """One row per contender, of those that cannot run with a note that says why."""
    rows, calls, taken, first = {}, {}, {}, None
    for contender, make in case.items():
        rows[contender] = {"case": name, "contender": contender, "note": ""}
        try:
            calls[contender] = make()
        except Unavailable as reason:
            rows[contender]["note"] = f"skipped: {reason}"
            continue
        results = calls[contender]()
        first = results if first is None else first
        rows[contender]["max_error"] = f"{largest_difference(results, first):.1e}"
        returned = sum(leaf.nbytes for leaf in jax.tree.leaves(results))
        del results
        begin = time.perf_counter()
        rows[contender]["peak_mib"] = peak_mib(calls[contender], returned, torch.device("cpu"))
        taken[contender] = time.perf_counter() - begin
    count = max(3, min(rounds, int(seconds / max(1e-3, sum(taken.values())))))
    times = interleaved_times_ms(list(calls.values()), count)
    for contender, own_times in zip(calls, times, strict=True):
        low, high = quantiles(own_times)
        rows[contender].update(
            median_ms=f"{statistics.median(own_times):.4g}", low_ms=f"{low:.4g}", high_ms=f"{high:.4g}", rounds=count
        )
    for row in rows.values():
        print(f"{name}: {row['contender']:10} {row.get('median_ms', row['note'])} ms", flush=True)
    return list(rows.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25, help="at most; slow cases get fewer, see --seconds")
    parser.add_argument("--seconds", type=float, default=60.0, help="timing budget of a case")
    parser.add_argument("--only", default="", help="cases whose name holds this text, such as InfoNCE")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "jax_cpu.csv", help="CSV to append to")
    options = parser.parse_args()
    torch.set_num_threads(usable_cores())
    warn_if_loaded()
    rows = (
        {**row, "jax": version_of("jax")}
        for name, case in cases().items()
        if options.only in name
        for row in measure(name, case, options.rounds, options.seconds)
    )
    append_rows(options.out, COLUMNS, "cpu", rows)


if __name__ == "__main__":
    main()
