"""Processes that torchrun, Accelerate and Lightning Fabric start learn and find what one process does: launched.py."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    "launcher, library", [("torchrun", "torch"), ("accelerate", "accelerate"), ("fabric", "lightning_fabric")]
)
def test_two_processes_equal_one(launcher, library, tmp_path):
    pytest.importorskip(library, reason=f"{library} is not installed")
    script = Path(__file__).with_name("launched.py")
    paths = os.pathsep.join([str(script.parent), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, str(script), launcher, "2"], cwd=tmp_path, capture_output=True, text=True, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(f"rank {rank} of 2: equal to one process" in done.stdout for rank in range(2))
