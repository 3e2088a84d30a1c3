"""The losses on JAX arrays are those of PyTorch: loss, diagnostics and gradients, under jit, in both dtypes."""

from functools import partial

import numpy as np
import pytest
import torch

import qmkernels as qm

jax = pytest.importorskip("jax", reason="jax is not installed")

from qmkernels import jax as qj  # noqa: E402

jax.config.update("jax_enable_x64", True)

E, N, D = 2, 7, 16
# The largest relative error of loss, diagnostics and gradients.
TOLERANCE = {"float32": 1e-5, "float64": 1e-10}

HEADS = {
    "iqe": (partial(qm.iqe, dim_per_component=4, max_weight=0.3), partial(qj.iqe, dim_per_component=4, max_weight=0.3)),
    "mrn": (partial(qm.mrn, preset="tmd"), partial(qj.mrn, preset="tmd")),
    "a function": (lambda x, y: abs(x - y).max(-1)[0], lambda x, y: abs(x - y).max(-1)),
}


def losses_of_pairs(head):
    return {
        "contrastive": lambda ls, x, y, *_: ls.contrastive(head(ls), x, y),
        "contrastive-forward": lambda ls, x, y, *_: ls.contrastive(
            head(ls), x[..., :5, :], y, direction="forward", offset=1, scale=0.7, logsumexp_weight=0.1
        ),
        "contrastive-symmetric": lambda ls, x, y, *_: ls.contrastive(
            head(ls), x, y, direction="symmetric", label_smoothing=0.1
        ),
        "contrastive-sigmoid": lambda ls, x, y, *_: ls.contrastive(head(ls), x, y, form="sigmoid"),
        "linex": lambda ls, x, y, z, *_: ls.linex(head(ls), x, y, z, log_discount=-0.1, clip=0.2),
        "linex-per-row": lambda ls, x, y, z, *_: ls.linex(head(ls), x, y, z, log_discount=-abs(x[..., 0])),
        "tmd_critic": lambda ls, x, y, z, w, _: ls.tmd_critic(head(ls), x, y, z, w),
        "tmd_critic-mqe": lambda ls, x, y, z, w, _: ls.tmd_critic(
            head(ls), x[..., :4, :], y[..., :4, :], z[..., :4, :], w, invariance="exp_squared", offset=2, zeta=0.5
        ),
        "qrl_critic": lambda ls, x, y, z, w, raw: ls.qrl_critic(head(ls), x, y, raw),
        "qrl_critic-ogbench": lambda ls, x, y, z, w, raw: ls.qrl_critic(
            head(ls), x, y, raw, goal=z, cost=abs(w[..., 0]), epsilon=0.05, softplus_beta=0.01, softplus_offset=500.0,
            multiplier="exp", threshold="plain",
        ),
        "latent_dynamics": lambda ls, x, y, *_: ls.latent_dynamics(head(ls), x, y),
        "latent_dynamics-ogbench": lambda ls, x, y, *_: ls.latent_dynamics(head(ls), x, y, power=1),
        "metric_contrastive-head": lambda ls, x, y, *_: ls.metric_contrastive(
            x, y, head=head(ls), step=0.5, weight=2.0
        ),
        "metra-head": lambda ls, x, y, z, w, raw: ls.metra(x, y, z, raw, head=head(ls)),
    }  # fmt: skip


WITHOUT_HEAD = {
    "metric_contrastive": lambda ls, x, y, *_: ls.metric_contrastive(x, y),
    "metra": lambda ls, x, y, z, w, raw: ls.metra(x, y, z, raw, slack=0.5),
    "metra-mean": lambda ls, x, y, z, w, raw: ls.metra(x, y, z, raw, norm="mean"),
    "temporal_consistency": lambda ls, x, y, *_: ls.temporal_consistency(x, y),
    "temporal_consistency-masked": lambda ls, x, y, z, w, raw: ls.temporal_consistency(
        x, y, abs(w[..., 0]), discount=0.5
    ),
}
ALL = [*losses_of_pairs(None), *WITHOUT_HEAD]
CASES = [("mrn", name, "float64") for name in ALL]
CASES += [("mrn", name, "float32") for name in ("qrl_critic", "contrastive", "tmd_critic")]
CASES += [("iqe", name, "float64") for name in ("linex", "qrl_critic", "qrl_critic-ogbench", "latent_dynamics")]
CASES += [("a function", name, "float64") for name in ("contrastive", "metric_contrastive-head", "qrl_critic")]


def inputs(dtype):
    rng = np.random.default_rng(0)
    return [*(rng.normal(size=(E, N, D)).astype(dtype) for _ in range(4)), np.asarray(0.3, dtype)]


@pytest.mark.parametrize(("head", "name", "dtype"), CASES)
def test_losses_diagnostics_and_gradients_are_those_of_torch(head, name, dtype):
    ours = dict(zip((qm.losses, qj.losses), HEADS[head], strict=True))
    call = {**losses_of_pairs(ours.get), **WITHOUT_HEAD}[name]
    tensors = [torch.from_numpy(value).requires_grad_() for value in inputs(dtype)]
    expected = call(qm.losses, *tensors)
    expected_grads = torch.autograd.grad(expected.loss, tensors, allow_unused=True)

    def function(arrays):
        found = call(qj.losses, *arrays)
        return found.loss, found

    arrays = [jax.numpy.asarray(value) for value in inputs(dtype)]
    grads, found = jax.jit(jax.grad(function, has_aux=True))(arrays)
    assert type(found).__name__ == type(expected).__name__ and found._fields == expected._fields
    for field, one, other in zip(found._fields, found, expected, strict=True):
        assert one.dtype == dtype and one.shape == tuple(other.shape), field
        assert_close(one, other.detach().numpy(), TOLERANCE[dtype], field, at_least=1.0)  # in units of distance
    for position, (one, other) in enumerate(zip(grads, expected_grads, strict=True)):
        wanted = np.zeros(one.shape) if other is None else other.numpy()
        assert_close(one, wanted, TOLERANCE[dtype], f"gradient {position}")


def assert_close(one, other, tolerance, what, at_least=1e-3):
    error = np.abs(np.asarray(one) - other).max() / max(at_least, np.abs(other).max())
    assert error <= tolerance, f"{what}: {error}"


def test_half_rows_are_computed_in_float32():
    x = jax.numpy.ones((3, 16), jax.numpy.bfloat16)
    result = qj.losses.metra(x, 2 * x, x, jax.numpy.float32(0.0))
    assert {value.dtype.name for value in result} == {"float32"} and result.distance == 16


X = np.ones((3, 8), np.float32)
REFUSED = {
    "a head": (TypeError, "linex: head must be a function", lambda: qj.losses.linex(3, X, X, X, log_discount=0.0)),
    "rows": (ValueError, r"metra: phi must be \(..., B, D\)", lambda: qj.losses.metra(X[0], X[0], X[0], X[0, 0])),
    "shapes": (
        ValueError, r"qrl_critic: x and y must have the same shape, got \(3, 8\) and \(2, 8\)",
        lambda: qj.losses.qrl_critic(qj.mrn, X, X[:2], X[0, 0]),
    ),
    "dtypes": (
        TypeError, "latent_dynamics: predicted and target must have the same dtype, got predicted float32",
        lambda: qj.losses.latent_dynamics(qj.mrn, X, X.astype("float16")),
    ),
    "integers": (
        TypeError, "metric_contrastive: z must be float64, float32, bfloat16 or float16, got int32",
        lambda: qj.losses.metric_contrastive(X.astype("int32"), X.astype("int32")),
    ),
    "a match": (
        ValueError, "contrastive: y must have the matches of x in its rows 1 to 4, got 3",
        lambda: qj.losses.contrastive(qj.mrn, X, X, offset=1),
    ),
    "a name": (
        ValueError, "contrastive: direction must be one of backward, forward, symmetric, got 'back'",
        lambda: qj.losses.contrastive(qj.mrn, X, X, direction="back"),
    ),
    "a multiplier": (
        ValueError, "qrl_critic: raw_multiplier must be a 0-d array", lambda: qj.losses.qrl_critic(qj.mrn, X, X, X[0])
    ),
    "a mask": (
        ValueError, r"temporal_consistency: mask must be \(1, 3\)",
        lambda: qj.losses.temporal_consistency(X[None], X[None], X),
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_wrong_arguments_are_refused(what):
    error, message, call = REFUSED[what]
    with pytest.raises(error, match=message):
        call()
