"""The console script: its commands, and `qmkernels info`, which never fails."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from qmkernels import bench, cli, info
from qmkernels.backends import dispatch
from qmkernels.backends.native import core


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_help_lists_every_command(capsys, arguments):
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    assert all(f"\n  {name} " in printed for name in ("info", "demo", "train", "bench"))


@pytest.mark.parametrize("name", ["evaluate", "infos", "--version"])
def test_an_unknown_command_exits_2_and_says_which_there_are(capsys, name):
    assert cli.main([name]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == f"qmkernels: no command {name!r}; there are info, demo, train, bench.\n"


def test_demo_gets_the_rest_of_the_arguments_and_its_status_is_returned(monkeypatch):
    demo = type(sys)("qmkernels.demo")
    demo.run = lambda arguments: len(arguments)
    monkeypatch.setitem(sys.modules, "qmkernels.demo", demo)
    assert cli.main(["demo", "--steps", "20", "--seed=1"]) == 3


def test_the_script_reads_the_command_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["qmkernels", "info"])
    assert cli.main() == 0
    assert "compiled core" in capsys.readouterr().out


def test_info_reports_versions_machine_and_every_op_on_every_backend(capsys):
    assert cli.main(["info"]) == 0
    printed = capsys.readouterr().out
    assert torch.__version__ in printed
    assert info.cpu_model() in printed
    for op in dispatch.OPS:
        for backend in dispatch.BACKENDS:
            assert f"{op:6} cpu tensor on {backend}" in printed
    assert "iqe    cpu tensor on reference" in printed and "yes" in printed


@pytest.fixture
def broken_core(monkeypatch):
    """A core whose import failed with a loader's message."""
    reason = "the compiled core failed to load: undefined symbol: frobnicate"
    monkeypatch.setattr(core, "why_not", lambda device_type: reason)
    monkeypatch.setattr(core, "build_info", lambda: None)
    dispatch.why_not.cache_clear()
    yield reason
    dispatch.why_not.cache_clear()


def test_info_exits_0_and_says_why_where_the_core_is_broken(capsys, broken_core):
    assert cli.main(["info"]) == 0
    printed = capsys.readouterr().out
    assert f"not in use  {broken_core}" in printed
    assert f"no: {broken_core}" in printed
    assert "iqe    cpu tensor on reference" in printed


def test_info_exits_0_where_a_section_cannot_be_found_out(capsys, monkeypatch):
    def fail(*_):
        raise OSError("no such thing")

    monkeypatch.setattr(core, "why_not", fail)
    dispatch.why_not.cache_clear()
    monkeypatch.setattr(info, "cpu_model", fail)
    try:
        assert cli.main(["info"]) == 0
    finally:
        dispatch.why_not.cache_clear()
    assert capsys.readouterr().out.count("OSError: no such thing") >= 2


def test_info_exits_0_where_the_package_holds_no_core(tmp_path):
    """The Python files alone, copied away from the compiled core, as in a checkout that was never built."""
    package = Path(importlib.util.find_spec("qmkernels").origin).parent
    shutil.copytree(package, tmp_path / "qmkernels", ignore=shutil.ignore_patterns("*.so", "*.pyd", "__pycache__"))
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import qmkernels.cli as cli; "
        f"assert cli.__file__.startswith({str(tmp_path)!r}); sys.exit(cli.main(['info']))"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "not in use" in done.stdout


def test_sources_without_a_core_say_so_once_and_what_to_do(tmp_path):
    package = Path(importlib.util.find_spec("qmkernels").origin).parent
    shutil.copytree(package, tmp_path / "qmkernels", ignore=shutil.ignore_patterns("*.so", "*.pyd", "__pycache__"))
    program = "import torch, qmkernels as qm; print(qm.iqe(torch.zeros(4), torch.ones(4), 2).item())"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.strip() == "1.0", done.stderr
    warning = (
        "qmkernels._core is missing: install the package (pip install .) and run Python outside the checkout's root"
    )
    assert done.stderr.count(warning) == 1


def test_info_says_that_it_takes_no_options(capsys):
    assert cli.main(["info", "--all"]) == 0
    assert "it takes no options, got --all" in capsys.readouterr().out


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc/self/maps is Linux's")
def test_the_openmp_runtime_of_torch_is_among_those_loaded():
    torch.ones(100_000).add_(1)
    runtimes = info.loaded_openmp_runtimes()
    assert any("omp" in Path(path).name for path in runtimes)
    assert len(runtimes) == len(set(runtimes))


@pytest.mark.parametrize(
    "name", ["libgomp.so.1", "libgomp-24e2ab19.so.1.0.0", "libomp.so", "libiomp5.so", "libomp.dylib"]
)
def test_openmp_runtimes_are_known_by_their_file_names(name):
    assert info._OPENMP_FILE.search(name)


@pytest.mark.parametrize("name", ["libtorch_cpu.so", "libcomposite.so", "libompi_trace.so"])
def test_other_libraries_are_not_taken_for_openmp(name):
    assert not info._OPENMP_FILE.search(name)


def test_contenders_take_turns_and_each_round_is_kept():
    calls = []
    times = bench.interleaved_times_ms([lambda: calls.append("a"), lambda: calls.append("b")], 3, least_ms=0.0)
    assert [len(own) for own in times] == [3, 3]
    assert calls[-6:] == ["a", "b"] * 3


def test_bench_prints_a_row_for_each_size_and_pass(capsys, monkeypatch):
    monkeypatch.setattr(bench, "SIZES", (("7 x 12, K=3", 7, None, 12, 3), ("pairwise 3 x 5", 3, 5, 12, 3)))
    assert cli.main(["bench", "--rounds", "1", "--threads", "1"]) == 0
    rows = capsys.readouterr().out.splitlines()[-4:]
    assert [row.split()[-4] for row in rows] == ["forward", "forward+backward"] * 2
    assert all(row.endswith("x") for row in rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backend", "fastest"], "backend must be 'auto' or one of"),
        (["--backend", "cuda", "--device", "cpu"], "backend 'cuda' cannot run here"),
        (["--rounds", "0"], "must be at least 1"),
    ],
)
def test_bench_refuses_what_it_cannot_run(capsys, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["bench", *arguments])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
