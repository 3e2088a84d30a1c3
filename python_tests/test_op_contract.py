"""The op contract: everything that torch does to an op must work on every row of op_cases.py."""

import os
import re
import subprocess
import sys
from pathlib import Path

import op_checks
import pytest
import torch
from op_cases import CASES, every
from torch.autograd import gradcheck, gradgradcheck

from qmkernels.backends import dispatch
from qmkernels.ops import row_blocks

# Small enough for numerical derivatives by every value, and for a loop over samples.
SMALL = {"rows": 3, "size": 3}


def test_every_op_has_its_rows():
    assert {case.op for case in CASES} == set(dispatch.OPS)
    assert len({case.name for case in CASES}) == len(CASES)


def test_every_op_that_is_registered_with_torch_is_called_by_a_row():
    reached = {str(function.overloadpacket) for case in CASES for function, _ in op_checks.calls_of(case)}
    names = {
        name.replace("::", ".") for name in torch._C._dispatch_get_all_op_names() if name.startswith("qmkernels::")
    }
    assert reached == names


@every()
def test_a_row_reaches_the_op_that_it_names(case):
    names = {str(function.overloadpacket) for function, _ in op_checks.calls_of(case)}
    assert any(name.startswith(f"qmkernels.{case.op}_") for name in names), names


def small(case):
    """Returns the row as a function of its tensors with a gradient, and these tensors."""
    tensors = case.tensors(**SMALL)

    def call(*leaves):
        leaves = iter(leaves)
        return case.at(SMALL["size"])(*(next(leaves) if tensor.requires_grad else tensor for tensor in tensors))

    return call, [tensor for tensor in tensors if tensor.requires_grad]


def varied(case):
    """Returns `small` as a function of the tensors whose gradient is the value's derivative."""
    tensors = case.tensors(**SMALL)
    function, held = case.at(SMALL["size"]), {*case.held, *case.no_gradient}

    def call(*inputs):
        inputs = iter(inputs)
        return function(*(tensor.detach() if i in held else next(inputs) for i, tensor in enumerate(tensors)))

    return call, [tensor for i, tensor in enumerate(tensors) if i not in held]


@every("gradcheck")
def test_first_derivatives_pass_gradcheck_in_both_modes(case, backend):
    assert gradcheck(*varied(case), check_forward_ad=True)


# Derivatives of the gradient are one formula for all backends.
@every()
def test_second_derivatives_pass_gradgradcheck(case):
    assert gradgradcheck(*varied(case))


@every()
def test_forward_over_reverse_equals_reverse_over_reverse(case):
    call, leaves = small(case)
    places = tuple({0, len(leaves) - 1})

    def gradient(*leaves):
        return torch.func.grad(lambda *a: call(*a).square().sum(), argnums=places)(*leaves)

    leaves = [tensor.detach() for tensor in leaves]
    forward, reverse = (
        jacobian(gradient, argnums=places)(*leaves) for jacobian in (torch.func.jacfwd, torch.func.jacrev)
    )
    torch.testing.assert_close(forward, reverse)


@pytest.mark.parametrize("case", [case for case in CASES if case.kind == "pairs"], ids=lambda case: case.name)
def test_derivatives_of_pairs_are_the_same_by_blocks_of_rows(case, monkeypatch):
    call, leaves = small(case)
    tangents = tuple(
        torch.linspace(-1, 1, tensor.numel(), dtype=tensor.dtype).reshape(tensor.shape) for tensor in leaves
    )

    def derivatives():
        _, tangent = torch.func.jvp(call, tuple(tensor.detach() for tensor in leaves), tangents)
        grads = torch.autograd.grad(call(*leaves).square().sum(), leaves, create_graph=True)
        second = torch.autograd.grad(sum(grad.square().sum() for grad in grads), leaves)
        square = torch.func.grad(lambda *a: call(*a).square().sum(), argnums=tuple(range(len(leaves))))
        _, mixed = torch.func.jvp(square, tuple(tensor.detach() for tensor in leaves), tangents)
        return tangent, *second, *mixed

    at_once = derivatives()
    monkeypatch.setattr(row_blocks, "VALUES_AT_ONCE", 1)
    torch.testing.assert_close(derivatives(), at_once)


@every()
def test_forward_mode_is_the_transpose_of_the_gradient(case, backend):
    call, leaves = small(case)
    generator = torch.Generator().manual_seed(1)
    tangents = tuple(torch.randn(first.shape, generator=generator, dtype=first.dtype) for first in leaves)
    out, tangent = torch.func.jvp(call, tuple(first.detach() for first in leaves), tangents)
    torch.testing.assert_close(out, call(*leaves))
    grad = torch.randn(out.shape, generator=generator, dtype=out.dtype)
    grads = torch.autograd.grad(call(*leaves), leaves, grad)
    expected = sum((first * second).sum() for first, second in zip(grads, tangents, strict=True))
    torch.testing.assert_close((grad * tangent).sum(), expected)


@every()
def test_registered_ops_pass_opcheck(case):
    for function, arguments in op_checks.calls_of(case):
        torch.library.opcheck(function, arguments)


def check_compiled(case, compiler, all_rows, dtype=torch.float64):
    """Compiles for one shape first and then, as torch.compile does for a second one, for every shape at once."""
    torch._dynamo.reset()
    call = case.at(5)

    def step(first, *others):
        return call(2 * first, *others) + 1

    compiled = torch.compile(step, fullgraph=True, backend=compiler)
    for rows in all_rows:
        tensors = case.tensors(dtype, rows=rows)
        leaves = [tensor for tensor in tensors if tensor.requires_grad]
        with torch.compiler.set_stance("fail_on_recompile" if rows == 15 else "default"):
            actual = compiled(*tensors)
        expected = step(*tensors)
        torch.testing.assert_close(actual, expected)
        grad = torch.randn_like(expected)
        torch.testing.assert_close(
            torch.autograd.grad(actual, leaves, grad), torch.autograd.grad(expected, leaves, grad)
        )


# Rows of one op and kind differ in settings, constants of a graph; losses, ensembles and results that are not reduced
# have code of their own.
OF_OTHER_CODE = [
    case
    for case in CASES
    if case.kind == "loss"
    or case.name.endswith(("-ensemble", "-none"))
    or case is next(each for each in CASES if (each.op, each.kind) == (case.op, case.kind))
]


@pytest.mark.parametrize("case", OF_OTHER_CODE, ids=lambda case: case.name)
def test_torch_compile_traces_the_whole_graph_and_changes_no_number(case):
    is_first_of_its_op = case is next(each for each in CASES if each.op == case.op)
    check_compiled(case, "aot_eager", all_rows=(9, 12, 15) if is_first_of_its_op else (9,))


def test_torch_compile_takes_half_precision():
    check_compiled(next(case for case in CASES if case.op == "mrn"), "aot_eager", all_rows=[9], dtype=torch.bfloat16)


# The neighbours have no derivative, and the length of poisson's series is known when it runs.
@pytest.mark.parametrize("op", sorted(set(dispatch.OPS) - {"nearest", "poisson"}))
def test_torch_compile_differentiates_a_gradient_that_is_taken_within(op):
    call, leaves = varied(next(case for case in CASES if case.op == op))

    def slope(*leaves):
        gradient = torch.func.grad(lambda *inputs: call(*inputs).square().sum())(*leaves)
        return gradient.square().sum()

    torch.compiler.reset()  # of the forms of this function that were compiled for other ops
    expected = torch.autograd.grad(slope(*leaves), leaves, allow_unused=True, materialize_grads=True)
    compiled = torch.compile(slope, fullgraph=True, backend="aot_eager")(*leaves)
    actual = torch.autograd.grad(compiled, leaves, allow_unused=True, materialize_grads=True)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("op", ["mrn", "pair_loss", "shortest_paths"])
def test_torch_compile_differentiates_a_vmap_that_is_taken_within(op):
    call, leaves = varied(next(case for case in CASES if case.op == op))
    batch = [torch.stack([leaf, 0.5 * leaf]).detach().requires_grad_() for leaf in leaves]

    def every_sample(*batch):
        return torch.vmap(call)(*batch).square().sum()

    torch.compiler.reset()
    expected = torch.autograd.grad(every_sample(*batch), batch)
    actual = torch.autograd.grad(torch.compile(every_sample, fullgraph=True, backend="aot_eager")(*batch), batch)
    torch.testing.assert_close(actual, expected)


# What it adds to a traced graph, calls of opaque ops and the memory of their results, is the same for all of them: here
# with several results, with indices, with what is kept for backward, of pairs and of a loss.
@pytest.mark.parametrize("op", ["iqe", "nearest", "fsq", "pair_loss"])
def test_torch_compiles_own_compiler_changes_no_number(op):
    check_compiled(next(case for case in CASES if case.op == op), "inductor", all_rows=[7])


@every()
def test_func_grad_equals_autograd(case, backend):
    call, leaves = small(case)
    expected = torch.autograd.grad(call(*leaves).sum(), leaves)
    every_place = tuple(range(len(leaves)))
    actual = torch.func.grad(lambda *a: call(*a).sum(), argnums=every_place)(*(tensor.detach() for tensor in leaves))
    torch.testing.assert_close(actual, tuple(expected))


def in_dims_of(tensors):
    """Yields all tensors batched, the first along its last dimension, and each alone."""
    yield (0,) * len(tensors)
    yield tensors[0].dim(), *(0,) * (len(tensors) - 1)
    for place in range(len(tensors)) if len(tensors) > 1 else ():
        yield tuple(0 if i == place else None for i in range(len(tensors)))


@every()
def test_vmap_equals_a_loop(case, backend):
    tensors, call = case.detached(**SMALL), case.at(SMALL["size"])
    for in_dims in in_dims_of(tensors):
        batch = [
            tensor if dim is None else torch.stack([tensor, 0.5 * tensor, 1.5 * tensor], dim=dim)
            for tensor, dim in zip(tensors, in_dims, strict=True)
        ]
        looped = [
            call(
                *(tensor if dim is None else tensor.select(dim, i) for tensor, dim in zip(batch, in_dims, strict=True))
            )
            for i in range(3)
        ]
        torch.testing.assert_close(torch.vmap(call, in_dims=in_dims)(*batch), torch.stack(looped))


@every()
def test_vmap_of_the_gradient_equals_a_loop(case, backend):
    tensors, call = case.detached(**SMALL), case.at(SMALL["size"])
    batch = [torch.stack([tensor, 0.5 * tensor, 1.5 * tensor]) for tensor in tensors]
    for place in case.with_gradient:
        gradient = torch.func.grad(lambda *a: call(*a).square().sum(), argnums=place)
        looped = torch.stack([gradient(*arguments) for arguments in zip(*batch, strict=True)])
        torch.testing.assert_close(torch.vmap(gradient)(*batch), looped)


# Losses over rows run the head's kernel, which takes the rows of all samples at once.
_LOSSES = sorted({case.op for case in CASES if case.kind == "loss"} - {"iqe", "row_loss"})


@pytest.mark.parametrize("op", _LOSSES)
def test_vmap_of_a_losss_gradient_runs_its_kernels(op):
    case = next(case for case in CASES if case.op == op)
    batch = [torch.stack([tensor, 0.5 * tensor]) for tensor in case.detached(**SMALL)]
    called = {str(function.overloadpacket) for function, _ in op_checks.calls_of(case)}
    with op_checks.recorded() as calls:
        torch.vmap(torch.func.grad(case.at(SMALL["size"])))(*batch)
    assert {str(function.overloadpacket) for function, _ in calls} == called


@every()
def test_batched_upstream_gradients_equal_a_loop(case, backend):
    call, leaves = small(case)
    out = call(*leaves)
    grads = torch.stack([torch.ones_like(out), torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)])
    actual = torch.autograd.grad(out, leaves, grads, is_grads_batched=True, retain_graph=True)
    looped = [torch.autograd.grad(out, leaves, grad, retain_graph=True) for grad in grads]
    torch.testing.assert_close(actual, tuple(map(torch.stack, zip(*looped, strict=True))))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@every()
def test_half_inputs_compute_and_return_float32_and_their_gradients_come_back_half(case, dtype, backend):
    op_checks.check_half_inputs_are_computed_in_float32(case, backend, "cpu", dtype)


@every()
def test_autocast_runs_a_network_and_an_op_in_mixed_precision(case, backend):
    torch.manual_seed(0)
    tensors = case.detached(torch.float32)
    place = next(i for i in case.with_gradient if tensors[i].dim() > 1)
    network = torch.nn.Linear(*tensors[place].shape[-1:] * 2)
    with torch.autocast("cpu", torch.bfloat16):
        # All embeddings come out of one network, so that they have one dtype.
        mixed = [
            network(tensor).abs() if tensor.shape[-1:] == tensors[place].shape[-1:] else tensor for tensor in tensors
        ]
        out = case.at(5)(*mixed)
    assert mixed[place].dtype == torch.bfloat16 and out.dtype == torch.float32
    out.sum().backward()
    assert network.weight.grad.isfinite().all() and network.weight.grad.any()


@every()
def test_results_repeat_bit_for_bit_for_any_number_of_threads(case):
    if reason := dispatch.why_not("cpu", case.op, "cpu"):
        pytest.skip(reason)
    # Enough rows, or pairs of rows, for several tasks and threads.
    sizes = {"rows": 700, "size": 85} if case.kind != "pairs" and case.op != "pair_loss" else {"rows": 301, "size": 5}
    threads, runs = torch.get_num_threads(), []
    torch.use_deterministic_algorithms(True)
    try:
        for count in (1, 3, 3, threads):
            torch.set_num_threads(count)
            tensors = case.tensors(torch.float32, **sizes)
            runs.append(op_checks.value_and_gradients(case, tensors, "cpu", sizes["size"]))
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(False)
    for other in runs[1:]:
        assert all(torch.equal(first, second) for first, second in zip(runs[0], other, strict=True))


@every()
def test_a_gradient_for_one_input_only(case, backend):
    together = op_checks.value_and_gradients(case, case.tensors(), backend, 5)[1:]
    for place, expected in zip(case.with_gradient, together, strict=True):
        alone = [tensor.requires_grad_(i == place) for i, tensor in enumerate(case.detached())]
        case.at(5)(*alone).sum().backward()
        assert [i for i, tensor in enumerate(alone) if tensor.grad is not None] == [place]
        torch.testing.assert_close(alone[place].grad, expected)


@every()
def test_without_a_gradient_no_graph_is_made_and_the_numbers_are_the_same(case, backend):
    out = case.at(5)(*case.detached())
    assert not out.requires_grad
    assert torch.equal(out, case.at(5)(*case.tensors()).detach())


@every("empty batch")
def test_empty_batches_give_empty_outputs_and_zero_gradients(case, backend):
    tensors = case.detached()
    rows = [i for i, tensor in enumerate(tensors) if tensor.dim() > 1]
    for empty in [[place] for place in rows] if case.kind == "pairs" else [rows]:
        leaves = [(tensor[:0] if i in empty else tensor).clone().requires_grad_() for i, tensor in enumerate(tensors)]
        out = case.at(5)(*leaves)
        assert out.numel() == 0
        out.sum().backward()
        assert all(leaf.grad.shape == leaf.shape and not leaf.grad.any() for leaf in leaves)


@pytest.mark.parametrize("case", [case for case in CASES if case.kind == "loss"], ids=lambda case: case.name)
def test_losses_refuse_an_empty_batch(case, backend):
    tensors = [tensor[..., :0, :] if tensor.dim() > 1 else tensor for tensor in case.detached()]
    with pytest.raises(ValueError, match="must have at least one row"):
        case.at(5)(*tensors)


@every()
def test_strided_and_offset_tensors_give_the_numbers_of_contiguous_ones(case, backend):
    op_checks.check_views_give_the_numbers_of_contiguous_tensors(case, backend, "cpu")


@every()
def test_expanded_rows_get_summed_gradients(case, backend):
    op_checks.check_expanded_rows_get_summed_gradients(case, backend, "cpu")


@every()
def test_arguments_are_not_mutated(case, backend):
    tensors, before = case.tensors(), case.detached()
    op_checks.value_and_gradients(case, tensors, backend, 5)
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(tensors, before, strict=True))


@every("independent rows")
def test_nan_in_a_row_stays_in_that_row(case, backend):
    op_checks.check_nan_stays_in_its_row(case, backend, "cpu")


@pytest.mark.parametrize("size", [1, 5, 8, 33])
@every()
def test_what_forward_keeps_is_the_same_on_all_backends(case, size):
    if reason := dispatch.why_not("cpu", case.op, "cpu"):
        pytest.skip(reason)
    op_checks.check_what_forward_keeps_is_the_same_on_both_backends(case, "cpu", "reference", "cpu", size=size)


@pytest.mark.parametrize("size, rows", [(1, 7), (8, 33), (33, 9)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@every()
def test_errors_are_no_worse_than_those_of_plain_torch(case, dtype, size, rows):
    if reason := dispatch.why_not("cpu", case.op, "cpu"):
        pytest.skip(reason)
    op_checks.check_error_is_no_worse_than_that_of_plain_torch(case, "cpu", "cpu", dtype, size=size, rows=rows)


@every()
def test_a_backend_that_cannot_run_here_is_refused(case):
    op_checks.check_a_backend_of_another_device_is_refused(case, "cuda", "cpu")


@every()
def test_tensors_on_two_devices_are_refused(case):
    op_checks.check_tensors_on_two_devices_are_refused(case, "auto", "cpu", "meta")


@every()
def test_runs_repeat_bit_for_bit(case, backend):
    op_checks.check_runs_repeat_bit_for_bit(case, backend, "cpu")


def test_the_selection_for_compute_sanitizer_has_every_op_on_both_backends():
    tests = Path(__file__).with_name("test_cuda.py")
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-k", "small", str(tests)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(command, cwd=tests.parents[1], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    selected = re.findall(r"::test_small_sizes_agree_with_the_reference\[(.*)\]", run.stdout)
    for backend in ("cuda", "triton"):
        names = {case.op for case in CASES for test in selected if backend in test and f"-{case.name}-" in test}
        assert names == set(dispatch.OPS)
