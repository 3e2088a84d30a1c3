"""The losses: against their formulas written out, streaming against matrix, over steps of training."""

import copy
import math

import pytest
import torch
from loss_formulas import BATCH, DIM, LOSSES, SIZE, gradients, head_of, leaves_of, plain_linex, rows, scalar
from torch.nn import functional

import qmkernels as qm
from qmkernels.losses import tiles

STREAMED = ("contrastive", "linex", "tmd", "metric", "metric with a head", "coulomb")


@pytest.fixture(params=LOSSES)
def name(request):
    return request.param


@pytest.mark.parametrize("kind", ["iqe", "mrn", "function"])
def test_a_loss_and_its_gradients_are_those_of_its_formula(name, kind, backend):
    head, leaves = head_of(kind), leaves_of(name)
    ours, plain = LOSSES[name][2](head, *leaves), LOSSES[name][3](head, *leaves)
    torch.testing.assert_close(ours.loss, plain)
    assert not any(value.requires_grad for value in ours[1:])
    expected = gradients(plain, leaves, head)
    if name == "qrl_critic":  # the multiplier is maximised
        expected[2] = -expected[2]
    torch.testing.assert_close(gradients(ours.loss, leaves, head), expected)


def test_float32_is_as_accurate_as_its_rounding(name, backend):
    head = head_of("iqe", torch.float32)
    leaves = leaves_of(name, torch.float32)
    exact_head, exact = copy.deepcopy(head).double(), [leaf.detach().double().requires_grad_() for leaf in leaves]
    ours, truth = LOSSES[name][2](head, *leaves), LOSSES[name][2](exact_head, *exact)
    torch.testing.assert_close(ours.loss.double(), truth.loss, rtol=2e-6, atol=1e-6)
    for actual, expected in zip(
        gradients(ours.loss, leaves, head), gradients(truth.loss, exact, exact_head), strict=True
    ):
        torch.testing.assert_close(actual.double(), expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("name", [name for name in LOSSES if name.startswith(STREAMED)])
def test_streaming_gives_the_numbers_of_the_matrix(name, monkeypatch):
    monkeypatch.setitem(tiles._TILE_PAIRS, "cpu", 2 * BATCH)
    head, leaves = head_of(), leaves_of(name)
    results = []
    for from_pairs in (0, 1 << 30):
        monkeypatch.setitem(tiles._STREAM_FROM, "cpu", from_pairs)
        ours = LOSSES[name][2](head, *leaves)
        results.append((*ours, *gradients(ours.loss, leaves, head)))
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("name", [name for name in LOSSES if not name.startswith("qrl")])
def test_an_ensemble_is_averaged(name):
    head, leaves = head_of(), leaves_of(name)
    count = LOSSES[name][0]
    twice = [torch.stack([leaf, 0.7 * leaf]) for leaf in leaves[:count]] + leaves[count:]
    members = [LOSSES[name][2](head, *(leaf[i] for leaf in twice[:count]), *leaves[count:]).loss for i in range(2)]
    if name != "metra" and not name.startswith("temporal"):
        torch.testing.assert_close(LOSSES[name][2](head, *twice).loss, sum(members) / 2)


def test_qrl_options_are_those_of_their_formulas(backend):
    head, (x, y, goal), raw = head_of(), rows(3, BATCH, DIM), scalar()
    cost = torch.rand(BATCH, dtype=torch.float64)
    ours = qm.losses.qrl_critic(
        head, x, y, raw, goal=goal, cost=cost, epsilon=0.05, softplus_beta=0.01, softplus_offset=500,
        multiplier="exp", threshold="plain",
    )  # fmt: skip
    push = 100 * functional.softplus(5 - head(x, goal) / 100).mean()
    violation = (head(x, y) - cost).relu().square().mean()
    torch.testing.assert_close(ours.loss, push + raw.exp() * (violation - 0.05))
    torch.testing.assert_close(ours.push, push.detach())
    grads = torch.autograd.grad(ours.loss, [raw, goal])
    torch.testing.assert_close(grads[0], -(raw.exp() * (violation - 0.05)).detach())
    torch.testing.assert_close(grads[1], torch.autograd.grad(push, goal)[0])


def test_heads_without_a_fused_form_compose():
    for head in (
        qm.nn.IQE(DIM, SIZE, transforms=["concave_activation"]),
        qm.nn.IQE(DIM, SIZE, reduction="deep_linear_net_weighted_sum"),
        qm.nn.MRNFixed(DIM),
        qm.nn.DeepNorm(DIM, 4),
    ):
        (x, y), raw = rows(2, BATCH, DIM, dtype=torch.float32), scalar(dtype=torch.float32)
        loss = qm.losses.qrl_critic(head, x, y, raw).loss + qm.losses.contrastive(head, x, y).loss
        loss.backward()
        assert all(parameter.grad is not None for parameter in head.parameters())


def curve_of(parameters, batches, loss_of, after_backward=lambda: None):
    """Returns the losses of 200 steps of Adam."""
    optimizer = torch.optim.Adam(parameters, lr=1e-3)
    curve = []
    for batch in batches:
        optimizer.zero_grad()
        loss = loss_of(batch)
        loss.backward()
        after_backward()
        optimizer.step()
        curve.append(loss.item())
    return torch.tensor(curve, dtype=torch.float64)


def network_of(out):
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.Tanh(), torch.nn.Linear(32, out)).double()


def batches_of(*shape):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(*shape, dtype=torch.float64, generator=generator) for _ in range(200)]


def test_two_hundred_steps_of_training_follow_the_plain_curve(name):
    """Ours and plain PyTorch, from the same start on the same batches, give the same curve up to rounding."""
    count, with_multiplier, *functions = LOSSES[name]
    curves = []
    for ours, function in zip((True, False), functions, strict=True):
        network, head, raw = network_of(DIM), head_of(), scalar(0.01)

        def loss_of(batch, network=network, head=head, raw=raw, function=function):
            result = function(head, *network(batch).unbind(), *([raw] if with_multiplier else []))
            return getattr(result, "loss", result)

        def after_backward(raw=raw, reverses=name == "qrl_critic" and not ours):
            if reverses:  # the multiplier is maximised
                raw.grad.neg_()

        parameters = [*network.parameters(), *head.parameters(), raw]
        curves.append(curve_of(parameters, batches_of(count, BATCH, 8), loss_of, after_backward))
    torch.testing.assert_close(curves[0], curves[1], rtol=1e-6, atol=1e-6)
    # The targets of "linex" move without gradient, and smoothed targets are near the start's: they need not fall.
    if name not in ("linex", "contrastive smoothed"):
        assert curves[0][-50:].mean() < curves[0][:50].mean()


@pytest.mark.parametrize("masked", [False, True])
def test_two_hundred_steps_of_quantised_temporal_consistency_follow_the_plain_curve(masked, backend):
    mask = (torch.arange(3 * 16).reshape(3, 16) % 5 > 0).double() if masked else None

    def plain_codes(z):
        half = 7 * 1.001 / 2
        bounded = torch.tanh(z + math.atanh(0.5 / half)) * half - 0.5
        return (bounded + (bounded.round() - bounded).detach()) / 4

    def plain_loss(predicted, target):
        cosine = functional.cosine_similarity(predicted, target.detach(), dim=-1)
        losses = 1 - cosine if mask is None else mask * (1 - cosine)
        return sum(0.9**h * losses[h].mean() for h in range(len(losses)))

    curves = []
    for codes, loss in (
        (lambda z: qm.fsq(z, [8, 8]).codes, lambda p, t: qm.losses.temporal_consistency(p, t, mask).loss),
        (plain_codes, plain_loss),
    ):
        network = network_of(DIM)

        def loss_of(batch, network=network, codes=codes, loss=loss):
            encoded = codes(network(batch))
            return loss(encoded[:-1], encoded[1:])

        curves.append(curve_of(network.parameters(), batches_of(4, 16, 8), loss_of))
    torch.testing.assert_close(curves[0], curves[1], rtol=1e-6, atol=1e-6)
    assert curves[0][-50:].mean() < curves[0][:50].mean()


def test_temporal_consistency_is_its_formula_and_masks():
    predicted, target = rows(2, 5, BATCH, DIM)
    mask = (torch.rand(5, BATCH) > 0.3).double()
    ours = qm.losses.temporal_consistency(predicted, target, mask)
    expected = 0
    for h in range(5):
        for b in range(BATCH):
            p, t = predicted[h, b], target[h, b].detach()
            expected = expected + 0.9**h * mask[h, b] * (1 - p @ t / (p.norm() * t.norm())) / BATCH
    torch.testing.assert_close(ours.loss, expected)
    ours.loss.backward()
    assert target.grad is None and predicted.grad.isfinite().all()
    bool_mask = qm.losses.temporal_consistency(predicted, target, mask.bool())
    torch.testing.assert_close(bool_mask.loss, ours.loss)


def test_metra_offers_the_mean_of_squares():
    x, y, skill = rows(3, BATCH, DIM)
    ours = qm.losses.metra(x, y, skill, scalar(), norm="mean")
    constraint = (1 - (y - x).square().mean(dim=-1)).clamp(max=1e-3).mean()
    torch.testing.assert_close(ours.constraint, constraint.detach())
    torch.testing.assert_close(ours.reward, ((y - x) * skill).sum(dim=-1).detach())


def test_linex_takes_one_discount_per_row():
    head, (x, y, n) = head_of(), rows(3, BATCH, DIM)
    log_discount = torch.linspace(-0.5, -0.01, BATCH, dtype=torch.float64)
    ours = qm.losses.linex(head, x, y, n, log_discount=log_discount).loss
    torch.testing.assert_close(ours, plain_linex(head, x, y, n, log_discount[:, None]))


def test_a_multiplier_that_is_not_finite_gives_a_loss_that_is_not():
    (x, y), head = rows(2, BATCH, DIM), head_of()
    for value in (torch.nan, torch.inf):
        assert not qm.losses.qrl_critic(head, x, y, torch.tensor(value, dtype=torch.float64)).loss.isfinite()


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda h, x: qm.losses.qrl_critic(h, x[:0], x[:0], scalar()), ValueError, "must have at least one row"),
        (lambda h, x: qm.losses.qrl_critic(h, x[:1], x[:1], scalar()), ValueError, "at least two rows"),
        (lambda h, x: qm.losses.qrl_critic(h, x, x[:2], scalar()), ValueError, "same shape"),
        (lambda h, x: qm.losses.qrl_critic(h, x, x, scalar(), cost=torch.ones(4)), ValueError, "cost must be"),
        (lambda h, x: qm.losses.qrl_critic(h, x, x, torch.ones(2)), ValueError, "must be a 0-d tensor"),
        (lambda h, x: qm.losses.qrl_critic(h, x, x, 0.1), TypeError, "raw_multiplier must be a tensor, got float"),
        (lambda h, x: qm.losses.qrl_critic(h, x, x, scalar(), multiplier="relu"), ValueError, "multiplier must be"),
        (lambda h, x: qm.losses.qrl_critic("iqe", x, x, scalar()), TypeError, "head must be"),
        (lambda h, x: qm.losses.qrl_critic(h, x[:, :8], x[:, :8], scalar()), ValueError, "last size input_size=12"),
        (lambda h, x: qm.losses.qrl_critic(qm.nn.IQE(DIM, SIZE, discount=0.9), x, x, scalar()), ValueError, "discount"),
        (lambda h, x: qm.losses.latent_dynamics(h, x, x, power=3), ValueError, "power must be 1 or 2"),
        (lambda h, x: qm.losses.coulomb_repulsion(h, x, eps=0), ValueError, "eps must be positive and finite, got 0.0"),
        (lambda h, x: qm.losses.coulomb_repulsion(h, x[0]), ValueError, r"points must be \(\.\.\., B, D\)"),
        (lambda h, x: qm.losses.tmd_critic(h, x, x, x, x, invariance="exp"), ValueError, "invariance must be one of"),
        (lambda h, x: qm.losses.linex(h, x, x, x, log_discount=torch.ones(4)), ValueError, "log_discount must be"),
        (lambda h, x: qm.losses.tmd_critic(h, x, x, x[:3], x), ValueError, "same shape"),
        (lambda h, x: qm.losses.tmd_critic(h, x[None], x[None], x[None], x), ValueError, "may differ only"),
        (lambda h, x: qm.losses.tmd_critic(h, x, x, x, x, discount=0.0), ValueError, "discount must be in"),
        (lambda h, x: qm.losses.metra(x, x, x, scalar(), norm="max"), ValueError, "norm must be one of"),
        *[
            (lambda h, x, wrong=wrong: qm.losses.metra(*wrong(x), scalar()), error, message)
            for wrong, error, message in (
                (lambda x: (x.tolist(), x, x), TypeError, "phi must be a tensor, got list"),
                (lambda x: (x, x, x.tolist()), TypeError, "skill must be a tensor, got list"),
                (lambda x: (x.int(), x.int(), x.int()), TypeError, "phi must be float64, float32"),
                (lambda x: (x, x.int(), x), TypeError, "phi_next must be float64, float32"),
                (lambda x: (x[0], x[0], x[0]), ValueError, r"phi must be \(..., B, D\)"),
                (lambda x: (x, x, x[0]), ValueError, r"skill must be \(..., B, D\)"),
                (lambda x: (x[:0], x[:0], x[:0]), ValueError, "phi must have at least one row"),
                (lambda x: (x[:, :0], x, x), ValueError, "phi must have at least one row"),
                (lambda x: (x, x, x[:2]), ValueError, "phi and skill must have the same shape"),
                (lambda x: (x, x.float(), x), TypeError, "phi and phi_next must have the same dtype"),
                (lambda x: (x, x, x.to("meta")), RuntimeError, "phi and skill must be on the same device"),
            )
        ],
        (lambda h, x: qm.losses.metric_contrastive(x, x.int()), TypeError, "z_next must be float64, float32"),
        (lambda h, x: qm.losses.temporal_consistency(x, x), ValueError, r"must be \(H, B, D\)"),
        (lambda h, x: qm.losses.temporal_consistency(x[None], x[None], x), ValueError, "mask must be"),
    ],
)
def test_wrong_arguments_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(head_of(), rows(1, BATCH, DIM)[0].detach())
