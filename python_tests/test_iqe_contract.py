"""The op contract (DESIGN): everything that torch does to an op must work on IQE, elementwise and pairwise."""

import copy
import functools

import pytest
import torch
from torch.autograd import forward_ad, gradcheck, gradgradcheck

import qmkernels as qm
from qmkernels.definitions import iqe as definition

REDUCTIONS = ("none", "sum", "mean", "max", "maxmean")
BACKENDS = ("cpu", "reference")
FORMS = ("elementwise", "pairwise")


@pytest.fixture(params=BACKENDS)
def backend(request):
    with qm.use_backend(request.param):
        yield request.param


def embeddings(form, dtype=torch.float64, num_components=3, dim_per_component=5, seed=0):
    """x and y, leaves that require gradients; no ties."""
    generator = torch.Generator().manual_seed(seed)
    dim = num_components * dim_per_component
    x_shape, y_shape = ((7, dim), (7, dim)) if form == "elementwise" else ((4, dim), (9, dim))
    x = torch.randn(x_shape, dtype=dtype, generator=generator)
    y = torch.randn(y_shape, dtype=dtype, generator=generator) + 0.4
    return x.requires_grad_(), y.requires_grad_()


def distance(form, reduction, dim_per_component=5):
    """A function of (x, y, max_weight)."""
    op = qm.iqe if form == "elementwise" else qm.iqe_pairwise

    def call(x, y, max_weight=0.3):
        weight = max_weight if reduction == "maxmean" else None
        return op(x, y, dim_per_component, reduction=reduction, max_weight=weight)

    return call


def reference_distance(form, reduction, dim_per_component=5):
    def call(x, y, max_weight=0.3):
        if form == "pairwise":
            x, y = x[..., :, None, :], y[..., None, :, :]
        return definition.iqe(x, y, dim_per_component, reduction=reduction, max_weight=max_weight)

    return call


def weight_leaf(dtype=torch.float64):
    return torch.tensor(0.3, dtype=dtype, requires_grad=True)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("form", FORMS)
def test_first_derivatives_pass_gradcheck_in_both_modes(form, reduction, backend):
    inputs = (*embeddings(form), weight_leaf()) if reduction == "maxmean" else embeddings(form)
    assert gradcheck(distance(form, reduction), inputs, check_forward_ad=True, check_batched_grad=True)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("form", FORMS)
def test_second_derivatives_pass_gradgradcheck(form, reduction, backend):
    inputs = (*embeddings(form), weight_leaf()) if reduction == "maxmean" else embeddings(form)
    assert gradgradcheck(distance(form, reduction), inputs, check_fwd_over_rev=True)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("keep", [False, True])
def test_registered_elementwise_ops_pass_opcheck(reduction, keep):
    x, y = (tensor.detach() for tensor in embeddings("elementwise"))
    weight = torch.tensor(0.3, dtype=x.dtype) if reduction == "maxmean" else None
    arguments = (x, y, weight, 5, reduction, keep, "auto")
    torch.library.opcheck(torch.ops.qmkernels.iqe_forward.default, arguments)
    if keep:
        out, ends, largest, _ = torch.ops.qmkernels.iqe_forward(*arguments)
        torch.library.opcheck(
            torch.ops.qmkernels.iqe_backward.default,
            (torch.randn_like(out), ends, largest, weight, 5, reduction, "auto"),
        )


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("need_weight_gradient", [False, True])
def test_registered_pairwise_ops_pass_opcheck(reduction, need_weight_gradient):
    x, y = (tensor.detach()[None] for tensor in embeddings("pairwise"))
    weight = torch.tensor(0.3, dtype=x.dtype) if reduction == "maxmean" else None
    if need_weight_gradient and weight is None:
        need_weight_gradient = False
    arguments = (x, y, weight, 5, reduction, True, "auto")
    torch.library.opcheck(torch.ops.qmkernels.iqe_pairwise_forward.default, arguments)
    out, largest = torch.ops.qmkernels.iqe_pairwise_forward(*arguments)
    torch.library.opcheck(
        torch.ops.qmkernels.iqe_pairwise_backward.default,
        (torch.randn_like(out), x, y, largest, weight, 5, reduction, need_weight_gradient, "auto"),
    )


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("reduction", ["none", "maxmean"])
@pytest.mark.parametrize("form", FORMS)
def test_torch_compile_traces_the_whole_graph_and_changes_no_number(form, reduction, dynamic):
    torch._dynamo.reset()
    eager = distance(form, reduction)
    compiled = torch.compile(lambda x, y, w: eager(2 * x, y, w) + 1, fullgraph=True, dynamic=dynamic)
    for seed, num_components in ((0, 3), (1, 4)):
        x, y = embeddings(form, torch.float32, num_components, seed=seed)
        weight = weight_leaf(torch.float32)
        leaves = (x, y, weight) if reduction == "maxmean" else (x, y)
        expected, actual = eager(2 * x, y, weight) + 1, compiled(x, y, weight)
        torch.testing.assert_close(actual, expected)
        grad = torch.randn_like(expected)
        expected_grads = torch.autograd.grad(expected, leaves, grad)
        torch.testing.assert_close(torch.autograd.grad(actual, leaves, grad), expected_grads)


@pytest.mark.parametrize("form", FORMS)
def test_torch_compile_of_one_function_serves_several_batch_sizes(form):
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(distance(form, "maxmean"), fullgraph=True, dynamic=True, backend=counter)
    for rows in (6, 11, 17):
        x = torch.randn(rows, 15)
        torch.testing.assert_close(compiled(x, x.flip(0)), distance(form, "maxmean")(x, x.flip(0)))
    assert counter.frame_count <= 2


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("form", FORMS)
def test_func_grad_equals_autograd(form, reduction, backend):
    x, y = embeddings(form)
    call = distance(form, reduction)
    weight = weight_leaf()
    expected = torch.autograd.grad(call(x, y, weight).sum(), (x, y))
    actual = torch.func.grad(lambda a, b: call(a, b, weight.detach()).sum(), argnums=(0, 1))(x.detach(), y.detach())
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("in_dims", [(0, 0), (0, None), (None, 0), (1, 0), (0, 2)])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("form", FORMS)
def test_vmap_equals_a_loop(form, reduction, in_dims, backend):
    x, y = (tensor.detach() for tensor in embeddings(form))
    batch = [
        tensor if dim is None else torch.stack([tensor * (1 + 0.3 * i) for i in range(3)], dim=dim)
        for tensor, dim in zip((x, y), in_dims, strict=True)
    ]
    call = distance(form, reduction)
    actual = torch.vmap(call, in_dims=in_dims)(*batch)
    looped = [
        call(*(t if dim is None else t.select(dim, i) for t, dim in zip(batch, in_dims, strict=True))) for i in range(3)
    ]
    torch.testing.assert_close(actual, torch.stack(looped))


@pytest.mark.parametrize("form", FORMS)
def test_vmap_over_the_weight_gives_one_weight_a_sample(form, backend):
    x, y = (tensor.detach() for tensor in embeddings(form))
    weights = torch.tensor([0.1, 0.5, 0.9], dtype=x.dtype)
    call = distance(form, "maxmean")
    actual = torch.vmap(call, in_dims=(None, None, 0))(x, y, weights)
    torch.testing.assert_close(actual, torch.stack([call(x, y, w) for w in weights]))


@pytest.mark.parametrize("argnums", [0, 1, 2])
@pytest.mark.parametrize("form", FORMS)
def test_vmap_of_grad_equals_a_loop(form, argnums, backend):
    x, y = (tensor.detach() for tensor in embeddings(form))
    xs, ys = torch.stack([x, x + 0.1, 2 * x]), torch.stack([y, 3 * y, y - 0.2])
    weights = torch.tensor([0.1, 0.5, 0.9], dtype=x.dtype)
    call = distance(form, "maxmean")
    gradient = torch.func.grad(lambda a, b, w: call(a, b, w).square().sum(), argnums=argnums)
    looped = torch.stack([gradient(*arguments) for arguments in zip(xs, ys, weights, strict=True)])
    torch.testing.assert_close(torch.vmap(gradient)(xs, ys, weights), looped)


def test_vmap_of_grad_over_single_pairs_gives_per_sample_gradients(backend):
    x, y = (tensor.detach() for tensor in embeddings("elementwise"))
    per_sample = torch.vmap(torch.func.grad(lambda a, b: qm.iqe(a, b, 5)))(x, y)
    leaf = x.clone().requires_grad_()
    torch.testing.assert_close(per_sample, torch.autograd.grad(qm.iqe(leaf, y, 5).sum(), leaf)[0])


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("form", FORMS)
def test_jvp_equals_the_reference(form, reduction, backend):
    x, y = (tensor.detach() for tensor in embeddings(form))
    tangents = torch.randn_like(x), torch.randn_like(y)
    actual = torch.func.jvp(distance(form, reduction), (x, y), tangents)
    expected = torch.func.jvp(reference_distance(form, reduction), (x, y), tangents)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("form", FORMS)
def test_forward_ad_flows_through_the_weight(form, backend):
    x, y = (tensor.detach() for tensor in embeddings(form))
    with forward_ad.dual_level():
        weight = forward_ad.make_dual(torch.tensor(0.3, dtype=x.dtype), torch.tensor(1.0, dtype=x.dtype))
        tangent = forward_ad.unpack_dual(distance(form, "maxmean")(x, y, weight)).tangent
    expected = reference_distance(form, "spread")(x, y)
    torch.testing.assert_close(tangent, expected)


@pytest.mark.parametrize("form", FORMS)
def test_hessian_by_forward_over_reverse_equals_reverse_over_reverse(form, backend):
    x, y = (tensor.detach() for tensor in embeddings(form))

    def loss(a, w):
        return distance(form, "maxmean")(a, y, w).square().sum()

    weight = torch.tensor(0.3, dtype=x.dtype)
    forward = torch.func.jacfwd(torch.func.jacrev(loss, argnums=(0, 1)), argnums=(0, 1))(x, weight)
    reverse = torch.func.jacrev(torch.func.jacrev(loss, argnums=(0, 1)), argnums=(0, 1))(x, weight)
    torch.testing.assert_close(forward, reverse)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("form", FORMS)
def test_half_inputs_compute_and_return_float32_and_their_gradients_come_back_half(form, dtype, backend):
    x, y = (tensor.detach().to(dtype).requires_grad_() for tensor in embeddings(form, torch.float32))
    out = distance(form, "maxmean")(x, y)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, distance(form, "maxmean")(x.float(), y.float()))
    out.sum().backward()
    assert x.grad.dtype == dtype and y.grad.dtype == dtype


@pytest.mark.parametrize("form", FORMS)
def test_autocast_runs_a_network_and_head_in_mixed_precision(form, backend):
    torch.manual_seed(0)
    network = torch.nn.Linear(15, 15)
    x, y = (tensor.detach() for tensor in embeddings(form, torch.float32))
    with torch.autocast("cpu", torch.bfloat16):
        out = distance(form, "maxmean")(network(x), network(y))
    assert out.dtype == torch.float32
    out.sum().backward()
    assert network.weight.grad.isfinite().all() and network.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("form", FORMS)
def test_deterministic_algorithms_are_allowed_and_repeat_bit_for_bit(form, backend):
    torch.use_deterministic_algorithms(True)
    try:
        x, y = embeddings(form, torch.float32)
        weight = weight_leaf(torch.float32)
        runs = []
        for _ in range(2):
            out = distance(form, "maxmean")(x, y, weight)
            runs.append((out, *torch.autograd.grad(out.square().sum(), (x, y, weight))))
        assert all(torch.equal(first, second) for first, second in zip(*runs, strict=True))
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("wanted", [0, 1, 2])
@pytest.mark.parametrize("form", FORMS)
def test_a_gradient_for_one_input_only(form, wanted, backend):
    leaves = [tensor.detach() for tensor in (*embeddings(form), weight_leaf())]
    alone = [tensor.clone().requires_grad_(i == wanted) for i, tensor in enumerate(leaves)]
    together = [tensor.clone().requires_grad_() for tensor in leaves]
    distance(form, "maxmean")(*alone).sum().backward()
    distance(form, "maxmean")(*together).sum().backward()
    for i in range(3):
        assert (alone[i].grad is not None) == (i == wanted)
    torch.testing.assert_close(alone[wanted].grad, together[wanted].grad)


@pytest.mark.parametrize(
    "x_shape, y_shape, shape",
    [((0, 15), (0, 15), (0,)), ((3, 0, 15), (3, 0, 15), (3, 0)), ((0, 1, 15), (5, 15), (0, 5)), ((15,), (0, 15), (0,))],
)
def test_elementwise_zero_size_batches_give_empty_outputs_and_gradients(x_shape, y_shape, shape, backend):
    x, y = torch.randn(x_shape, requires_grad=True), torch.randn(y_shape, requires_grad=True)
    out = qm.iqe(x, y, 5)
    assert out.shape == shape
    out.sum().backward()
    assert x.grad.shape == x.shape and y.grad.shape == y.shape and not x.grad.any() and not y.grad.any()


@pytest.mark.parametrize(
    "x_shape, y_shape, shape",
    [((0, 15), (4, 15), (0, 4)), ((4, 15), (0, 15), (4, 0)), ((0, 3, 15), (0, 2, 15), (0, 3, 2))],
)
def test_pairwise_zero_size_batches_give_empty_outputs_and_zero_gradients(x_shape, y_shape, shape, backend):
    x, y = torch.randn(x_shape, requires_grad=True), torch.randn(y_shape, requires_grad=True)
    weight = weight_leaf(torch.float32)
    out = qm.iqe_pairwise(x, y, 5, max_weight=weight)
    assert out.shape == shape
    out.sum().backward()
    assert not x.grad.any() and not y.grad.any() and weight.grad == 0


@pytest.mark.parametrize("form", FORMS)
def test_non_contiguous_inputs_give_the_numbers_of_contiguous_ones(form, backend):
    x, y = (tensor.detach() for tensor in embeddings(form))
    strided_x = torch.stack([x, x + 1], dim=-1)[..., 0].requires_grad_()
    strided_y = y.t().contiguous().t().requires_grad_()
    assert not strided_x.is_contiguous() and not strided_y.is_contiguous()
    out = distance(form, "maxmean")(strided_x, strided_y)
    dense_x, dense_y = x.clone().requires_grad_(), y.clone().requires_grad_()
    expected = distance(form, "maxmean")(dense_x, dense_y)
    assert torch.equal(out, expected)
    grad = torch.randn(out.shape[::-1], dtype=out.dtype).permute(*range(out.dim())[::-1])
    for actual, wanted in zip(
        torch.autograd.grad(out, (strided_x, strided_y), grad),
        torch.autograd.grad(expected, (dense_x, dense_y), grad.contiguous()),
        strict=True,
    ):
        assert torch.equal(actual, wanted)


def test_expanded_inputs_get_summed_gradients(backend):
    x = torch.randn(1, 15, dtype=torch.float64, requires_grad=True)
    y = torch.randn(6, 15, dtype=torch.float64)
    qm.iqe(x.expand(6, 15), y, 5).sum().backward()
    copies = x.detach().repeat(6, 1).requires_grad_()
    qm.iqe(copies, y, 5).sum().backward()
    torch.testing.assert_close(x.grad, copies.grad.sum(dim=0, keepdim=True))


def test_the_head_trains_in_a_module_that_is_copied_and_saved(backend):
    head = qm.nn.IQE(15, 5)
    clone = copy.deepcopy(head)
    x, y = (tensor.detach() for tensor in embeddings("elementwise", torch.float32))
    assert torch.equal(head(x, y), clone(x, y))


def test_arguments_are_not_mutated(backend):
    x, y = embeddings("pairwise")
    before = x.detach().clone(), y.detach().clone()
    qm.iqe_pairwise(x, y, 5).sum().backward()
    assert torch.equal(x, before[0]) and torch.equal(y, before[1])


@pytest.mark.parametrize("forward, backward", [("cpu", "reference"), ("reference", "cpu")])
def test_what_forward_keeps_is_the_same_on_all_backends(forward, backward):
    x, y = (tensor.detach() for tensor in embeddings("elementwise"))
    weight = torch.tensor(0.3, dtype=x.dtype)
    run = functools.partial(torch.ops.qmkernels.iqe_forward, x, y, weight, 5, "maxmean", True)
    kept, other = run(forward), run(backward)
    assert torch.equal(kept[1], other[1]) and torch.equal(kept[2], other[2])
    grad = torch.randn_like(kept[0])
    for actual, expected in zip(
        torch.ops.qmkernels.iqe_backward(grad, *kept[1:3], weight, 5, "maxmean", backward),
        torch.ops.qmkernels.iqe_backward(grad, *kept[1:3], weight, 5, "maxmean", forward),
        strict=True,
    ):
        torch.testing.assert_close(actual, expected)
