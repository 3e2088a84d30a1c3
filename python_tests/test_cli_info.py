"""The console script: its commands, and `qmkernels info`, which never fails."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from qmkernels import cli, info
from qmkernels.backends import dispatch
from qmkernels.backends.native import core

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_help_lists_every_command(capsys, arguments):
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    assert all(f"\n  {name} " in printed for name in ("info", "demo", "train", "bench"))


@pytest.mark.parametrize(
    ("name", "meant"), [("evaluate", ""), ("infos", " Did you mean info?"), ("tarin", " Did you mean train?")]
)
def test_an_unknown_command_exits_2_and_says_which_there_are(capsys, name, meant):
    assert cli.main([name]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == f"qmkernels: no command {name!r}.{meant} Commands: info, demo, train, sweep, bench.\n"


def test_version_is_that_of_the_installed_package(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"qmkernels {info.version_of('qmkernels')}\n"


def test_ctrl_c_is_one_line_and_status_130(monkeypatch, capsys):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(info, "run", interrupted)
    assert cli.main(["info"]) == 130
    assert capsys.readouterr().err == "qmkernels info: interrupted.\n"


@pytest.mark.skipif(sys.platform == "win32", reason="pipes close otherwise there")
def test_a_reader_that_leaves_early_gets_no_traceback():
    program = "import sys; from qmkernels import cli; sys.exit(cli.main(['info']))"
    command = f"{shlex.join([sys.executable, '-c', program])} | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120, cwd="/")
    assert (done.stdout, done.stderr) == ("141\n", "")


def test_demo_gets_the_rest_of_the_arguments_and_its_status_is_returned(monkeypatch):
    demo = type(sys)("qmkernels.demo")
    demo.run = lambda arguments: len(arguments)
    monkeypatch.setitem(sys.modules, "qmkernels.demo", demo)
    assert cli.main(["demo", "--steps", "20", "--seed=1"]) == 3


def test_the_script_reads_the_command_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["qmkernels", "info"])
    assert cli.main() == 0
    assert "compiled core" in capsys.readouterr().out


def rows_of_table(printed: str) -> dict[str, list[str]]:
    """The cells of the table by op, without the numbers of footnotes."""
    rows = [re.sub(r" \[\d+\]", "", line).split() for line in printed.splitlines()]
    return {op: cells for op, *cells in filter(None, rows) if op in dispatch.OPS}


def test_info_is_short_and_has_one_table_of_every_op_on_every_backend(capsys):
    assert cli.main(["info"]) == 0
    printed = capsys.readouterr().out
    facts, _, rest = printed.partition("\n\n")
    assert torch.__version__ in facts and info.cpu_model() in facts and len(facts.splitlines()) <= 12
    headings = rest.splitlines()[1].split()
    assert headings == ["op", "cpu", "reference", "triton", "cuda", "triton", "reference"]
    rows = rows_of_table(printed)
    assert list(rows) == list(dispatch.OPS)
    columns = [(device_type, backend) for device_type, backends in info.COLUMNS.items() for backend in backends]
    for op, cells in rows.items():
        for cell, (device_type, backend) in zip(cells, columns, strict=True):
            able = dispatch.why_not(backend, op, device_type) is None
            assert cell == ("yes" if able and (device_type == "cpu" or torch.cuda.is_available()) else "no")


def test_a_footnote_says_each_reason_once(capsys):
    cli.main(["info"])
    printed = capsys.readouterr().out
    notes = re.findall(r"^\[(\d+)\] (.+)$", printed, re.MULTILINE)
    assert [int(number) for number, _ in notes] == list(range(1, len(notes) + 1))
    assert len({reason for _, reason in notes}) == len(notes)
    assert {number for number, _ in notes} == set(re.findall(r"no \[(\d+)\]", printed))


def test_json_has_the_same(capsys):
    assert cli.main(["info", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["torch"] == torch.__version__ and found["CPU"].startswith(info.cpu_model())
    assert found["ops"].keys() == set(dispatch.OPS)
    assert found["ops"]["iqe"]["cpu"]["reference"] == "yes"
    assert all(text == "yes" or text.startswith("no: ") for text in found["ops"]["iqe"]["cuda"].values())


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
    assert f"not in use: {broken_core}" in printed
    assert printed.count(f"] {broken_core}\n") == 1
    assert rows_of_table(printed)["iqe"][:2] == ["no", "yes"]


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
    assert capsys.readouterr().out.count("could not be found out: OSError: no such thing") == 3  # core, CPU, ops


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


@pytest.mark.parametrize(
    ("option", "said"),
    [("--foo", "unknown option --foo."), ("--jso", "unknown option --jso. Did you mean --json?"),
     ("all", "unknown argument all.")],
)  # fmt: skip
def test_info_refuses_other_options(capsys, option, said):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["info", option])
    printed = capsys.readouterr()
    assert stopped.value.code == 2 and printed.out == ""
    assert printed.err == f"qmkernels info: {said} See qmkernels info --help.\n"


@pytest.mark.parametrize("command", ["info", "bench", "demo"])
def test_help_ends_with_an_example(capsys, command):
    try:
        status = cli.main([command, "--help"])
    except SystemExit as stop:
        status = stop.code
    assert not status and capsys.readouterr().out.splitlines()[-1].startswith(f"example: qmkernels {command} ")


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
