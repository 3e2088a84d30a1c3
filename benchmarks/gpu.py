"""Everything that a machine with a GPU is wanted for, by one command: builds, proves and measures.

    python benchmarks/gpu.py OUT [--minutes 10] [--only STAGE ...] [--rehearse]

Stages run in the order of their worth: the core for the GPU that is there, every CUDA test, headline numbers; Triton's
tests; all benchmarks; compute-sanitizer; tensors of more than 2^31 values. Each has a time limit and is reported as it
ends, so what a lease leaves undone is missing and nothing else. Run again with the same OUT it resumes: stages that
passed with the same sources are skipped. OUT gets gpu.json (the report), gpu.log (all output) and the benchmarks' CSV
files; those belong into benchmarks/results/.

The network is not used. Needed: torch, nvcc, cmake, ninja, scikit-build-core, numpy, pytest, hypothesis and mpmath;
compute-sanitizer for its stages, pytest-xdist to run tests side by side. ``--rehearse`` does the same without a GPU, on
the installed package: tests are collected, benchmarks run for an instant on the CPU.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "build" / "gpu"  # where the build is installed
# What decides a kernel's results and speed.
SOURCES = ("CMakeLists.txt", "csrc/**/*", "qmkernels/backends/**/*.py", "qmkernels/ops/*.py")


@dataclass(frozen=True)
class Stage:
    name: str
    limit_s: int
    commands: tuple[tuple[str, ...], ...]


def pytest(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "pytest", "-q", "-c", str(ROOT / "pyproject.toml"), "-p", "no:cacheprovider",
            "--override-ini", "addopts=--import-mode=importlib", *arguments)  # fmt: skip


def tests(name: str) -> list[str]:
    return sorted(map(str, (ROOT / "python_tests").glob(name)))


def measured(script: str, table: str, *arguments: str) -> Callable[[Path, bool], tuple[str, ...]]:
    def command(out: Path, rehearse: bool) -> tuple[str, ...]:
        device = "cpu" if rehearse else "cuda"
        instant = ("--seconds", "0.01", "--threads", "1") if rehearse else ()
        program = (sys.executable, str(ROOT / "benchmarks" / script), "--device", device)
        return (*program, "--out", str(out / f"{table}_{device}.csv"), *arguments, *instant)

    return command


def stages(out: Path, rehearse: bool) -> list[Stage]:
    spread = ("-n", str(min(8, os.cpu_count() or 1))) if not rehearse and has("xdist") else ()
    only_collect = ("--collect-only",) if rehearse else ()
    cuda = str(ROOT / "python_tests" / "test_cuda.py")
    build = (sys.executable, "-m", "pip", "install", "--no-index", "--no-build-isolation", "--no-deps", "--upgrade",
             "--target", str(SITE), str(ROOT))  # fmt: skip
    info = (sys.executable, "-m", "qmkernels.cli", "info")
    iqe = measured("measure_iqe.py", "iqe", "--seconds", "4")
    batch_sizes = measured("measure_iqe.py", "batch_sizes", "--batch-sizes", "--seconds", "2")
    ops = measured("measure_ops.py", "ops", "--seconds", "2")
    training_step = measured("measure_training_step.py", "training_step", "--seconds", "10")

    def run(command: Callable[[Path, bool], tuple[str, ...]], *only: str) -> tuple[str, ...]:
        return (*command(out, rehearse), *(("--only", *only) if only else ()))

    smallest = "(256, 128)"
    sanitized = pytest(cuda, "-k", "small_sizes and 5-dtype0 and not triton", *only_collect)
    return [
        Stage("build", 240, (info,) if rehearse else (build, info)),
        Stage("cuda", 240, (pytest(cuda, "-k", "not triton and not more_than", *spread, *only_collect),)),
        Stage("headline", 120, (
            run(iqe, smallest if rehearse else "(256, 512)"), *(() if rehearse else (run(iqe, "1024x1024"),)),
            run(ops, "metra (256, 2)" if rehearse else "mrn pairwise"),
        )),
        Stage("triton", 300, (
            pytest(cuda, *tests("test_triton_*.py"), "-k", "triton and not more_than", *spread, *only_collect),
        )),
        Stage("benchmarks", 600, (
            run(iqe, smallest) if rehearse else run(iqe), *(() if rehearse else (run(batch_sizes),)),
            run(ops, "metra (256, 2)") if rehearse else run(ops),
        )),
        Stage("training_step", 240, () if rehearse else (run(training_step),)),
        *(
            Stage(tool, 240, (("compute-sanitizer", "--tool", tool, "--error-exitcode", "1", *sanitized),))
            for tool in ("memcheck", "racecheck", "synccheck", "initcheck")
        ),
        Stage("large", 300, (pytest(cuda, "-k", "more_than", *only_collect),)),
    ]  # fmt: skip


def has(module: str) -> bool:
    return subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True).returncode == 0


def output_of(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def sources_hash(root: Path = ROOT) -> str:
    """Of the kernels' sources: a report of others proves nothing about these."""
    total = hashlib.sha256()
    for path in sorted(path for pattern in SOURCES for path in root.glob(pattern)):
        if path.is_file() and path.suffix != ".md":
            total.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return total.hexdigest()[:16]


def machine() -> dict[str, str]:
    gpu = output_of("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader")
    versions = "import torch, triton; print(torch.__version__, torch.version.cuda, triton.__version__)"
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": output_of("git", "rev-parse", "--short", "HEAD") or "none",
        "sources": sources_hash(),
        "gpu": gpu or "none",
        "python": platform.python_version(),
        "torch, CUDA, triton": output_of(sys.executable, "-c", versions) or "not found",
        "nvcc": (output_of("nvcc", "--version").splitlines() or ["not found"])[-1],
    }


def run_stage(stage: Stage, log: Path, environment: dict[str, str], limit_s: float) -> dict[str, object]:
    """The stage's status, seconds, and the last line of each command's output."""
    begin, status, last_lines = time.monotonic(), "passed", []
    for command in stage.commands:
        if shutil.which(command[0]) is None:
            status = f"not run: there is no {command[0]}"
            break
        left_s = limit_s - (time.monotonic() - begin)
        with log.open("a") as file:
            file.write(f"\n=== {stage.name}: {' '.join(command)}\n")
            file.flush()
            at = file.tell()
            process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment, cwd=SITE,
                                       start_new_session=True)  # fmt: skip
            try:
                code = process.wait(max(1.0, left_s))
                status = "passed" if code == 0 else f"failed with status {code}"
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # with its workers, or they would go on using the GPU
                process.wait()
                status = f"stopped at its limit of {limit_s:.0f} s"
        lines = log.read_bytes()[at:].decode(errors="replace").split("\n")
        last_lines += [line.strip() for line in lines if line.strip()][-1:]
        if status != "passed":
            break
    return {"status": status, "seconds": round(time.monotonic() - begin, 1), "last_lines": last_lines}


def proof(results: Path) -> str:
    """What the stored report shows, as Markdown; that the sources have changed since, where they have."""
    path = results / "gpu.json"
    if not path.exists():
        return "Not run on a GPU yet.\n"
    report = json.loads(path.read_text())
    same = report["sources"] == sources_hash(results.parent.parent)
    changed = "" if same else " **The kernels' sources have changed since.**"
    rows = [f"| {name} | {result['status']} | {result['seconds']} s |" for name, result in report["stages"].items()]
    return "\n".join(
        [
            f"Last run on {report['gpu']} at commit {report['commit']}, {report['date'][:10]}, with Python "
            f"{report['python']}, torch, CUDA and Triton {report['torch, CUDA, triton']}.{changed}",
            "",
            "| stage | result | time |",
            "|---|---|--:|",
            *rows,
            "",
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the report, the log and the CSV files")
    parser.add_argument("--minutes", type=float, default=10.0, help="no stage begins later, and none lasts longer")
    parser.add_argument("--only", nargs="+", metavar="STAGE", help="these stages alone")
    parser.add_argument("--rehearse", action="store_true", help="without a GPU")
    options = parser.parse_args()
    begin, out = time.monotonic(), options.out.resolve()
    every = stages(out, options.rehearse)
    names = [stage.name for stage in every]
    if unknown := sorted(set(options.only or ()) - set(names)):
        parser.error(f"no stage {', '.join(unknown)}; there are {', '.join(names)}")
    out.mkdir(parents=True, exist_ok=True)
    SITE.mkdir(parents=True, exist_ok=True)
    report_file, report = out / "gpu.json", {**machine(), "rehearsal": options.rehearse, "stages": {}}
    if report_file.exists():
        before = json.loads(report_file.read_text())
        if all(before[key] == report[key] for key in ("sources", "gpu", "rehearsal")):
            report["stages"] = before["stages"]
    if report["gpu"] == "none" and not options.rehearse:
        parser.error("nvidia-smi finds no GPU; --rehearse runs without one")
    path = os.environ.get("PYTHONPATH", "")
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if not options.rehearse:
        environment |= {"QMKERNELS_CUDA": "ON", "PYTHONPATH": os.pathsep.join(filter(None, (str(SITE), path)))}

    for stage in every:
        if options.only and stage.name not in options.only:
            continue
        if report["stages"].get(stage.name, {}).get("status") == "passed":
            print(f"{stage.name}: passed before", flush=True)
            continue
        left_s = 60 * options.minutes - (time.monotonic() - begin)
        if left_s < 10:
            print(f"{stage.name}: no time left", flush=True)
            continue
        result = run_stage(stage, out / "gpu.log", environment, min(stage.limit_s, left_s))
        report["stages"][stage.name] = result
        report_file.write_text(json.dumps(report, indent=1) + "\n")
        print(
            f"{stage.name}: {result['status']} in {result['seconds']} s; {' | '.join(result['last_lines'])}", flush=True
        )
        if stage.name == "build" and result["status"] != "passed":
            print((out / "gpu.log").read_text()[-4000:])
            return 1
    return int(any(result["status"] != "passed" for result in report["stages"].values()))


if __name__ == "__main__":
    sys.exit(main())
