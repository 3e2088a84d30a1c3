"""Every op on the Triton backend: its rows of op_cases.py here, and its kernels compiled ahead of time for GPUs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import op_checks
import pytest
import torch
from op_cases import every
from triton_testing import DEVICE, ON_GPU, RUNS_HERE, environment, import_kernels, interpreted

from qmkernels.backends import dispatch

FOLDER = Path(__file__).parent
# Each takes seconds a kernel; both dtypes on every target would take minutes.
TARGETS = (("cuda:90:32", "fp32"), ("cuda:80:32", "fp64"), ("hip:gfx942:64", "fp32"))
KERNELS = Path(dispatch.__file__).parent / "triton"
FILES = sorted(file.stem for file in KERNELS.glob("*.py") if re.search(r"^def \w+_kernel\(", file.read_text(), re.M))


def in_own_process(*command: str, interpret: bool, **variables: str) -> str:
    variables = environment(interpret) | variables
    run = subprocess.run([sys.executable, *command], env=variables, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@pytest.mark.skipif(RUNS_HERE, reason="every test runs in this process")
@pytest.mark.parametrize("file", sorted(FOLDER.glob("test_triton*.py")), ids=lambda file: file.stem)
def test_a_file_passes_in_a_process_whose_triton_is_interpreted(file):
    command = ["-m", "pytest", "-q", "--import-mode=importlib", "-k", "not ahead_of_time", str(file)]
    in_own_process(*command, interpret=True)


class TestOnTriton:
    pytestmark = interpreted

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @every()
    def test_errors_are_no_worse_than_those_of_plain_torch(self, case, dtype):
        op_checks.check_error_is_no_worse_than_that_of_plain_torch(case, "triton", DEVICE, dtype, size=5, rows=7)

    @every("independent rows")
    def test_nan_in_a_row_stays_in_that_row(self, case):
        op_checks.check_nan_stays_in_its_row(case, "triton", DEVICE)

    @every()
    def test_what_forward_keeps_is_the_same_as_the_references(self, case):
        op_checks.check_what_forward_keeps_is_the_same_on_both_backends(case, "triton", "reference", DEVICE)

    @pytest.mark.skipif(ON_GPU, reason="only the interpreter checks addresses")
    def test_an_address_outside_of_all_tensors_is_found(self):
        x, too_short = torch.zeros(64, 4), torch.zeros(63, 4)
        with pytest.raises(Exception, match="4 of 256 addresses are outside of all tensors"):
            import_kernels("iqe").iqe_forward(x, too_short, None, 4, "sum", "identity", False)


def test_kernels_are_found():
    assert {"iqe", "iqe_pairwise", "pair_loss"} <= set(FILES)


@pytest.mark.parametrize("target, dtype", TARGETS)
@pytest.mark.parametrize("file", FILES)
def test_every_kernel_compiles_ahead_of_time(file, target, dtype, tmp_path):
    """Without a GPU, by a triton that is not interpreted."""
    program = str(FOLDER / "compile_triton.py")
    assert "compiled" in in_own_process(program, file, target, dtype, interpret=False, TRITON_CACHE_DIR=str(tmp_path))
