"""Every Triton kernel compiles ahead of time for GPUs, on a machine without one.

QMKERNELS_TEST_ARCHS lists NVIDIA's compute capabilities to compile for, by default "90", as in test_cuda_build.py.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from triton_testing import environment

from qmkernels.backends import dispatch

# A target takes a minute, so only one of them is compiled in double. A launch's constants choose among branches
# before the target matters, so by default AMD's has one launch of each kernel.
ARCHS = os.environ.get("QMKERNELS_TEST_ARCHS", "90").split()
TARGETS = [
    ("hip:gfx942:64", "fp32", "all" if "QMKERNELS_TEST_ARCHS" in os.environ else "first"),
    *((f"cuda:{arch}:32", "fp64" if arch == "80" else "fp32", "all") for arch in ARCHS),
]
KERNELS = Path(dispatch.__file__).parent / "triton"
FILES = sorted(file.stem for file in KERNELS.glob("*.py") if re.search(r"^def \w+_kernel\(", file.read_text(), re.M))


def test_kernels_are_found():
    assert {"iqe", "iqe_pairwise", "pair_loss"} <= set(FILES)


@pytest.mark.parametrize("target, dtype, which", TARGETS)
def test_every_kernel_compiles_ahead_of_time(target, dtype, which, tmp_path):
    """By a triton that is not interpreted, so in a process of its own."""
    program = Path(__file__).parent / "compile_triton.py"
    variables = environment(interpret=False) | {"TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, str(program), target, dtype, which, *FILES]
    run = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert all(f"{file}: compiled" in run.stdout for file in FILES), run.stdout
