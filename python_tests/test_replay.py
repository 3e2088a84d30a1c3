"""Launches that are recorded and repeated give the function's own results, whatever happens in between."""

import gc
import threading
import weakref

import pytest
import torch
from op_cases import every
from op_checks import value_and_gradients

import qmkernels as qm
from qmkernels.backends import dispatch
from qmkernels.backends.native import core

pytestmark = pytest.mark.skipif(
    core.why_not("cpu") is not None or not hasattr(torch.Tensor, "__dlpack_c_exchange_api__"),
    reason="nothing is recorded: no compiled core, or a torch without DLPack's exchange API",
)


def recorded(calls: list):
    """Makes a replayed function of two tensors and a number, which notes its own runs in ``calls``."""

    @core.replayable
    def halves(x, y, factor):
        calls.append((x.shape, factor))
        out = torch.empty_like(x[..., 0])
        settings = qm.ops.mrn.MrnSettings(num_components=1, scale=factor)
        core.kernels.mrn_forward(x=x, y=y, out=out, rows=out.numel(), dim=x.shape[-1], settings=settings)
        return out, None

    return core.replayed(halves), halves


def rows(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def test_a_launch_is_repeated_for_its_shapes_dtype_and_settings_alone():
    calls = []
    function, plain = recorded(calls)
    kinds = [
        (rows(3, 8, dtype=dtype, seed=seed), rows(3, 8, dtype=dtype, seed=seed + 9), factor)
        for dtype in (torch.float32, torch.float64)
        for factor in (1.0, 2.0)
        for seed in (1, 2, 3)
    ] + [(rows(7, 8), rows(7, 8, seed=5), 1.0), (rows(7, 2, 8), rows(7, 2, 8, seed=5), 1.0)]
    for _ in range(3):
        for arguments in kinds:
            actual = function(*arguments)
            before = len(calls)
            expected = plain(*arguments)
            del calls[before:]
            assert type(actual) is tuple and actual[1] is None and torch.equal(actual[0], expected[0])
    assert len(calls) == 6, "each kind ran once"


def test_one_tensor_in_two_places_is_no_recording_for_two_tensors():
    calls = []
    function, plain = recorded(calls)
    x, y = rows(3, 8), rows(3, 8, seed=1)
    assert torch.equal(function(x, x, 1.0)[0], torch.zeros(3))
    for _ in range(2):
        assert torch.equal(function(x, y, 1.0)[0], plain(x, y, 1.0)[0]) and function(x, y, 1.0)[0].all()
        assert torch.equal(function(x, x, 1.0)[0], torch.zeros(3))


def test_an_integer_is_no_float_and_true_is_not_one():
    calls = []
    function, _ = recorded(calls)
    x, y = rows(3, 8), rows(3, 8, seed=1)
    function(x, y, 1.0), function(x, y, 1.0)
    assert len(calls) == 1
    function(x, y, 1)
    assert len(calls) == 2
    with pytest.raises(TypeError):
        function(x, y, "one")


def test_tensors_that_are_not_dense_memory_go_to_the_function():
    calls = []
    function, _ = recorded(calls)
    x, y = rows(3, 8), rows(3, 8, seed=1)
    for _ in range(2):
        function(x, y, 1.0)
    function(torch._efficientzerotensor((3, 8)), y, 1.0)
    assert len(calls) == 2
    empty = rows(0, 8)
    function(empty, empty.clone(), 1.0)
    assert len(calls) == 3


def test_errors_of_the_function_are_its_own_and_leave_nothing_behind():
    calls = []
    function, _ = recorded(calls)
    with pytest.raises(TypeError, match="float64"):
        function(rows(3, 8), rows(3, 8, dtype=torch.float64), 1.0)
    x, y = rows(3, 8), rows(3, 8, seed=1)
    assert torch.equal(function(x, y, 1.0)[0], function(x, y, 1.0)[0])


def test_recordings_keep_no_tensor_alive():
    calls = []
    function, _ = recorded(calls)
    x, y = rows(3, 8), rows(3, 8, seed=1)
    out = function(x, y, 1.0)[0]
    references = [weakref.ref(tensor) for tensor in (x, y, out)]
    del x, y, out
    gc.collect()
    assert [reference() for reference in references] == [None] * 3


def test_recording_ends_if_shapes_never_repeat():
    calls = []
    function, plain = recorded(calls)
    y = rows(2000, 8, seed=1)
    for count in range(1, 300):
        x = rows(count, 8)
        assert torch.equal(function(x, y[:count].clone(), 1.0)[0], plain(x, y[:count], 1.0)[0])


def test_threads_record_and_repeat_side_by_side():
    calls = []
    function, plain = recorded(calls)
    kinds = [(rows(n, 8, seed=n), rows(n, 8, seed=n + 1), 1.0) for n in range(1, 40)]
    expected = [plain(*kind)[0] for kind in kinds]
    wrong = []

    def work(first: int) -> None:
        for n in range(first, first + 2000):
            kind = n * 7 % len(kinds)
            if not torch.equal(function(*kinds[kind])[0], expected[kind]):
                wrong.append(kind)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert not wrong and not any(thread.is_alive() for thread in threads)


@every()
def test_an_op_returns_the_same_bits_when_its_launches_are_repeated(case, monkeypatch):
    """Fills new memory with NaN, to show what a repeated launch would leave out."""
    assert torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(core, "replayed", lambda function: function)
            dispatch.functions.cache_clear()
            expected = value_and_gradients(case, case.tensors(torch.float32), "cpu", 5)
        dispatch.functions.cache_clear()
        for _ in range(3):
            actual = value_and_gradients(case, case.tensors(torch.float32), "cpu", 5)
            assert all(torch.equal(first, second) for first, second in zip(actual, expected, strict=True))
    finally:
        torch.use_deterministic_algorithms(False)
        dispatch.functions.cache_clear()
