"""The contrastive loss: queues of negatives, goals near a match, parts of a batch, memory of streaming, bad input."""

import math

import pytest
import torch
from loss_formulas import BATCH, CLIP, DIM, NEAR, TIME, gradients, head_of, matrix_of, plain_contrastive, rows

import qmkernels as qm
from qmkernels.backends import dispatch
from qmkernels.losses import tiles


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
        plain = plain_contrastive(head, x, y, direction, smoothing=0.1, near=near[:4])
        torch.testing.assert_close(ours.loss, plain)
        torch.testing.assert_close(gradients(ours.loss, [x, y], head), gradients(plain, [x, y], head))


def test_goals_near_a_match_count_in_no_diagnostic(backend):
    (x, y), results = rows(2, BATCH, DIM), []
    for streaming in (False, True):
        results.append(qm.losses.contrastive(head_of(), x, y, direction="forward", exclude=(CLIP, TIME, 1),
                                             streaming=streaming))  # fmt: skip
    logits = -matrix_of(head_of(), x, y).detach() / math.sqrt(DIM)
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


def test_part_of_the_batch_with_an_offset_is_its_share_of_the_whole():
    head, (x, y) = head_of(), rows(2, BATCH, DIM)
    whole = qm.losses.contrastive(head, x, y, direction="forward").loss
    parts = [
        qm.losses.contrastive(head, x[i : i + 3], y, direction="forward", offset=i).loss for i in range(0, BATCH, 3)
    ]
    torch.testing.assert_close(sum(parts) / 2, whole)


def test_streaming_memory_is_that_of_a_tile_not_of_the_matrix(monkeypatch):
    if reason := dispatch.why_not("cpu", "mrn", "cpu"):
        pytest.skip(reason)
    head = qm.nn.LatentMRN(64, preset="tmd")
    monkeypatch.setitem(tiles._TILE_PAIRS, "cpu", 1 << 20)  # 4 MiB
    x, y = rows(2, 4096, 64, dtype=torch.float32)  # the matrix: 64 MiB, and the plain loss holds several of its size
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        qm.losses.contrastive(head, x, y, streaming=True).loss.backward()
    held = peak = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    assert peak < 64 * 2**20


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"direction": "both"}, ValueError, "direction must be one of"),
        ({"label_smoothing": 1.0}, ValueError, r"must be in \[0, 1\).* got 1.0"),
        ({"offset": 2}, ValueError, "must have the matches of x"),
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
    ],
)
def test_wrong_options_are_refused(options, error, message):
    (x,) = rows(1, BATCH, DIM)
    with pytest.raises(error, match=message):
        qm.losses.contrastive(head_of(), x, x, **options)


@pytest.mark.parametrize(
    "pair, error, message",
    [
        (lambda x: (x[None], x), ValueError, "may differ only"),
        (lambda x: (x, x.float()), TypeError, "same dtype"),
    ],
)
def test_embeddings_that_do_not_fit_are_refused(pair, error, message):
    with pytest.raises(error, match=message):
        qm.losses.contrastive(head_of(), *pair(*rows(1, BATCH, DIM)))
