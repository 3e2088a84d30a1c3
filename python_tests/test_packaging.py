"""What an installation depends on: one version number, typed public names, and CMake's decisions and messages."""

import importlib.util
import inspect
import os
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import qmkernels as qm
from qmkernels.backends import dispatch
from qmkernels.backends.native import core

ROOT = Path(__file__).resolve().parent.parent
CMAKE = shutil.which("cmake")

needs_cmake = pytest.mark.skipif(CMAKE is None, reason="cmake was not found")


def test_every_file_names_the_same_version():
    names = {
        "pyproject.toml": r'^version = "(.+)"$',
        "CITATION.cff": r"^version: (.+)$",
        "CHANGELOG.md": r"^## ([\d.]+), ",
    }
    versions = {path: re.search(pattern, (ROOT / path).read_text(), re.MULTILINE)[1] for path, pattern in names.items()}
    assert len(set(versions.values())) == 1, versions


def public_callables():
    for module in (qm, qm.nn, qm.losses, qm.agents, qm.data, qm.compat, qm.distributed):
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isfunction(value):
                yield f"{module.__name__}.{name}", value
            elif inspect.isclass(value):
                methods = inspect.getmembers(value, inspect.isfunction)
                ours = ((n, f) for n, f in methods if f.__module__.startswith("qmkernels") and not n.startswith("_"))
                yield from ((f"{module.__name__}.{name}.{n}", f) for n, f in ours)


def test_the_package_and_every_public_function_are_typed():
    assert (ROOT / "qmkernels" / "py.typed").is_file()
    untyped = []
    for name, function in public_callables():
        signature = inspect.signature(function)
        parameters = [p.annotation for p in signature.parameters.values() if p.name not in ("self", "cls")]
        if inspect.Signature.empty in (*parameters, signature.return_annotation):
            untyped.append(name)
    assert not untyped


def tool(folder, name, output):
    """Writes a program of this name that prints ``output``."""
    path = folder / name
    path.write_text(f"#!/bin/sh\ncat <<END\n{output}END\n")
    path.chmod(0o755)
    return path


def cmake(*arguments, path=None):
    environment = {**os.environ, **({} if path is None else {"PATH": str(path)})}
    environment = {name: value for name, value in environment.items() if not name.startswith(("CXX", "CUDA"))}
    result = subprocess.run([CMAKE, *arguments], capture_output=True, text=True, timeout=120, env=environment)
    return result.returncode, " ".join((result.stdout + result.stderr).split())


@needs_cmake
@pytest.mark.skipif(shutil.which("make") is None, reason="make was not found")
def test_without_a_compiler_the_error_says_what_to_install(tmp_path):
    for program in ("sh", "uname", "make"):
        if path := shutil.which(program):
            (tmp_path / program).symlink_to(path)
    status, output = cmake("-S", str(ROOT), "-B", str(tmp_path / "build"), path=tmp_path)
    assert status != 0
    assert "qmkernels needs a C++ compiler and found none. Install one (Debian, Ubuntu: apt install g++;" in output


# QMKERNELS_CUDA, QMKERNELS_CUDA_ARCHITECTURES, what nvidia-smi prints, and the choice with its reason.
ALL = "80-real;86-real;89-real;90-real;100"
CHOICES = [
    ("AUTO", "native", "9.0\n9.0\n", "90 (the GPUs of this machine)"),
    ("AUTO", "native", "8.9\n12.0\n8.0\n", "80-real;89-real;120 (the GPUs of this machine)"),
    ("AUTO", "native", "No devices were found\n", "none (nvidia-smi names no GPU; QMKERNELS_CUDA=ON builds for all)"),
    ("AUTO", "native", None, "none (nvidia-smi names no GPU; QMKERNELS_CUDA=ON builds for all)"),
    ("AUTO", "native", "7.0\n", "none (this machine's GPUs are older than sm_80)"),
    ("AUTO", "all", None, f"{ALL} (QMKERNELS_CUDA_ARCHITECTURES=all)"),
    ("AUTO", "86-real;90", None, "86-real;90 (QMKERNELS_CUDA_ARCHITECTURES)"),
    ("ON", "native", "8.6\n", "86 (the GPUs of this machine)"),
    ("ON", "native", None, f"{ALL} (QMKERNELS_CUDA=ON, and nvidia-smi names no GPU to build for alone)"),
    ("OFF", "all", "9.0\n", "none (QMKERNELS_CUDA=OFF)"),
]


@needs_cmake
@pytest.mark.parametrize("cuda, architectures, printed, expected", CHOICES)
def test_cuda_kernels_are_built_for_this_machines_gpus(cuda, architectures, printed, expected, tmp_path):
    script = tmp_path / "choose.cmake"
    script.write_text(
        f"cmake_minimum_required(VERSION 3.24)\nset(QMKERNELS_CUDA {cuda})\n"
        f'set(QMKERNELS_CUDA_ARCHITECTURES "{architectures}")\ninclude("{ROOT}/csrc/cuda_architectures.cmake")\n'
        'choose_cuda_architectures()\nmessage("${cuda_architectures} (${cuda_choice})")\n'
    )
    if printed is not None:
        tool(tmp_path, "nvidia-smi", printed)
    (tmp_path / "cat").symlink_to(shutil.which("cat"))
    status, output = cmake("-P", str(script), path=tmp_path)
    assert status == 0 and output == expected.removeprefix("none ")


@needs_cmake
@pytest.mark.parametrize("cuda", ("AUTO", "ON"))
@pytest.mark.parametrize("codes", (None, "sm_80\nsm_90\n"))
def test_a_missing_or_old_nvcc_is_an_error_only_if_cuda_was_requested(cuda, codes, tmp_path):
    nvcc = tool(tmp_path, "nvcc", codes) if codes else ""
    script = tmp_path / "drop.cmake"
    script.write_text(
        f'cmake_minimum_required(VERSION 3.24)\nset(QMKERNELS_CUDA {cuda})\nset(CMAKE_CUDA_COMPILER "{nvcc}")\n'
        f'set(cuda_architectures 90-real 120)\ninclude("{ROOT}/csrc/cuda_architectures.cmake")\n'
        'drop_what_nvcc_cannot_build()\nmessage("[${cuda_architectures}] ${cuda_choice}")\n'
    )
    status, output = cmake("-P", str(script))
    reason = f"{nvcc} does not know sm_120" if codes else "no nvcc was found"
    if cuda == "ON":
        assert status != 0 and f"QMKERNELS_CUDA=ON, but {reason}" in output
    else:
        assert status == 0 and output.startswith(f"[] {reason}")


@pytest.mark.parametrize(
    "built_for, gpus, runs",
    [
        ("90", [(9, 0)], True),
        ("90", [(12, 0)], True),
        ("90-real", [(12, 0)], False),
        ("90", [(8, 0)], False),
        ("80-real 100", [(8, 9)], True),
        ("89-real", [(8, 0)], False),
        ("86-real", [(7, 5), (8, 6)], True),
    ],
)
def test_a_core_built_for_other_gpus_says_so(built_for, gpus, runs, monkeypatch):
    _pretend_to_be_built(built_for, gpus, monkeypatch)
    reason = core.why_not("cuda")
    assert reason is None if runs else f"built for the GPU architectures {built_for}, not for sm_" in reason


def test_tensors_of_another_gpu_take_triton_and_a_warning_says_so_once(monkeypatch, recwarn):
    _pretend_to_be_built("80-real", [(9, 0)], monkeypatch)
    monkeypatch.setattr(dispatch, "_load", lambda name, op: name)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    cached = dispatch.why_not, dispatch.resolve, dispatch._warn_once
    for function in cached:
        function.cache_clear()
    try:
        assert [dispatch.resolve(op, "cuda") for op in dispatch.OPS] == ["triton"] * len(dispatch.OPS)
    finally:
        for function in cached:
            function.cache_clear()
    (warning,) = recwarn
    assert "built for the GPU architectures 80-real, not for sm_90: reinstall on this machine" in str(warning.message)


def _pretend_to_be_built(built_for: str, gpus: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    built = SimpleNamespace(has_cuda=True, build_info=lambda: {"cuda_architectures": built_for})
    monkeypatch.setattr(core, "_core", built)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(gpus))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: gpus[device])
