"""On a GPU: every row of op_cases.py on the CUDA and the Triton backend; and what only a GPU can show.

`compute-sanitizer --tool memcheck` (and racecheck, synccheck) pytest -k small: every op once, forward and backward, at
small odd sizes, on both backends.
"""

from __future__ import annotations

from functools import partial

import agent_cases
import head_cases
import op_checks
import pytest
import torch
from op_cases import CASES, every

import qmkernels as qm
from qmkernels.backends import dispatch
from qmkernels.definitions import nearest as nearest_definition
from qmkernels.measurement import in_cuda_graph

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
DTYPES = (torch.float32, torch.float64)


@pytest.fixture(params=("cuda", "triton"))
def backend(request) -> str:
    for op in dispatch.OPS:
        if reason := dispatch.why_not(request.param, op, "cuda"):
            pytest.skip(f"backend {request.param}: {reason}")
    return request.param


# Values per component: those with their own kernels, full and partial packs of 16 bytes, several slices of 32.
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", (1, 2, 5, 8, 40))
@every()
def test_small_sizes_agree_with_the_reference(case, size, backend, dtype):
    op_checks.check_error_is_no_worse_than_that_of_plain_torch(case, backend, "cuda", dtype, size=size, rows=7)


# Few pairs, which are split over many blocks, and many, which are not; one row more than whole tiles.
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "size, rows", [(4, 1025), (16, 33), (32, 1025), (33, 33), (64, 1025), (130, 33), (130, 257), (616, 33)]
)
@every()
def test_errors_are_no_worse_than_those_of_plain_torch(case, size, rows, backend, dtype):
    op_checks.check_error_is_no_worse_than_that_of_plain_torch(case, backend, "cuda", dtype, size=size, rows=rows)


@pytest.mark.parametrize("size, rows", [(8, 33), (33, 1025), (2, 4099)])
@every()
def test_two_runs_give_the_same_bits(case, size, rows, backend):
    if rows > 2000 and case.kind == "pairs" or case.op == "pair_loss":
        rows = 1025
    op_checks.check_runs_repeat_bit_for_bit(case, backend, "cuda", size=size, rows=rows)


@pytest.mark.parametrize("size, rows", [(5, 9), (64, 65)])
@every("independent rows")
def test_nan_in_a_row_stays_in_that_row(case, size, rows, backend):
    op_checks.check_nan_stays_in_its_row(case, backend, "cuda", size=size, rows=rows)


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
@every()
def test_half_inputs_compute_and_return_float32_and_their_gradients_come_back_half(case, dtype, backend):
    op_checks.check_half_inputs_are_computed_in_float32(case, backend, "cuda", dtype, size=8, rows=33)


HEAD = qm.nn.IQE(512, 8, reduction="sum")
OF_MATCHING_ROWS = {
    "iqe": qm.iqe,
    "mrn": qm.mrn,
    "pqe": qm.pqe,
    "row_loss": lambda x, y: qm.losses.step_gap(HEAD, x, y, 2.0).loss,
    "qrl_critic": lambda x, y: qm.losses.qrl_critic(HEAD, x, y, torch.zeros((), device=x.device)).loss,
    "latent_dynamics": lambda x, y: qm.losses.latent_dynamics(HEAD, x, y).loss,
    "metra": lambda x, y: qm.losses.metra(x, y, y.detach(), torch.zeros((), device=x.device)).loss,
    "temporal_consistency": lambda x, y: qm.losses.temporal_consistency(x[None], y[None]).loss,
}


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
@pytest.mark.parametrize("name", OF_MATCHING_ROWS)
def test_matching_rows_in_half_precision_give_the_numbers_of_float32_without_a_copy(name, dtype, backend):
    x, y = (tensor.requires_grad_() for tensor in torch.randn(2, 4096, 512, device="cuda").to(dtype).unbind())

    def run(*rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with qm.use_backend(backend):
            out = OF_MATCHING_ROWS[name](*rows)
        grads = torch.autograd.grad(out.sum(), rows, allow_unused=True)
        return out, *(grad for grad in grads if grad is not None)  # temporal_consistency has none by its target

    expected = [value.to(dtype) if value.dim() == 2 else value for value in run(x.float(), y.float())]
    run(x, y)  # Triton compiles
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    actual = run(x, y)
    # Both gradients, the ends, and numbers of rows.
    assert torch.cuda.max_memory_allocated() - before < 1.25 * 2 * x.numel() * x.element_size()
    assert all(map(torch.equal, actual, expected))


@every()
def test_strided_and_offset_tensors_give_the_numbers_of_contiguous_ones(case, backend):
    op_checks.check_views_give_the_numbers_of_contiguous_tensors(case, backend, "cuda", size=8, rows=33)
    op_checks.check_expanded_rows_get_summed_gradients(case, backend, "cuda", size=8, rows=33)


@pytest.mark.parametrize("other", ("reference", "cuda"))
@every()
def test_what_forward_keeps_is_the_same_on_all_backends(case, other, backend):
    if reason := dispatch.why_not(other, case.op, "cuda"):
        pytest.skip(reason)
    op_checks.check_what_forward_keeps_is_the_same_on_both_backends(case, backend, other, "cuda")


@pytest.mark.parametrize("size, rows", [(8, 33), (33, 257)])
@every()
def test_a_graph_replays_forward_and_backward_with_new_numbers(case, size, rows, backend):
    tensors = case.tensors(torch.float32, size=size, rows=rows, device="cuda")

    def step() -> list[torch.Tensor]:
        return op_checks.value_and_gradients(case, tensors, backend, size)

    replay = in_cuda_graph(step)
    with torch.no_grad():
        for tensor in tensors:
            tensor.mul_(0.5)
    captured = replay()
    torch.cuda.synchronize()
    for actual, expected in zip(captured, step(), strict=True):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("form", ("forward", "pairwise"))
@pytest.mark.parametrize("name", head_cases.HEADS)
def test_a_graph_replays_a_head_with_new_numbers(name, form, backend):
    head = head_cases.make(name).cuda()
    rows = (torch.randn(33, head_cases.SIZE, device="cuda", requires_grad=True) for _ in "xy")
    leaves = [*rows, *head.parameters()]

    def step() -> list[torch.Tensor]:
        with qm.use_backend(backend):
            out = getattr(head, form)(*leaves[:2])
            return [out.detach(), *torch.autograd.grad(out.sum(), leaves)]

    replay = in_cuda_graph(step)
    with torch.no_grad():
        for leaf in leaves:
            leaf.mul_(0.5)
    captured = replay()
    torch.cuda.synchronize()
    for actual, expected in zip(captured, step(), strict=True):
        torch.testing.assert_close(actual, expected)


@agent_cases.every()
def test_a_graph_replays_an_agents_update(case, backend):
    agent = case.make(device="cuda")
    batch = {name: value.cuda() for name, value in case.rows(agent).items()}
    with qm.use_backend(backend):
        replay = in_cuda_graph(lambda: agent.update(batch))
    before = agent_cases.parameters_of(agent.networks)
    metrics = replay()
    torch.cuda.synchronize()
    assert all(value.isfinite() for value in metrics.values())
    assert not torch.equal(agent_cases.parameters_of(agent.networks), before)


@pytest.mark.parametrize("head", ("iqe", "mrn", "pqe"))
def test_without_memory_the_error_is_torchs_and_nothing_is_leaked(head, backend):
    def distances() -> None:
        # 2^44 pairs: 64 TiB.
        x = torch.zeros(2**22, 8, device="cuda", requires_grad=True)
        HEADS[head][1](x, x, backend=backend)

    before = torch.cuda.memory_allocated()
    with pytest.raises(torch.OutOfMemoryError):
        distances()
    assert torch.cuda.memory_allocated() == before


@every()
def test_a_stream_of_its_own_is_used(case, backend):
    tensors = case.tensors(torch.float32, size=8, rows=33, device="cuda")
    expected = op_checks.value_and_gradients(case, tensors, backend, 8)
    late = [torch.full_like(tensor.detach(), 7.0).requires_grad_(tensor.requires_grad) for tensor in tensors]
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        # After work on this stream only: a kernel on another stream would read the numbers too early.
        torch.cuda._sleep(20_000_000)
        with torch.no_grad():
            for tensor, number in zip(late, tensors, strict=True):
                tensor.copy_(number)
        actual = op_checks.value_and_gradients(case, late, backend, 8)
    side.synchronize()
    for value, tensor in zip(actual, expected, strict=True):
        assert torch.equal(value, tensor)


@every()
def test_tensors_on_two_devices_are_refused(case, backend):
    op_checks.check_tensors_on_two_devices_are_refused(case, backend, "cuda", "cpu")


@every()
def test_the_backend_of_a_cpu_is_refused(case):
    op_checks.check_a_backend_of_another_device_is_refused(case, "cpu", "cuda")


# --- Claims about a few ops.


def test_one_component_of_4096_values_spans_the_row(backend):
    if backend == "triton":
        pytest.skip("the Triton kernel compares every two values: 16 million for this row")
    x = torch.randn(7, 4096, generator=torch.Generator().manual_seed(0)).cuda()
    y = x + torch.rand(7, 4096, generator=torch.Generator().manual_seed(1)).cuda() / 256
    out = qm.iqe(x, y, 4096, reduction="sum", backend=backend)
    expected = qm.iqe(x.double(), y.double(), 4096, reduction="sum", backend="reference")
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", (qm.poisson_le, qm.poisson_gt, qm.log_poisson_le))
def test_poisson_comparisons_of_rates_near_0_and_large_agree_with_the_reference(function, backend, dtype):
    rates = torch.tensor([0.0, 1e-8, 1e-3, 0.5, 1.0, 1.99, 2.01, 14.9, 15.1, 60.0], device="cuda", dtype=dtype)
    a, b = (one.flatten().clone().requires_grad_() for one in torch.meshgrid(rates, rates, indexing="ij"))
    # Near 0 the reference takes the logarithm of a sum close to 1, which is rounded.
    tolerance = {"rtol": 2e-6 if dtype == torch.float32 else 1e-9, "atol": 1e-13}
    results = []
    for one in (backend, "reference"):
        out = function(a, b, backend=one)
        results.append([out.detach(), *torch.autograd.grad(out.sum(), (a, b))])
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, **tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("levels", (0, 50), ids=("distinct", "ties"))
@pytest.mark.parametrize("rows", (3, 4099))
@pytest.mark.parametrize("k", (1, 2, 32, 33, 1000))
def test_the_nearest_of_tiles_are_the_references(k, rows, levels, backend, dtype):
    generator = torch.Generator(device="cuda").manual_seed(k)
    distances = torch.randn(rows, 5003, generator=generator, device="cuda", dtype=dtype)
    if levels:
        distances = (distances * levels).round()
    distances[0, 7::3] = torch.nan
    values = distances.new_full((rows, k), torch.inf)
    indices = torch.full(values.shape, -1, device="cuda")
    for first in range(0, 5003, 1777):
        tile = distances[:, first : first + 1777].contiguous()
        values, indices = torch.ops.qmkernels.nearest_merge(tile, values, indices, first, backend)
    expected = nearest_definition.smallest(distances, k)
    assert torch.equal(indices, expected[1])
    torch.testing.assert_close(values, expected[0], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("value", (0.0, 1e-12, torch.nan, torch.inf))
@pytest.mark.parametrize("counts", (0.0, 1.0))
def test_latents_without_a_direction_or_a_number_are_as_in_the_reference(value, counts, backend):
    case = next(case for case in CASES if case.name == "temporal_consistency")
    predicted, target, mask = case.detached(size=22, rows=9, device="cuda")
    predicted[1, 3], target[2, 5] = value, value
    mask[1, 3] = mask[2, 5] = counts
    tensors = [predicted.requires_grad_(), target, mask]
    actual, expected = (op_checks.value_and_gradients(case, tensors, name, 22) for name in (backend, "reference"))
    torch.testing.assert_close(actual, expected, equal_nan=True, rtol=1e-12, atol=1e-12)


# --- More than 2^31 values, or pairs.


def _skip_without_memory(gigabytes: int) -> None:
    free = torch.cuda.mem_get_info()[0] / 2**30
    if free < gigabytes:
        pytest.skip(f"needs {gigabytes} GiB of GPU memory, {free:.0f} are free")


def _gaussian(*shape: int) -> torch.Tensor:
    return torch.empty(*shape, device="cuda").normal_().requires_grad_()


ROWS_OF_512 = 2**22 + 3
HEADS = {
    "iqe": [partial(function, dim_per_component=8, reduction="sum") for function in (qm.iqe, qm.iqe_pairwise)],
    "mrn": (partial(qm.mrn, preset="tmd"), qm.mrn_pairwise),
    "pqe": (partial(qm.pqe, dim_per_component=8), partial(qm.pqe_pairwise, dim_per_component=4)),
}  # fmt: skip


@pytest.mark.parametrize("head", HEADS)
def test_more_than_2_to_the_31_values(head, backend):
    _skip_without_memory(60)
    x, y = _gaussian(ROWS_OF_512, 512), _gaussian(ROWS_OF_512, 512)
    out = HEADS[head][0](x, y, backend=backend)
    last = [tensor.detach()[-5:].requires_grad_() for tensor in (x, y)]
    truth = HEADS[head][0](*last, backend="reference")
    torch.testing.assert_close(out[-5:], truth, rtol=1e-5, atol=1e-4)
    grads = torch.autograd.grad(out.sum(), (x, y))
    for actual, expected in zip(grads, torch.autograd.grad(truth.sum(), last), strict=True):
        torch.testing.assert_close(actual[-5:], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("head", HEADS)
def test_more_than_2_to_the_31_pairs(head, backend):
    _skip_without_memory(60)
    x, y = _gaussian(46400, 8), _gaussian(46401, 8).detach()
    out = HEADS[head][1](x, y, backend=backend)
    last = x.detach()[-3:].requires_grad_()
    truth = HEADS[head][1](last, y, backend="reference")
    torch.testing.assert_close(out.detach()[-3:], truth, rtol=1e-5, atol=1e-4)
    (grad,) = torch.autograd.grad(out, x, torch.ones((), device="cuda").expand_as(out))
    (expected,) = torch.autograd.grad(truth.sum(), last)
    if head == "iqe":  # left ends are counted exactly: every sum is an integer below 2^24
        assert torch.equal(grad[-3:], expected)
    torch.testing.assert_close(grad[-3:], expected, rtol=1e-4, atol=1e-2)


def test_more_than_2_to_the_31_values_of_qrls_critic(backend):
    if backend == "triton":
        pytest.skip("the Triton backend keeps copies: 100 GiB")
    _skip_without_memory(60)
    x, y = _gaussian(ROWS_OF_512, 512), _gaussian(ROWS_OF_512, 512)
    head, raw = qm.nn.IQE(512, 8, reduction="mean"), torch.zeros((), device="cuda")
    last = [tensor.detach()[-5:].requires_grad_() for tensor in (x, y)]
    with qm.use_backend(backend):
        grads = torch.autograd.grad(qm.losses.qrl_critic(head, x, y, raw).loss, (x, y))
    with qm.use_backend("reference"):
        expected = torch.autograd.grad(qm.losses.qrl_critic(head, *last, raw).loss, last)
    # Here the first of these rows has another goal, and the last is one.
    for actual, other in zip(grads, expected, strict=True):
        torch.testing.assert_close(actual[-5:][1:4] * ROWS_OF_512, other[1:4] * 5, rtol=1e-4, atol=1e-5)


def test_more_than_2_to_the_31_values_of_temporal_consistency(backend):
    _skip_without_memory(60)
    batch = 2**21 + 3
    predicted, target = _gaussian(3, batch, 512), _gaussian(3, batch, 512).detach()
    with qm.use_backend(backend):
        (grad,) = torch.autograd.grad(qm.losses.temporal_consistency(predicted, target).loss, predicted)
    last = predicted.detach()[:, -5:].requires_grad_()
    with qm.use_backend("reference"):
        (expected,) = torch.autograd.grad(qm.losses.temporal_consistency(last, target[:, -5:]).loss, last)
    torch.testing.assert_close(grad[:, -5:] * (batch / 5), expected, rtol=1e-4, atol=1e-5)
