"""Adds two ops to a copy of the checkout by the recipe in csrc/README.md, builds it and runs what tests every op.

    python .ci/recipe.py

`toy`, a distance, is written down in .ci/toy; `toyloss` is `metra` under another name. Only files that the recipe names
are added, and only those are changed that it calls shared, at most three an op: where that is not enough, this fails.
Needs what the tests need, and cmake and ninja beside this Python or on PATH; ccache is used where it is found.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MOST_SHARED_FILES = 3

# What is put into a shared file: (after which text, what). An op's rows, its name and its export.
SHARED = {
    "toy": {
        "csrc/ops.cmake": [("set(QMK_OPS", " toy")],
        "qmkernels/__init__.py": [
            ("    from .ops.pqe import pqe, pqe_pairwise\n", "    from .ops.toy import toy\n"),
            ('    "pqe_pairwise",\n', '    "toy",\n'),
        ],
        "python_tests/op_cases.py": [("CASES = (\n", '    Case("toy", "toy", lambda k: qm.toy, _rows()),\n')],
    },
    "toyloss": {
        "csrc/ops.cmake": [("set(QMK_OPS", " toyloss")],
        "qmkernels/losses/__init__.py": [
            ("from .tmd_critic import tmd_critic\n", "from .toyloss import toyloss\n"),
            ('    "tmd_critic",\n', '    "toyloss",\n'),
        ],
        "python_tests/op_cases.py": [
            (
                "CASES = (\n",
                '    Case(\n        "toyloss", "toyloss", lambda k: lambda *tensors: qm.losses.toyloss(*tensors).loss,'
                ' _steps, "loss", held=(3,),\n        excepted=_OF_TWO_PARTS,\n    ),\n',
            )
        ],
    },
}


def recipe() -> tuple[set[str], set[str]]:
    """The files that it has one add for an op `foo`, and those that it calls shared."""
    text = (ROOT / "csrc" / "README.md").read_text().split("## Adding an op")[1].split("\n## ")[0]
    added, shared = set(), set()
    for step in re.split(r"\n\d+\. ", text)[1:]:
        paths = re.findall(r"`([\w.]+/[\w./]+)`", step)
        added.update(path for path in paths if "foo" in path)
        if "**shared**" in step:
            shared.update(re.findall(r"`([\w.]+/[\w./]+)`", step.split("**shared**")[0]))
    return added, shared


def own_files(op: str, added: set[str]) -> dict[str, str]:
    """By path, what the recipe has one write for the op."""
    if op == "toy":
        folder = ROOT / ".ci" / "toy"
        files = filter(Path.is_file, folder.rglob("*"))
        written = {path.relative_to(folder).as_posix(): path.read_text() for path in files}
        unnamed = written.keys() - {path.replace("foo", op) for path in added}
        assert not unnamed, f"the recipe does not name {sorted(unnamed)}"
        return written
    found = {}
    for path in added:
        if (original := ROOT / path.replace("foo", "metra")).is_file():
            text = original.read_text().replace("METRA", "Toyloss").replace("Metra", "Toyloss").replace("metra", op)
            found[path.replace("foo", op)] = text
    return found


def add(op: str, copy: Path) -> int:
    """Adds an op to the copy and returns how many files were changed that it had."""
    added, shared = recipe()
    for path, text in own_files(op, added).items():
        assert not (copy / path).exists(), path
        (copy / path).write_text(text)
    for path, insertions in SHARED[op].items():
        assert path in shared, f"the recipe does not call {path} shared"
        text = (copy / path).read_text()
        for after, what in insertions:
            assert text.count(after) == 1, (path, after)
            text = text.replace(after, after + what)
        (copy / path).write_text(text)
    return len(SHARED[op])


def run(copy: Path, *command: str, **variables: str) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    print("+", *command, flush=True)
    subprocess.run(command, cwd=copy, check=True, env={**os.environ, "PATH": path, **variables})


def test(copy: Path, selection: str, *files: str) -> None:
    """Runs tests of the copy, whose folder `python -m` finds before an installed package."""
    run(copy, sys.executable, "-m", "pytest", "-q", "-n", "auto", "-p", "no:cacheprovider", "-k", selection, *files)


def build(copy: Path) -> None:
    launcher = ["-DCMAKE_CXX_COMPILER_LAUNCHER=ccache"] if shutil.which("ccache") else []
    settings = ["QMKERNELS_BASELINE_ONLY=ON", "QMKERNELS_TESTS=ON", "QMKERNELS_CUDA=OFF", "CMAKE_BUILD_TYPE=Release"]
    settings += ["CMAKE_CXX_FLAGS_RELEASE=-O0", f"Python_EXECUTABLE={sys.executable}"]
    run(copy, "cmake", "-S", ".", "-B", "build", "-G", "Ninja", *(f"-D{each}" for each in settings), *launcher)
    targets = ["_core", *(f"test_{op}_baseline" for op in SHARED)]
    run(copy, "cmake", "--build", "build", "--target", *targets)
    for op in SHARED:
        run(copy, f"build/csrc/tests/test_{op}_baseline", "baseline")
    (core,) = (copy / "build").glob("_core*.so")
    shutil.copy(core, copy / "qmkernels")


def main() -> None:
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "checkout"
        left_out = shutil.ignore_patterns(".*", "build", "dist", "results", "*.so", "__pycache__")
        shutil.copytree(ROOT, copy, ignore=left_out)
        for op in SHARED:
            num_shared = add(op, copy)
            assert num_shared <= MOST_SHARED_FILES, f"{op}: {num_shared} shared files"
            print(f"recipe: {op} is added, {num_shared} shared files are changed", flush=True)
        build(copy)
        print(f"recipe: built ({time.monotonic() - begin:.0f} s)", flush=True)
        test(copy, "toy or every_op or selection", "python_tests/test_op_contract.py")
        test(copy, "toy or not instruction_set", "python_tests/test_structure.py")
        test(copy, "toy or public", "python_tests/test_fuzz.py")
        test(copy, "toy and not (fp64 or 80 or hip)", "python_tests/test_triton.py")
        files = [f"python_tests/test_{kind}{op}.py" for op in SHARED for kind in ("", "cuda_on_cpu_")]
        test(copy, "", *files, *(f"benchmarks/bench_{op}.py" for op in SHARED), "--benchmark-disable")
    print(f"recipe: both ops pass the tests of every op, {time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    main()
