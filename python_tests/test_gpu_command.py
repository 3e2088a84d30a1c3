"""benchmarks/gpu.py without a GPU: rehearsals, resumption and reports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

gpu = pytest.importorskip("gpu", reason="not run from a checkout: benchmarks/ is not there")
import measure_ops  # noqa: E402


def rehearse(out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, gpu.__file__, str(out), "--rehearse", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


def test_a_rehearsal_reports_every_stage_and_resumes(tmp_path):
    done = rehearse(tmp_path, "--only", "build", "large")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert {name: stage["status"] for name, stage in report["stages"].items()} == {"build": "passed", "large": "passed"}
    assert report["sources"] == gpu.sources_hash() and "tests collected" in report["stages"]["large"]["last_lines"][0]
    again = rehearse(tmp_path, "--only", "build", "large")
    assert again.stdout.splitlines() == ["build: passed before", "large: passed before"]


def test_an_unknown_stage_is_refused(tmp_path):
    done = rehearse(tmp_path, "--only", "huge")
    assert done.returncode == 2 and "no stage huge; there are build, cuda" in done.stderr


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ((sys.executable, "-c", "print('done')"), "passed"),
        ((sys.executable, "-c", "print('done'); raise SystemExit(3)"), "failed with status 3"),
        (
            (sys.executable, "-c", "print('done', flush=True); import time; time.sleep(60)"),
            "stopped at its limit of 5 s",
        ),
        (("compute-sanitiser",), "not run: there is no compute-sanitiser"),
    ],
)
def test_a_stage_says_how_it_ended(tmp_path, monkeypatch, command, status):
    monkeypatch.setattr(gpu, "SITE", tmp_path)
    result = gpu.run_stage(gpu.Stage("some", 5, (command,)), tmp_path / "log", dict(os.environ), 5)
    assert result["status"] == status
    assert result["last_lines"] == ([] if status.startswith("not run") else ["done"])


def test_the_proof_says_that_sources_have_changed_since(tmp_path):
    results = tmp_path / "benchmarks" / "results"
    results.mkdir(parents=True)
    (tmp_path / "csrc").mkdir()
    assert gpu.proof(results) == "Not run on a GPU yet.\n"
    stage = {"status": "passed", "seconds": 3.5, "last_lines": []}
    report = {
        "gpu": "some GPU",
        "commit": "abc",
        "date": "2020-01-02T00:00:00Z",
        "python": "3",
        "torch, CUDA, triton": "2",
    }
    report |= {"sources": gpu.sources_hash(tmp_path), "stages": {"cuda": stage}}
    (results / "gpu.json").write_text(json.dumps(report))
    assert "| cuda | passed | 3.5 s |" in gpu.proof(results) and "changed" not in gpu.proof(results)
    (tmp_path / "csrc" / "foo.cu").write_text("// new")
    assert "have changed since" in gpu.proof(results)


# Poisson's reads values on the host; "eager" of nearest takes a hundredth of the bank, 200 MB.
@pytest.mark.parametrize("case", [case for case in measure_ops.CASES if case.op not in ("poisson", "nearest")],
                         ids=lambda case: f"{case.op} {case.name}")  # fmt: skip
def test_plain_contenders_compute_on_the_requested_device(case):
    if "eager" not in case.contenders:
        pytest.skip("the case has no plain contender")
    for direction in case.directions:
        assert all(result.device.type == "meta" for result in case.step("eager", direction, "meta")())
