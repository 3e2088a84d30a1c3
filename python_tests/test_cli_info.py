"""The console script: its commands, and `qmkernels info`, which never fails."""

from __future__ import annotations

import csv
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from qmkernels import bench, cli, info
from qmkernels.backends import dispatch
from qmkernels.backends.native import core

ROOT = Path(__file__).resolve().parent.parent


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


def load_tables():
    path = ROOT / "benchmarks" / "tables.py"
    if not path.exists():
        pytest.skip("not run from a checkout: benchmarks/tables.py is not there")
    spec = importlib.util.spec_from_file_location("tables", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_results_tables_come_from_the_last_run_and_check_finds_a_stale_readme(tmp_path, monkeypatch):
    tables = load_tables()
    case = {"form": "pairwise", "rows": "128", "columns": "128", "size": "512", "dim_per_component": "8",
            "direction": "forward", "commit": "abc", "machine": "a CPU", "floor_ms": "0.05"}  # fmt: skip
    stored = [
        {**case, "date": "2020-01-01T00:00:00Z", "contender": "ours", "median_ms": "77"},
        {**case, "date": "2020-01-02T00:00:00Z", "contender": "ours", "median_ms": "0.1"},
        {**case, "date": "2020-01-02T00:00:00Z", "contender": "torchqmet", "median_ms": "250"},
        {**case, "date": "2020-01-02T00:00:00Z", "contender": "sort", "note": "skipped: needs about 20 GiB; 4 are"},
    ]
    fields = sorted({*(name for row in stored for name in row), "peak_mib", "max_error", "note", "cores", "threads",
                     "isa", "torch", "python", "command"})  # fmt: skip
    with (tmp_path / "iqe_cpu.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fields)
        writer.writeheader()
        writer.writerows(stored)
    readme = tmp_path / "README.md"
    blocks = "".join(f"<!-- results:{name} -->\n<!-- /results -->\n" for name in ("ops", "iqe", "agents"))
    readme.write_text(f"before\n{blocks}after\n")

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["tables.py", "--readme", str(readme), "--results", str(tmp_path), *arguments])
        return tables.main()

    assert run() == 1  # a block is missing
    others = "".join(f"<!-- results:{name} -->\n<!-- /results -->\n" for name in ("training_step", "overhead"))
    readme.write_text(readme.read_text().replace("after", f"{others}after"))
    assert run("--check") == 1
    assert run() == 0
    assert run("--check") == 0
    text = readme.read_text()
    assert "2500x [1500x]" in text and "77" not in text and "not run: needs 20 GiB" in text and text.endswith("after\n")


def test_the_table_of_training_steps_says_what_share_of_the_ceilings_speed_ours_has(tmp_path):
    tables = load_tables()
    run = {"date": "2020-01-01T00:00:00Z", "case": "batch 7", "peak_mib": "5.00"}
    run |= {name: "?" for name in ("commit", "machine", "cores", "threads", "isa", "torch", "python", "command")}
    with (tmp_path / "training_step_cpu.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*run, "contender", "median_ms", "times_ours"])
        writer.writeheader()
        writer.writerow({**run, "contender": "ours", "median_ms": "20", "times_ours": "1"})
        writer.writerow({**run, "contender": "ceiling", "median_ms": "17", "times_ours": "0.93"})
        writer.writerow({**run, "contender": "torchqmet"})
    text = tables.training_step_table(tmp_path)
    assert "| batch 7 | 20 ms (5.00 MiB) | 17 ms (0.93x, 5.00 MiB) | not run | 93% |" in text


def test_the_table_of_agents_has_mean_and_deviation_of_every_measure_and_way_to_act(tmp_path):
    tables = load_tables()
    folder = tmp_path / "agents" / "some"
    folder.mkdir(parents=True)
    versions = dict.fromkeys(("gymnasium-robotics", "mujoco", "torch"), "1.2")
    settings = {"evaluate_with": ["actor", "mppi"], "offline": True, "collect_steps": 300, "action_repeat": 5}
    other = tmp_path / "agents" / "other"
    other.mkdir()
    for seed, success in ((0, 0.5), (1, 0.75)):
        run = {
            "command": f"qmkernels train qrl --env Some-v0 --seed {seed}", "commit": "abc", "machine": "a CPU",
            "final": {"success": success, "success_mppi": 1.0}, "random": {"success": 0.25}, "step": 4000,
            "environment_steps": 0, "seconds": 90, "settings": {**settings, "seed": seed}, "versions": versions,
        }  # fmt: skip
        (folder / f"seed_{seed}.json").write_text(json.dumps(run))
        run["settings"].pop("evaluate_with")
        run |= {"command": f"qmkernels train metra --env A-v0 --steps 5 --seed {seed}", "random": {}}
        run["final"] = {"coverage": 100.0 + 20 * seed, "coverage_random": 7.0}
        (other / f"seed_{seed}.json").write_text(json.dumps(run))
    text = tables.agents_table(tmp_path)
    heading, _, one, two, *_ = text.splitlines()
    wanted = ("environment", "method and options", "success, environment's starts and goals", "coverage", "updates")
    assert heading.startswith(f"| {' | '.join(wanted)} |")
    assert one == "| A-v0 | `metra --steps 5` |  | 110 ± 14 (7.00) | 4,000 | 1,500 | 1.5 |"
    success = "actor 0.62 ± 0.18; mppi 1.00 ± 0.00 (0.25)"
    assert two == f"| Some-v0 | `qrl` | {success} |  | 4,000 | 1,500 | 1.5 |"
    assert "`qmkernels train qrl --env Some-v0` run at commit abc with `--seed` 0, 1 by" in text
    (other / "seed_1.json").unlink()
    assert "| A-v0 | `metra --steps 5` |  | 100, one seed (7.00) |" in tables.agents_table(tmp_path)


def test_the_table_of_overheads_has_the_last_run_of_every_commit(tmp_path):
    tables = load_tables()
    run = {"date": "2026-01-01", "machine": "m", "cores": 2, "threads": 1, "python": "3", "torch": "2", "isa": "avx2"}
    run |= {"command": "c", "load_average": "0", "qmkernels": "0", "rounds": 1, "case": "iqe", "median_us": "1"}
    rows = [{**run, "commit": commit, "times_empty": times} for commit, times in (("a", "3"), ("a", "2"), ("b", "1.5"))]
    with (tmp_path / "overhead_cpu.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    text = tables.overhead_table(tmp_path)
    assert "| call | a | b |" in text and "| iqe | 2 | 1.5 |" in text
