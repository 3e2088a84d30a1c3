"""QRL's latent dynamics as one op: against the loss composed of distances, on every backend, under torch."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import qmkernels as qm
from qmkernels.backends import dispatch
from qmkernels.backends.reference.iqe import unpack_ends
from qmkernels.definitions import iqe as iqe_definition
from qmkernels.definitions.latent_dynamics import LatentDynamicsSettings
from qmkernels.ops.latent_dynamics import latent_dynamics

SIZES = [(1, 3, 4), (4, 5, 9), (5, 2, 3), (8, 64, 40), (16, 1, 2), (32, 2, 7), (33, 3, 6)]  # K, C, rows


@pytest.fixture(params=["cpu", "reference"])
def backend(request):
    if request.param == "cpu" and (reason := dispatch.why_not("cpu", "latent_dynamics", "cpu")):
        pytest.skip(reason)
    with qm.use_backend(request.param):
        yield request.param


def problem(*shape, dtype=torch.float64):
    generator = torch.Generator().manual_seed(sum(shape))
    return [torch.randn(shape, dtype=dtype, generator=generator).requires_grad_() for _ in range(2)]


def loss_and_gradients(head, predicted, target, power=2):
    found = qm.losses.latent_dynamics(head, predicted, target, power=power)
    return *found, *torch.autograd.grad(found.loss, [predicted, target, *head.parameters()])


def without_fusion(head):
    head.fused_iqe = lambda x, y: None
    return head


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("reduction", ["sum", "mean", "max", "maxmean", "maxmean_ogbench"])
@pytest.mark.parametrize("size, count, rows", SIZES)
def test_the_fused_loss_equals_the_composed_one(size, count, rows, reduction, power, dtype, backend):
    head = qm.nn.IQE(count * size, size, reduction=reduction).to(dtype)
    arguments = problem(rows, count * size, dtype=dtype)
    assert head.fused_iqe(*arguments) is not None
    fused = loss_and_gradients(head, *arguments, power)
    composed = loss_and_gradients(without_fusion(head), *arguments, power)
    tolerance = {"rtol": 1e-10, "atol": 1e-11} if dtype == torch.float64 else {"rtol": 2e-5, "atol": 5e-6}
    torch.testing.assert_close(fused, composed, **tolerance)


def test_leading_dimensions_are_more_rows(backend):
    head, arguments = qm.nn.IQE(24, 8).double(), problem(2, 3, 5, 24)
    fused = loss_and_gradients(head, *arguments)
    torch.testing.assert_close(fused, loss_and_gradients(without_fusion(head), *arguments))


@pytest.mark.parametrize("size", [4, 5, 8, 16, 32, 33])
def test_tied_ends_add_up_to_the_reference_subgradient(size, backend):
    generator = torch.Generator().manual_seed(1)
    # Few values: intervals of both directions that begin, end and touch at the same places, and empty ones.
    x, y = torch.randint(0, 5, (2, 57, 2 * size), generator=generator).double()
    kernels = dispatch.resolve("latent_dynamics", "cpu", backend).module
    loss, _, _, ends, *_ = kernels.latent_dynamics_forward(x, y, None, size, "sum", 1)
    kept = [side.bool() for side in unpack_ends(ends, size)]
    there, back = (iqe_definition.components(*pair, size).sum(dim=-1) for pair in ((x, y), (y, x)))
    torch.testing.assert_close(loss, 0.5 * (there + back).mean())
    for pair, (a, b) in enumerate(((x, y), (y, x))):
        wanted = iqe_definition.ends(a, b, size)
        for side, coordinate in enumerate((a, b)):
            for tied in range(5):
                here = coordinate.unflatten(-1, (-1, size)) == tied
                assert torch.equal((kept[side][pair] & here).sum(dim=-1), (wanted[side] & here).sum(dim=-1))


@pytest.mark.parametrize("size", [4, 8, 33])
@pytest.mark.parametrize("side", [0, 1])
def test_nan_gives_nan_both_ways_and_other_rows_keep_their_gradients(side, size, backend):
    head = qm.nn.IQE(2 * size, size).double()
    arguments = problem(6, 2 * size)
    clean = loss_and_gradients(head, *arguments)
    with torch.no_grad():
        arguments[side][2, 3] = torch.nan
    found = loss_and_gradients(head, *arguments)
    assert all(value.isnan() for value in found[:3])
    others = [0, 1, 3, 4, 5]
    for got, wanted in zip(found[3:5], clean[3:5], strict=True):
        torch.testing.assert_close(got[others], wanted[others])
        assert got[2, :size].isnan().all()


@pytest.mark.parametrize("infinity", [torch.inf, -torch.inf])
@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("size", [4, 8, 33])
def test_infinity_counts_as_the_largest_finite_number(size, side, infinity, backend):
    arguments = problem(6, 2 * size)
    with torch.no_grad():
        arguments[side][2, 3] = infinity
    head = qm.nn.IQE(2 * size, size, reduction="max").double()
    found = loss_and_gradients(head, *arguments, 1)
    torch.testing.assert_close(found, loss_and_gradients(without_fusion(head), *arguments, 1))


def test_equal_sides_have_no_distance_and_no_gradient(backend):
    (x, _), head = problem(5, 24), qm.nn.IQE(24, 8).double()
    found = loss_and_gradients(head, x, x.detach().clone().requires_grad_())
    assert all(torch.equal(value, torch.zeros_like(value)) for value in found)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_inputs_are_computed_in_float32_and_have_gradients_of_their_own_dtype(dtype, backend):
    head, arguments = qm.nn.IQE(24, 8), problem(5, 24, dtype=dtype)
    loss, there, back, *grads, _ = loss_and_gradients(head, *arguments)
    wide = loss_and_gradients(head, *(side.detach().float().requires_grad_() for side in arguments))
    assert {value.dtype for value in (loss, there, back)} == {torch.float32}
    torch.testing.assert_close((loss, there, back), wide[:3])
    torch.testing.assert_close(grads, [grad.to(dtype) for grad in wide[3:5]])


def test_strided_and_expanded_inputs_are_taken(backend):
    head, (x, y) = qm.nn.IQE(24, 8).double(), problem(24, 6)
    wanted = loss_and_gradients(head, *(side.detach().T.contiguous().requires_grad_() for side in (x, y)))
    found = qm.losses.latent_dynamics(head, x.T, y.T)
    torch.testing.assert_close(torch.autograd.grad(found.loss, x, retain_graph=True)[0].T, wanted[3])
    row = y.T[:1]
    expanded = qm.losses.latent_dynamics(head, x.T, row.expand(6, 24))
    torch.testing.assert_close(expanded.loss, qm.losses.latent_dynamics(head, x.T, row.repeat(6, 1)).loss)


def test_a_side_without_a_gradient_has_none(backend):
    head, (predicted, target) = qm.nn.IQE(24, 8).double(), problem(5, 24)
    wanted = loss_and_gradients(head, predicted, target)[3]
    qm.losses.latent_dynamics(head, predicted, target.detach()).loss.backward()
    torch.testing.assert_close(predicted.grad, wanted)
    assert target.grad is None


@pytest.mark.parametrize("reduction", ["sum", "max", "maxmean"])
@pytest.mark.parametrize("power", [1, 2])
def test_derivatives_pass_gradcheck_and_gradgradcheck(power, reduction, backend):
    weight = [torch.tensor(0.3, dtype=torch.float64, requires_grad=True)] if reduction == "maxmean" else []
    form = LatentDynamicsSettings(4, reduction, power)

    def call(x, y, weight=None):
        return latent_dynamics(x, y, weight, form, backend)[0]

    arguments = [*problem(3, 12), *weight]
    assert gradcheck(call, arguments)
    assert gradgradcheck(call, arguments)


@pytest.mark.parametrize("dynamic", [False, True])
def test_torch_compile_traces_the_whole_graph_and_changes_no_number(dynamic):
    torch._dynamo.reset()
    head = qm.nn.IQE(24, 8)
    run = torch.compile(
        lambda x, y: qm.losses.latent_dynamics(head, x, y).loss, fullgraph=True, dynamic=dynamic, backend="aot_eager"
    )
    for rows in (5, 7):
        leaves = problem(rows, 24, dtype=torch.float32)
        results = []
        for loss in (run(*leaves), qm.losses.latent_dynamics(head, *leaves).loss):
            results.append([loss.detach(), *torch.autograd.grad(loss, [*leaves, *head.parameters()])])
        torch.testing.assert_close(*results)


def test_autocast_computes_in_float32():
    head, (x, y) = qm.nn.IQE(24, 8), problem(5, 24, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = qm.losses.latent_dynamics(head, x, y)
    torch.testing.assert_close(found, qm.losses.latent_dynamics(head, x, y))


@pytest.mark.parametrize("reduction", ["maxmean", "sum"])
def test_registered_ops_pass_opcheck(reduction):
    x, y = (side.detach() for side in problem(5, 24))
    max_weight = torch.tensor(0.3, dtype=x.dtype) if reduction == "maxmean" else None
    arguments = (x, y, max_weight, *LatentDynamicsSettings(8, reduction), "auto")
    torch.library.opcheck(torch.ops.qmkernels.latent_dynamics_forward.default, arguments)
    loss, _, *kept = torch.ops.qmkernels.latent_dynamics_forward(*arguments)
    torch.library.opcheck(
        torch.ops.qmkernels.latent_dynamics_backward.default,
        (torch.ones_like(loss), *kept, max_weight, 8, reduction, "auto"),
    )


@pytest.mark.parametrize("size, count, rows", SIZES)
def test_what_forward_keeps_is_the_same_on_all_backends(size, count, rows):
    if reason := dispatch.why_not("cpu", "latent_dynamics", "cpu"):
        pytest.skip(reason)
    x, y = (side.detach() for side in problem(rows, count * size))
    weight = torch.tensor(0.3, dtype=x.dtype)
    kernels = [dispatch.resolve("latent_dynamics", "cpu", name).module for name in ("cpu", "reference")]
    kept = [module.latent_dynamics_forward(x, y, weight, *LatentDynamicsSettings(size)) for module in kernels]
    torch.testing.assert_close(*kept)
    grad_loss = torch.tensor(-1.7, dtype=x.dtype)
    # Each backward from the other's forward.
    grads = [
        module.latent_dynamics_backward(grad_loss, *others[2:], weight, size, "maxmean")
        for module, others in zip(kernels, reversed(kept), strict=True)
    ]
    torch.testing.assert_close(*grads)


def test_results_do_not_depend_on_the_number_of_threads():
    threads, runs = torch.get_num_threads(), []
    head = qm.nn.IQE(256, 8)
    try:
        for count in (1, 3, threads):
            torch.set_num_threads(count)
            runs.append(loss_and_gradients(head, *problem(700, 256, dtype=torch.float32)))
    finally:
        torch.set_num_threads(threads)
    for other in runs[1:]:
        assert all(torch.equal(first, second) for first, second in zip(runs[0], other, strict=True))


def test_float32_sums_over_many_rows_keep_their_digits():
    head = qm.nn.IQE(8, 8, reduction="sum")
    x, y = (side.detach() for side in problem(300_000, 8, dtype=torch.float32))
    found, exact = (qm.losses.latent_dynamics(h, *s) for h, s in ((head, (x, y)), (head, (x.double(), y.double()))))
    for got, wanted in zip(found, exact, strict=True):
        torch.testing.assert_close(got.double(), wanted, rtol=1e-6, atol=0)
