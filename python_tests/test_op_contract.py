"""The op contract (DESIGN): everything that torch does to an op must work on the ops that ops/autograd.py builds.

IQE, whose Functions are its own, has the same tests in test_iqe_contract.py.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import qmkernels as qm
from qmkernels.backends import dispatch

BACKENDS = ("cpu", "reference")


@dataclass(frozen=True)
class Op:
    """One op as a function of leaves, and plain PyTorch for it."""

    call: Callable
    leaves: Callable  # dtype, seed -> leaves that require gradients, without ties
    pairwise: bool = False
    registered: str = ""  # the ops' name in torch.ops
    settings: tuple = ()

    def inputs(self, dtype=torch.float64, seed=0):
        return self.leaves(dtype, seed)

    def detached(self, dtype=torch.float64, seed=0):
        return [leaf.detach() for leaf in self.inputs(dtype, seed)]


def _embeddings(dim, rows_x=4, rows_y=None, extra=None):
    def leaves(dtype, seed):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(rows_x, dim, dtype=torch.float64, generator=generator)
        y = torch.randn(rows_y or rows_x, dim, dtype=torch.float64, generator=generator) + 0.4
        others = [torch.rand(extra, dtype=torch.float64, generator=generator) + 0.2] if extra else []
        return [tensor.to(dtype).requires_grad_() for tensor in (x, y, *others)]

    return leaves


def _rates(dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    rates = 3 * torch.rand(2, 7, dtype=torch.float64, generator=generator) + 0.05
    return [rate.clone().to(dtype).requires_grad_() for rate in rates]


_MRN = ("first", "sum", 1.0, 1e-6, "add", "mean", 1.0, "auto")
_MRN_NONE = ("second", "mean", 1.5, 0.0, "max", "none", 0.5, "auto")
OPS = {
    "mrn": Op(
        lambda x, y: qm.mrn(x, y, 3, preset="tmd"), _embeddings(15), registered="mrn", settings=(3, *_MRN)
    ),
    "mrn-none": Op(
        lambda x, y: qm.mrn(
            x, y, 2, asymmetric="second", squares="mean", exponent=1.5, reduction="none", scale=0.5, eps_form="max"
        ),
        _embeddings(10), registered="mrn", settings=(2, *_MRN_NONE),
    ),
    "mrn-pairwise": Op(
        lambda x, y: qm.mrn_pairwise(x, y, 3, preset="tmd"), _embeddings(15, 4, 9), True, "mrn_pairwise", (3, *_MRN)
    ),
    "mrn-pairwise-none": Op(
        lambda x, y: qm.mrn_pairwise(
            x, y, 2, asymmetric="second", squares="mean", exponent=1.5, reduction="none", scale=0.5, eps_form="max"
        ),
        _embeddings(10, 5, 3), True, "mrn_pairwise", (2, *_MRN_NONE),
    ),
    "euclidean-pairwise": Op(qm.euclidean_pairwise, _embeddings(6, 4, 3), True),
    "pqe": Op(
        lambda x, y, w: qm.pqe(x, y, 3, weights=w), _embeddings(12, extra=4), registered="pqe", settings=(3,)
    ),
    "pqe-none": Op(lambda x, y: qm.pqe(x, y, 3, reduction="none"), _embeddings(12)),
    "pqe-pairwise": Op(
        lambda x, y, w: qm.pqe_pairwise(x, y, 3, weights=w), _embeddings(12, 4, 5, extra=4), True, "pqe_pairwise", (3,)
    ),
    "pqe-pairwise-none": Op(lambda x, y: qm.pqe_pairwise(x, y, 3, reduction="none"), _embeddings(12, 4, 5), True),
    "poisson-le": Op(qm.poisson_le, _rates, registered="poisson", settings=("le", "auto")),
    "poisson-gt": Op(qm.poisson_gt, _rates),
    "poisson-log-le": Op(qm.log_poisson_le, _rates, registered="poisson", settings=("log_le", "auto")),
}  # fmt: skip
ROWS = [name for name in OPS if not name.startswith("poisson")]


@pytest.fixture(params=BACKENDS)
def backend(request):
    if request.param == "cpu" and (reason := dispatch.why_not("cpu", "mrn", "cpu")):
        pytest.skip(reason)
    with qm.use_backend(request.param):
        yield request.param


@pytest.fixture(params=OPS)
def op(request):
    return OPS[request.param]


@pytest.fixture(params=ROWS)
def distance(request):
    return OPS[request.param]


def test_first_derivatives_pass_gradcheck_in_both_modes(op, backend):
    assert gradcheck(op.call, op.inputs(), check_forward_ad=True, check_batched_grad=True)


def test_second_derivatives_pass_gradgradcheck(op, backend):
    assert gradgradcheck(op.call, op.inputs(), check_fwd_over_rev=True)


@pytest.mark.parametrize("name", [name for name, op in OPS.items() if op.registered])
def test_registered_ops_pass_opcheck(name):
    op = OPS[name]
    tensors = op.detached()
    if op.pairwise:
        tensors[:2] = [tensor[None] for tensor in tensors[:2]]
    settings, needs = (op.settings, ()) if len(tensors) == 2 else ((*op.settings, "auto"), (True,))
    forward = getattr(torch.ops.qmkernels, f"{op.registered}_forward").default
    torch.library.opcheck(forward, (*tensors, *settings))
    backward = getattr(torch.ops.qmkernels, f"{op.registered}_backward").default
    grad = torch.randn_like(forward(*tensors, *settings))
    torch.library.opcheck(backward, (grad, *tensors, *settings[:-1], *needs, settings[-1]))


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("name", ["mrn", "mrn-pairwise", "pqe", "pqe-pairwise", "poisson-log-le"])
def test_torch_compile_traces_the_whole_graph_and_changes_no_number(name, dynamic):
    torch._dynamo.reset()
    op = OPS[name]
    compiled = torch.compile(lambda x, *others: op.call(2 * x, *others) + 1, fullgraph=True, dynamic=dynamic)
    for seed in (0, 1):
        leaves = op.inputs(seed=seed)
        expected, actual = op.call(2 * leaves[0], *leaves[1:]) + 1, compiled(*leaves)
        torch.testing.assert_close(actual, expected)
        grad = torch.randn_like(expected)
        torch.testing.assert_close(
            torch.autograd.grad(actual, leaves, grad), torch.autograd.grad(expected, leaves, grad)
        )


def test_func_grad_equals_autograd(op, backend):
    leaves, every = op.inputs(), tuple(range(len(op.inputs())))
    expected = torch.autograd.grad(op.call(*leaves).sum(), leaves)
    actual = torch.func.grad(lambda *a: op.call(*a).sum(), argnums=every)(*op.detached())
    torch.testing.assert_close(actual, tuple(expected))


@pytest.mark.parametrize("in_dims", [(0, 0), (0, None), (None, 0), (1, 0), (0, 2)])
def test_vmap_equals_a_loop(op, in_dims, backend):
    tensors = op.detached()
    last = tensors[0].dim()  # rates have one dimension, embeddings two
    in_dims = (*(dim and min(dim, last) for dim in in_dims), *(None,) * (len(tensors) - 2))
    batch = [
        tensor if dim is None else torch.stack([tensor * (1 + 0.3 * i) for i in range(3)], dim=dim)
        for tensor, dim in zip(tensors, in_dims, strict=True)
    ]
    looped = [
        op.call(*(t if dim is None else t.select(dim, i) for t, dim in zip(batch, in_dims, strict=True)))
        for i in range(3)
    ]
    torch.testing.assert_close(torch.vmap(op.call, in_dims=in_dims)(*batch), torch.stack(looped))


def test_vmap_over_every_argument_and_of_the_gradient_equals_a_loop(op, backend):
    batch = [torch.stack([tensor, 0.5 * tensor, 2 * tensor]) for tensor in op.detached()]
    torch.testing.assert_close(
        torch.vmap(op.call)(*batch), torch.stack([op.call(*arguments) for arguments in zip(*batch, strict=True)])
    )
    for argnum in range(len(batch)):
        gradient = torch.func.grad(lambda *a: op.call(*a).square().sum(), argnums=argnum)
        looped = torch.stack([gradient(*arguments) for arguments in zip(*batch, strict=True)])
        torch.testing.assert_close(torch.vmap(gradient)(*batch), looped)


def test_forward_over_reverse_equals_reverse_over_reverse(op, backend):
    tensors = op.detached()

    def loss(first):
        return op.call(first, *tensors[1:]).square().sum()

    forward = torch.func.jacfwd(torch.func.jacrev(loss))(tensors[0])
    torch.testing.assert_close(forward, torch.func.jacrev(torch.func.jacrev(loss))(tensors[0]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_inputs_compute_and_return_float32_and_their_gradients_come_back_half(op, dtype, backend):
    leaves = op.inputs(dtype)
    out = op.call(*leaves)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, op.call(*(leaf.float() for leaf in leaves)))
    out.sum().backward()
    assert all(leaf.grad.dtype == dtype and leaf.grad.isfinite().all() for leaf in leaves)


def test_autocast_runs_a_network_and_an_op_in_mixed_precision(distance, backend):
    torch.manual_seed(0)
    x, y, *others = distance.detached(torch.float32)
    network = torch.nn.Linear(x.shape[-1], x.shape[-1])
    with torch.autocast("cpu", torch.bfloat16):
        out = distance.call(network(x), network(y), *others)
    assert out.dtype == torch.float32
    out.sum().backward()
    assert network.weight.grad.isfinite().all() and network.weight.grad.any()


def test_results_repeat_bit_for_bit_whatever_the_number_of_threads(op, backend):
    torch.use_deterministic_algorithms(True)
    threads = torch.get_num_threads()
    runs = []
    try:
        for count in (1, 3, threads):
            torch.set_num_threads(count)
            leaves = op.inputs(torch.float32)
            out = op.call(*leaves)
            runs.append((out, *torch.autograd.grad(out.square().sum(), leaves)))
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(False)
    for other in runs[1:]:
        assert all(torch.equal(first, second) for first, second in zip(runs[0], other, strict=True))


def test_a_gradient_for_one_input_only(op, backend):
    together = op.inputs()
    op.call(*together).sum().backward()
    for wanted in range(len(together)):
        alone = [leaf.clone().requires_grad_(i == wanted) for i, leaf in enumerate(op.detached())]
        op.call(*alone).sum().backward()
        assert [leaf.grad is not None for leaf in alone] == [i == wanted for i in range(len(alone))]
        torch.testing.assert_close(alone[wanted].grad, together[wanted].grad)


def test_zero_size_batches_give_empty_outputs_and_zero_gradients(op, backend):
    tensors = op.detached()
    for empty in (0, 1) if op.pairwise else (None,):
        leaves = [
            (t[:0] if i < 2 and empty in (None, i) else t).clone().requires_grad_() for i, t in enumerate(tensors)
        ]
        out = op.call(*leaves)
        assert out.numel() == 0
        out.sum().backward()
        assert all(leaf.grad.shape == leaf.shape and not leaf.grad.any() for leaf in leaves)


def test_strided_and_expanded_inputs_give_the_numbers_of_contiguous_ones(op, backend):
    tensors = op.detached()
    strided = [torch.stack([tensor, tensor + 1], dim=-1)[..., 0].requires_grad_() for tensor in tensors[:2]]
    strided += [tensor.clone().requires_grad_() for tensor in tensors[2:]]
    dense = op.inputs()
    out, expected = op.call(*strided), op.call(*dense)
    assert torch.equal(out, expected)
    grad = torch.randn(out.shape[::-1], dtype=out.dtype).permute(*range(out.dim())[::-1])
    for actual, wanted in zip(
        torch.autograd.grad(out, strided, grad),
        torch.autograd.grad(expected, dense, grad.contiguous()),
        strict=True,
    ):
        assert torch.equal(actual, wanted)
    one = tensors[0][:1].clone().requires_grad_()
    op.call(one.expand(tensors[0].shape), *tensors[1:]).sum().backward()
    copies = one.detach().repeat(tensors[0].shape[0], *(1,) * (one.dim() - 1)).requires_grad_()
    op.call(copies, *tensors[1:]).sum().backward()
    torch.testing.assert_close(one.grad, copies.grad.sum(dim=0, keepdim=True))


def test_arguments_are_not_mutated(op, backend):
    leaves, before = op.inputs(), op.detached()
    op.call(*leaves).sum().backward()
    assert all(torch.equal(leaf, copy) for leaf, copy in zip(leaves, before, strict=True))


@pytest.mark.parametrize("name", ["mrn", "pqe"])
@pytest.mark.parametrize("x_shape, y_shape", [((3, 1, 12), (3, 4, 12)), ((9, 1, 12), (10, 12)), ((12,), (5, 12))])
def test_broadcasting_and_both_directions_equal_expanded_inputs(name, x_shape, y_shape, backend):
    function = {"mrn": lambda x, y, **k: qm.mrn(x, y, 3, **k), "pqe": lambda x, y, **k: qm.pqe(x, y, 3, **k)}[name]
    x, y = torch.randn(x_shape, dtype=torch.float64), torch.randn(y_shape, dtype=torch.float64)
    wide_x, wide_y = (tensor.contiguous() for tensor in torch.broadcast_tensors(x, y))
    torch.testing.assert_close(function(x, y), function(wide_x, wide_y))
    both = function(x, y, bidirectional=True)
    torch.testing.assert_close(both.x_to_y, function(wide_x, wide_y))
    torch.testing.assert_close(both.y_to_x, function(wide_y, wide_x))


@pytest.mark.parametrize("function", [qm.iqe, qm.mrn, qm.pqe])
@pytest.mark.parametrize("rows", [7, 1 + 2**15 // 96], ids=["stacked", "one after the other"])
def test_both_directions_and_their_gradients_at_any_size(function, rows):
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(rows, 96, generator=generator, requires_grad=True) for _ in range(2))
    weights = torch.randn(2, rows, generator=generator)
    found = torch.stack(function(x, y, 8, bidirectional=True))
    expected = torch.stack([function(x, y, 8), function(y, x, 8)])
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad((weights * each).sum(), (x, y)) for each in (found, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("pairwise", [qm.iqe_pairwise, qm.mrn_pairwise, qm.pqe_pairwise])
def test_pairwise_takes_batches_ensembles_and_both_directions(pairwise, backend):
    x, y = torch.randn(3, 5, 16, dtype=torch.float64), torch.randn(6, 16, dtype=torch.float64)
    both = pairwise(x, y, 4, bidirectional=True)
    assert both.x_to_y.shape == both.y_to_x.shape == (3, 5, 6)
    for member in range(3):
        torch.testing.assert_close(both.x_to_y[member], pairwise(x[member], y, 4))
        torch.testing.assert_close(both.y_to_x[member], pairwise(y, x[member], 4).T)
