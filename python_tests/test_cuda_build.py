"""The CUDA sources compile, with every array in registers. Needs nvcc, no GPU.

QMKERNELS_TEST_ARCHS lists the compute capabilities to compile for, by default "90".
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

CUDA = Path(__file__).parents[1] / "csrc" / "cuda"
NVCC = shutil.which("nvcc")
ARCHS = os.environ.get("QMKERNELS_TEST_ARCHS", "90").split()

pytestmark = pytest.mark.skipif(NVCC is None, reason="nvcc was not found")

SOURCES = sorted(path.stem for path in CUDA.glob("*.cu"))
FEWEST_KERNELS = 4  # per source: a report of fewer was misread

# One line per kernel: its name, then "N bytes stack frame, N bytes spill stores, N bytes spill loads".
KERNEL = re.compile(
    r"Compiling entry function '(?P<name>\w+)' for '\w+'\n(?:.*\n)*?"
    r".*?(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads"
)


@pytest.fixture(scope="module", params=[(source, arch) for source in SOURCES for arch in ARCHS])
def report(request, tmp_path_factory) -> tuple[str, str]:
    """Returns what nvcc and ptxas print for one source and compute capability, and the source's name."""
    source, arch = request.param
    cubin = tmp_path_factory.mktemp("cuda_build") / f"{source}.cubin"
    command = [NVCC, "-std=c++17", "-O3", "--expt-relaxed-constexpr", "-Xptxas=-v", f"-arch=sm_{arch}", "-cubin"]
    run = subprocess.run([*command, CUDA / f"{source}.cu", "-o", cubin], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return source, run.stdout + run.stderr


def test_every_kernel_keeps_its_arrays_in_registers(report):
    source, text = report
    kernels = list(KERNEL.finditer(text))
    assert len(kernels) == text.count("Compiling entry function") >= FEWEST_KERNELS
    in_memory = [match["name"] for match in kernels if match["stack"] + match["stores"] + match["loads"] != "000"]
    assert not in_memory


def test_the_sources_compile_without_a_warning(report):
    assert "warning" not in report[1].lower()
