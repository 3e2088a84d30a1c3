"""Shared by all test files: threads, and the backends of a CPU."""

import importlib
import os

import pytest
import torch

import qmkernels as qm
from qmkernels.backends import dispatch

# Under pytest-xdist every worker takes its share of the cores, because more threads than cores wait for one another.
if "PYTEST_XDIST_WORKER" in os.environ:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    torch.set_num_threads(max(1, cores // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])))


# Each takes a minute or nearly so. xdist would begin with the files of the most tests, and one worker would end alone.
FIRST = (
    "test_triton.py", "test_op_contract.py", "test_triton_iqe.py", "test_cuda_build.py", "test_train_resume.py",
    "test_agents.py", "test_compile_triton.py", "test_triton_mrn.py", "test_examples.py", "test_fuzz.py",
)  # fmt: skip


def pytest_configure(config):
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: FIRST.index(item.path.name) if item.path.name in FIRST else len(FIRST))


@pytest.fixture(params=["cpu", "reference"])
def backend(request):
    """Runs the test on the compiled kernels, and again on the reference."""
    if reason := dispatch.why_not(request.param, dispatch.OPS[0], "cpu"):
        pytest.skip(reason)
    with qm.use_backend(request.param):
        yield request.param


@pytest.fixture
def triton_interpreter(monkeypatch):
    """Sets the interpreter's variable, which triton's later imports and the choice of backends read, and checks the
    addresses of interpreted kernels."""
    if not torch.cuda.is_available():
        monkeypatch.setenv("TRITON_INTERPRET", "1")
        importlib.import_module("triton_bounds").check_addresses(monkeypatch)
    for function in (dispatch.why_not, dispatch.resolve, dispatch.functions):
        function.cache_clear()
    yield
    for function in (dispatch.why_not, dispatch.resolve, dispatch.functions):
        function.cache_clear()
