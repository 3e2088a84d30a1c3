"""The modules MRN, MRNFixed and LatentMRN: one projection per row, one kernel, and the published settings."""

from __future__ import annotations

import warnings

import pytest
import torch

import qmkernels as qm
from qmkernels.arguments.mrn import PRESETS


def points(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def count_rows(module, calls):
    module.register_forward_hook(lambda module, inputs, output: calls.append(inputs[0].numel() // inputs[0].shape[-1]))


@pytest.mark.parametrize("arguments", [{}, {"transforms": ["concave_activation"]}], ids=["fused", "composed"])
@pytest.mark.parametrize(
    "distance",
    [
        lambda head, x, y: head(x[:, None], y),
        lambda head, x, y: head.pairwise(x, y),
        lambda head, x, y: head.pairwise(x, y, bidirectional=True),
        lambda head, x, y: head.bidirectional(x[:, None], y),
    ],
    ids=["broadcast", "pairwise", "pairwise both ways", "both ways"],
)
@pytest.mark.parametrize(("n", "m"), [(5, 7), (33, 12)])
def test_every_row_is_projected_once(distance, arguments, n, m):
    head = qm.nn.MRNFixed(6, **arguments).double()
    calls = []
    count_rows(head.sym_proj, calls)
    count_rows(head.asym_proj, calls)
    distance(head, points(n, 6), points(m, 6, seed=1))
    assert calls == [n + m, n + m]


def test_rows_against_themselves_are_projected_once_and_are_at_zero():
    head = qm.nn.MRNFixed(6).double()
    calls = []
    count_rows(head.sym_proj, calls)
    x = points(33, 6)
    assert (head.pairwise(x, x).diagonal() == 0).all()
    assert calls == [33]


@pytest.mark.parametrize(("reduction", "factor"), [("sum", 1.0), ("mean", 0.5)])
def test_the_two_parts_and_their_reduction_are_one_kernel_call(reduction, factor, monkeypatch):
    head = qm.nn.MRN(6, 1.5, reduction=reduction, warn_if_not_quasimetric=False).double()
    x, y = points(5, 6), points(5, 6, seed=1)
    components = head.compute_components(x, y)
    monkeypatch.setattr(type(head), "_compare", None)  # without it nothing can be composed
    torch.testing.assert_close(head(x, y), components.sum(-1) * factor)
    torch.testing.assert_close(head.pairwise(x, y).diagonal(), components.sum(-1) * factor)


def test_an_exponent_above_one_warns_and_can_be_told_not_to():
    with pytest.warns(UserWarning, match=r"MRN with sym_p=2 may not be a quasimetric.*MRNFixed"):
        assert not qm.nn.MRN(6).guaranteed_quasimetric
    with pytest.warns(UserWarning, match="LatentMRN with exponent=2 may not be a quasimetric"):
        qm.nn.LatentMRN(6, preset="torchqmet")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not qm.nn.MRN(6, warn_if_not_quasimetric=False).guaranteed_quasimetric
        assert qm.nn.MRNFixed(6).guaranteed_quasimetric and qm.nn.MRN(6, 0.5).guaranteed_quasimetric
        qm.nn.LatentMRN(16, preset="tmd")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: qm.nn.MRN(6, 0), "MRN: sym_p must be positive, got 0"),
        (lambda: qm.nn.MRNFixed(6, -1), "MRNFixed: sym_p must be positive, got -1"),
        (lambda: qm.nn.MRN(0), "input_size must be at least 1, got 0"),
        (lambda: qm.nn.LatentMRN(6, 4), "the last size must be a multiple of num_components, got 6 and 4"),
        (lambda: qm.nn.LatentMRN(0), "LatentMRN: input_size must be at least 1, got 0"),
        (lambda: qm.nn.LatentMRN(8, preset="cmd"), "preset must be one of .*tmd.*, got 'cmd'"),
        (lambda: qm.nn.LatentMRN(8, eps=-1.0), "eps must be at least 0, got -1.0"),
        (lambda: qm.nn.LatentMRN(8, reduction="none"), "reduction must be one of .* got 'none'"),
    ],
)
@pytest.mark.filterwarnings("ignore:MRN with sym_p")
def test_bad_constructor_arguments_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_projections_of_different_sizes_are_an_error():
    head = qm.nn.MRNFixed(6)
    head.asym_proj = qm.nn.mrn.MRNProjector(6, output_size=8)
    with pytest.raises(ValueError, match="must have outputs of the same size, got 16 and 8"):
        head(torch.zeros(3, 6), torch.zeros(3, 6))


@pytest.mark.filterwarnings("ignore:LatentMRN with exponent")
@pytest.mark.parametrize("preset", PRESETS)
def test_a_latent_mrn_is_the_op_with_the_same_preset(preset):
    head = qm.nn.LatentMRN(16, preset=preset)
    assert head.num_components == PRESETS[preset].num_components
    assert not list(head.parameters())
    x, y = points(5, 16), points(9, 16, seed=1)
    torch.testing.assert_close(head(x, y[:5]), qm.mrn(x, y[:5], preset=preset))
    torch.testing.assert_close(head.pairwise(x, y), qm.mrn_pairwise(x, y, preset=preset))
    discounted = qm.nn.LatentMRN(16, preset=preset, discount=0.9)
    torch.testing.assert_close(discounted(x, y[:5]), 0.9 ** head(x, y[:5]))


def test_settings_that_are_given_replace_the_presets():
    head = qm.nn.LatentMRN(12, 3, preset="mqe", eps=0.0, scale=2.0, reduction="max")
    x, y = points(5, 12), points(5, 12, seed=1)
    components = qm.mrn(x, y, 3, reduction="none")
    torch.testing.assert_close(head(x, y), 2 * components.amax(-1))
    assert head.guaranteed_quasimetric


def test_a_subclass_with_its_own_components_is_composed_of_them():
    class Doubled(qm.nn.MRNFixed):
        def compute_components(self, x, y):
            return 2 * super().compute_components(x, y)

    head = Doubled(6).double()
    x, y = points(5, 6), points(9, 6, seed=1)
    expected = 2 * qm.nn.MRNFixed.forward(as_class(head, qm.nn.MRNFixed), x, y[:5])
    torch.testing.assert_close(head(x, y[:5]), expected)
    torch.testing.assert_close(head.pairwise(x, y)[:, :5].diagonal(), expected)
    torch.testing.assert_close(head.bidirectional(x, y[:5]).x_to_y, expected)


def as_class(head, kind):
    other = kind(head.input_size).double()
    other.load_state_dict(head.state_dict())
    return other


@pytest.mark.parametrize("form", ["rows", "pairs", "one goal", "both ways"])
def test_the_other_sign_is_the_distance_the_other_way(form):
    # With eps on the differences even the symmetric part has a sign.
    head = qm.nn.LatentMRN(16, 2, preset="mqe", to_minus_from=True)
    assert repr(head).count("to_minus_from=True") == 1
    other = qm.nn.LatentMRN(16, 2, preset="mqe")
    x, y = points(2, 9, 16), points(2, 11 if form == "pairs" else 9, 16, seed=1)
    settings = {"num_components": 2, "preset": "mqe", "to_minus_from": True}
    if form == "rows":
        ours, expected, op = head(x, y), other(y, x), qm.mrn(x, y, **settings)
    elif form == "pairs":
        ours, expected, op = head.pairwise(x, y), other.pairwise(y, x).mT, qm.mrn_pairwise(x, y, **settings)
    elif form == "one goal":
        ours, expected, op = head(x, y[:, :1]), other(y[:, :1], x), qm.mrn(x, y[:, :1], **settings)
    else:
        ours, op = (
            torch.stack(result) for result in (head.bidirectional(x, y), qm.mrn(x, y, bidirectional=True, **settings))
        )
        expected = torch.stack([other(y, x), other(x, y)])
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(op, expected)


@pytest.mark.parametrize(
    ("head", "is_symmetric"),
    [
        (qm.nn.LatentMRN(16, preset="x_jepa"), False),
        (qm.nn.LatentMRN(16, preset="ogbench", to_minus_from=True), False),
        (qm.nn.MRNFixed(16), False),
        (qm.nn.MRN(16, 1, reduction="mean"), False),
        (qm.nn.LatentMRN(16, asymmetric="none"), True),
    ],
    ids=["x_jepa", "to minus from", "MRNFixed", "mean", "symmetric"],
)
def test_the_parts_add_up_and_only_one_of_them_is_symmetric(head, is_symmetric):
    head.double()
    x, y = points(5, 3, 16), points(5, 1, 16, seed=1)
    parts, back = head.parts(x, y), head.parts(y, x)
    torch.testing.assert_close(parts.symmetric + parts.asymmetric, head(x, y))
    torch.testing.assert_close(parts.symmetric, back.symmetric)
    assert torch.equal(parts.asymmetric, back.asymmetric) == is_symmetric
    rows = x.clone().requires_grad_()
    assert torch.isfinite(torch.autograd.grad(sum(part.sum() for part in head.parts(rows, x)), rows)[0]).all()


@pytest.mark.parametrize(
    "head",
    [
        qm.nn.IQE(16), qm.nn.PQE(16), qm.nn.WideNorm(16, 4), qm.nn.DeepNorm(16, 4),
        qm.nn.LatentMRN(16, reduction="max"), qm.nn.MRNFixed(16, discount=0.9),
        qm.nn.LatentMRN(16, transforms=["concave_activation"]),
    ],
    ids=lambda head: type(head).__name__,
)  # fmt: skip
def test_a_distance_that_is_not_a_sum_of_two_parts_says_so(head):
    with pytest.raises(TypeError, match=f"{type(head).__name__}: .*no symmetric and asymmetric part; MRN, MRNFixed"):
        head.parts(torch.zeros(3, 16), torch.zeros(3, 16))


def test_two_networks_outputs_in_groups_are_x_jepas_distance():
    # The mean over eight groups of a norm of the symmetric network's outputs and the asymmetric one's largest residual.
    symmetric, asymmetric = points(2, 5, 24), points(2, 5, 24, seed=1)
    (x, y), (u, v) = symmetric.unflatten(-1, (8, 3)), asymmetric.unflatten(-1, (8, 3))
    expected = ((x - y).norm(dim=-1) + (u - v).relu().amax(dim=-1)).mean(dim=-1)
    from_, to = torch.cat([asymmetric.unflatten(-1, (8, 3)), symmetric.unflatten(-1, (8, 3))], dim=-1).flatten(-2)
    torch.testing.assert_close(qm.nn.LatentMRN(48, preset="x_jepa")(from_, to), expected)
