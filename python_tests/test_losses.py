"""The losses: against their formulas written out, fused against composed, streaming against matrix, under torch."""

import copy
import math

import pytest
import torch
from torch.nn import functional

import qmkernels as qm
from qmkernels.backends import dispatch
from qmkernels.losses import tiles

BATCH, DIM, SIZE = 6, 12, 4


def head_of(kind="iqe", dtype=torch.float64):
    torch.manual_seed(0)
    if kind == "iqe":
        return qm.nn.IQE(DIM, SIZE).to(dtype)
    if kind == "mrn":
        return qm.nn.LatentMRN(DIM, preset="tmd", num_components=2).to(dtype)
    return lambda x, y: qm.iqe(x, y, SIZE, reduction="sum")


def rows(count, *shape, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, dtype=dtype, generator=generator).requires_grad_() for _ in range(count)]


def scalar(value=0.3, dtype=torch.float64):
    return torch.tensor(value, dtype=dtype, requires_grad=True)


def clipped_divergence(distance, following, log_discount, clip=3.0):
    delta = distance - following
    return torch.where(delta > clip, delta, torch.exp(delta.clamp(max=clip) + log_discount) - distance)


# Every loss as a function of leaves: ours, and its formula with a matrix of distances.
def _qrl_critic(head, x, y, raw, **options):
    return qm.losses.qrl_critic(head, x, y, raw, **options)


def _plain_qrl_critic(head, x, y, raw):
    to_goal = torch.stack([head(x[i], y[i - 1]) for i in range(len(x))])
    local = torch.stack([head(x[i], y[i]) for i in range(len(x))])
    push = torch.log1p(torch.exp(0.1 * (15 - to_goal))).mean() / 0.1
    excess = (local - 1).clamp(min=0).square().mean() - 0.25**2
    return push + torch.log1p(raw.exp()) * excess


def _matrix(head, x, y):
    return torch.stack([torch.stack([head(a, b) for b in y]) for a in x])


def _plain_contrastive(
    head, x, y, direction="backward", form="softmax", logsumexp_weight=0.0, smoothing=0.0, near=None, potential=0.0
):
    logits = (potential - _matrix(head, x, y)) / math.sqrt(DIM)
    is_match = torch.eye(*logits.shape, dtype=logits.dtype)
    if form == "sigmoid":
        return functional.binary_cross_entropy_with_logits(logits, is_match)
    left_out = torch.zeros_like(is_match, dtype=torch.bool) if near is None else near & (is_match == 0)
    others = (~left_out & (is_match == 0)).to(logits.dtype)

    def of_side(logits, is_match, others, left_out):
        targets = (1 - smoothing) * is_match + smoothing / others.sum(dim=1, keepdim=True).clamp(min=1) * others
        logits = logits.masked_fill(left_out, -torch.inf)
        cross_entropy = -(targets * logits.log_softmax(dim=1).masked_fill(left_out, 0.0)).sum(dim=1).mean()
        return cross_entropy + logsumexp_weight * logits.logsumexp(dim=1).square().mean()

    of_states = logits, is_match, others, left_out
    of_goals = [matrix[:, : len(x)].T for matrix in of_states]
    sides = {"backward": [of_goals], "forward": [of_states], "symmetric": [of_states, of_goals]}[direction]
    return sum(of_side(*side) for side in sides) / len(sides)


# Goals 0, 1 and 5, and 3 and 4, are near: of one clip, and within a step.
CLIP, TIME = torch.tensor([2**40, 2**40, 2**40, -7, -7, 2**40]), torch.tensor([3, 4, 9, 4, 5, 2])
NEAR = (CLIP[:, None] == CLIP) & ((TIME[:, None] - TIME).abs() <= 1)


LOG_DISCOUNT = math.log(0.99)


def _plain_linex(head, x, y, following, log_discount=LOG_DISCOUNT):
    divergence = clipped_divergence(_matrix(head, x, y), _matrix(head, following, y).detach(), log_discount)
    return 0.5 * divergence.mean() + 0.5 * divergence.diagonal().mean()


def _plain_tmd(head, phi, psi, psi_next, psi_goal):
    action = torch.stack([head(a, b) for a, b in zip(psi, phi, strict=True)]).mean()
    temporal = _plain_linex(head, phi, psi_goal, psi_next)
    return _plain_contrastive(head, phi, psi_goal) + action + 0.05 * temporal


def _euclidean(x, y):
    return (x - y).square().sum(dim=-1).sqrt()


def _plain_metric(z, z_next, head=_euclidean):
    distance = _matrix(head, z, z_next)
    others = ~torch.eye(len(z), dtype=torch.bool)
    return (distance.diagonal() - 1).square().mean() - torch.log(distance[others] + 1e-6).mean()


LOSSES = {
    "qrl_critic": (2, True, _qrl_critic, _plain_qrl_critic),
    "dynamics": (
        2, False,
        lambda head, x, y: qm.losses.latent_dynamics(head, x, y),
        lambda head, x, y: 0.5 * (head(x, y).square() + head(y, x).square()).mean(),
    ),
    "dynamics, power 1": (
        2, False,
        lambda head, x, y: qm.losses.latent_dynamics(head, x, y, power=1),
        lambda head, x, y: 0.5 * (head(x, y) + head(y, x)).mean(),
    ),
    **{
        f"contrastive {direction}": (
            2, False,
            lambda head, x, y, d=direction: qm.losses.contrastive(head, x, y, direction=d, logsumexp_weight=0.1),
            lambda head, x, y, d=direction: _plain_contrastive(head, x, y, d, logsumexp_weight=0.1),
        )
        for direction in ("backward", "forward", "symmetric")
    },
    "contrastive smoothed": (
        2, False,
        lambda head, x, y: qm.losses.contrastive(head, x, y, direction="symmetric", label_smoothing=0.1),
        lambda head, x, y: _plain_contrastive(head, x, y, "symmetric", smoothing=0.1),
    ),
    **{
        f"contrastive {direction} without near goals": (
            2, False,
            lambda head, x, y, d=direction: qm.losses.contrastive(
                head, x, y, direction=d, label_smoothing=0.1, logsumexp_weight=0.1, exclude=(CLIP, TIME, 1)
            ),
            lambda head, x, y, d=direction: _plain_contrastive(head, x, y, d, "softmax", 0.1, 0.1, NEAR),
        )
        for direction in ("backward", "symmetric")
    },
    "contrastive with CMD's potential": (
        2, False,
        lambda head, x, y: qm.losses.contrastive(
            head, x, y, direction="forward", logsumexp_weight=0.01, potential=y.square().sum(dim=-1)
        ),
        lambda head, x, y: _plain_contrastive(head, x, y, "forward", "softmax", 0.01, potential=y.square().sum(dim=-1)),
    ),
    "contrastive sigmoid": (
        2, False,
        lambda head, x, y: qm.losses.contrastive(head, x, y, form="sigmoid"),
        lambda head, x, y: _plain_contrastive(head, x, y, form="sigmoid"),
    ),
    "linex": (
        3, False,
        lambda head, x, y, n: qm.losses.linex(head, x, y, n, log_discount=LOG_DISCOUNT),
        _plain_linex,
    ),
    "tmd": (4, False, qm.losses.tmd_critic, _plain_tmd),
    "tmd, MQE's invariance": (
        4, False,
        lambda head, *embeddings: qm.losses.tmd_critic(head, *embeddings, invariance="exp_squared"),
        lambda head, phi, psi, *others: _plain_tmd(head, phi, psi, *others)
        + ((-head(psi, phi)).exp() - 1).square().mean() - head(psi, phi).mean(),
    ),
    "metra": (
        3, True,
        lambda head, x, y, z, raw: qm.losses.metra(x, y, z, raw),
        lambda head, x, y, z, raw: (
            -((y - x) * z).sum(dim=-1).mean()
            - raw.detach().exp() * (1 - (y - x).square().sum(dim=-1)).clamp(max=1e-3).mean()
            + raw * (1 - (y - x).square().sum(dim=-1)).clamp(max=1e-3).mean().detach()
        ),
    ),
    "metra with a head": (
        3, True,
        lambda head, x, y, z, raw: qm.losses.metra(x, y, z, raw, head=head),
        lambda head, x, y, z, raw: (
            -((y - x) * z).sum(dim=-1).mean()
            - raw.detach().exp() * (1 - head(x, y).square()).clamp(max=1e-3).mean()
            + raw * (1 - head(x, y).square()).clamp(max=1e-3).mean().detach()
        ),
    ),
    "metric": (
        2, False, lambda head, x, y: qm.losses.metric_contrastive(x, y), lambda head, x, y: _plain_metric(x, y)
    ),
    "coulomb": (
        1, False,
        lambda head, z: qm.losses.coulomb_repulsion(head, z, eps=0.2),
        lambda head, z: (1 / (_matrix(head, z, z)[~torch.eye(len(z), dtype=torch.bool)] + 0.2)).mean(),
    ),
    "metric with a head": (
        2, False,
        lambda head, x, y: qm.losses.metric_contrastive(x, y, head=head),
        lambda head, x, y: _plain_metric(x, y, head),
    ),
}  # fmt: skip
STREAMED = ("contrastive", "linex", "tmd", "metric", "metric with a head", "coulomb")


def leaves_of(name, dtype=torch.float64, seed=0):
    count, with_multiplier, *_ = LOSSES[name]
    return [*rows(count, BATCH, DIM, dtype=dtype, seed=seed), *([scalar(dtype=dtype)] if with_multiplier else [])]


@pytest.fixture(params=LOSSES)
def name(request):
    return request.param


def gradients(loss, leaves, head):
    """Returns the gradients by the leaves and the head's parameters; zeros where there is none."""
    inputs = [*leaves, *(head.parameters() if isinstance(head, torch.nn.Module) else ())]
    grads = torch.autograd.grad(loss, inputs, allow_unused=True)
    return [torch.zeros_like(tensor) if grad is None else grad for tensor, grad in zip(inputs, grads, strict=True)]


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


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("direction", ["forward", "symmetric"])
def test_a_queue_of_goals_is_negatives_alone(direction, streaming, backend):
    """Goals 4 and 5 have no state; 5 is near 0 and 1, unless the queue has a clip of its own."""
    head, (x, y) = head_of(), rows(2, BATCH, DIM)
    x = x[:4].detach().requires_grad_()
    of_queue = torch.where(torch.arange(BATCH) < 4, CLIP, -1)
    for clip, near in ((CLIP, NEAR), (of_queue, (of_queue[:, None] == of_queue) & NEAR)):
        ours = qm.losses.contrastive(
            head, x, y, direction=direction, label_smoothing=0.1, exclude=(clip, TIME, 1), streaming=streaming
        )
        plain = _plain_contrastive(head, x, y, direction, smoothing=0.1, near=near[:4])
        torch.testing.assert_close(ours.loss, plain)
        torch.testing.assert_close(gradients(ours.loss, [x, y], head), gradients(plain, [x, y], head))


def test_goals_near_a_match_count_in_no_diagnostic(backend):
    (x, y), results = rows(2, BATCH, DIM), []
    for streaming in (False, True):
        results.append(qm.losses.contrastive(head_of(), x, y, direction="forward", exclude=(CLIP, TIME, 1),
                                             streaming=streaming))  # fmt: skip
    logits = -_matrix(head_of(), x, y).detach() / math.sqrt(DIM)
    kept = ~NEAR | torch.eye(BATCH, dtype=torch.bool)
    negative = logits[~NEAR].mean()
    accuracy = (logits.diagonal() >= logits.masked_fill(~kept, -torch.inf).amax(dim=1)).double().mean()
    for result in results:
        torch.testing.assert_close((result.negative, result.accuracy), (negative, accuracy))


def test_a_whole_clip_is_excluded_by_one_time():
    """A state whose goal has all others near it has no negative, and a loss of 0."""
    x, y = rows(2, BATCH, DIM)
    time = torch.zeros(BATCH, dtype=torch.int32)
    result = qm.losses.contrastive(head_of(), x, y, label_smoothing=0.2, exclude=(time.int(), time, 10**6))
    torch.testing.assert_close(torch.stack(result)[[0, 2, 4]], torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))


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


def test_streaming_memory_is_that_of_a_tile_not_of_the_matrix():
    if reason := dispatch.why_not("cpu", "mrn", "cpu"):
        pytest.skip(reason)
    head = qm.nn.LatentMRN(64, preset="tmd")
    x, y = rows(2, 8192, 64, dtype=torch.float32)  # the matrix: 256 MiB, and the plain loss holds several of its size
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        qm.losses.contrastive(head, x, y, streaming=True).loss.backward()
    held = peak = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    assert peak < 256 * 2**20


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
    torch.testing.assert_close(ours, _plain_linex(head, x, y, n, log_discount[:, None]))


def test_part_of_the_batch_with_an_offset_is_its_share_of_the_whole():
    head, (x, y) = head_of(), rows(2, BATCH, DIM)
    whole = qm.losses.contrastive(head, x, y, direction="forward").loss
    parts = [
        qm.losses.contrastive(head, x[i : i + 3], y, direction="forward", offset=i).loss for i in range(0, BATCH, 3)
    ]
    torch.testing.assert_close(sum(parts) / 2, whole)


NAN = torch.full((), torch.nan)


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
        (lambda h, x: qm.losses.contrastive(h, x, x, direction="both"), ValueError, "direction must be one of"),
        (
            lambda h, x: qm.losses.contrastive(h, x, x, label_smoothing=1.0),
            ValueError,
            r"must be in \[0, 1\).* got 1.0",
        ),
        *(
            (lambda h, x, options=options: qm.losses.contrastive(h, x, x, **options), error, message)
            for options, error, message in (
                ({"exclude": (CLIP, TIME, -1)}, ValueError, "window of exclude must be 0 to .* got -1"),
                ({"exclude": (CLIP, TIME, 2**31)}, ValueError, "window of exclude must be 0 to .* the same time"),
                ({"exclude": (CLIP, TIME, 1.5)}, TypeError, "window of exclude must be a whole number, got float"),
                ({"exclude": (CLIP, TIME.double(), 1)}, TypeError, "time of exclude must be an integer tensor"),
                ({"exclude": (CLIP[:4], TIME, 1)}, ValueError, "clip of exclude must be a number or one per row"),
                ({"exclude": (CLIP, TIME.to("meta"), 1)}, RuntimeError, "time of exclude must be on cpu"),
                ({"exclude": (CLIP, TIME, 1), "form": "sigmoid"}, ValueError, "exclude must be None"),
                ({"potential": torch.ones(BATCH - 1)}, ValueError, "potential must be a number or one per row"),
                ({"potential": CLIP}, TypeError, "potential must be float64"),
                ({"potential": torch.ones(BATCH, device="meta")}, RuntimeError, "potential must be on cpu"),
            )
        ),
        (lambda h, x: qm.losses.coulomb_repulsion(h, x, eps=0), ValueError, "eps must be positive and finite, got 0.0"),
        (lambda h, x: qm.losses.coulomb_repulsion(h, x[0]), ValueError, r"points must be \(\.\.\., B, D\)"),
        (lambda h, x: qm.losses.tmd_critic(h, x, x, x, x, invariance="exp"), ValueError, "invariance must be one of"),
        (lambda h, x: qm.losses.contrastive(h, x, x, offset=2), ValueError, "must have the matches of x"),
        (lambda h, x: qm.losses.contrastive(h, x[None], x), ValueError, "may differ only"),
        (lambda h, x: qm.losses.contrastive(h, x, x.float()), TypeError, "same dtype"),
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
