"""Every op on the Triton backend, by its rows of op_cases.py, and each test_triton_*.py under Triton's interpreter."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import op_checks
import pytest
import torch
from op_cases import every
from triton_testing import DEVICE, ON_GPU, RUNS_HERE, environment, import_kernels, interpreted


@pytest.mark.skipif(RUNS_HERE, reason="every test runs in this process")
@pytest.mark.parametrize("file", sorted(Path(__file__).parent.glob("test_triton*.py")), ids=lambda file: file.stem)
def test_a_file_passes_in_a_process_whose_triton_is_interpreted(file):
    command = [sys.executable, "-m", "pytest", "-q", "--import-mode=importlib", str(file)]
    run = subprocess.run(command, env=environment(interpret=True), capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


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
