"""`qmkernels bench`: every contender computes the same, and one that cannot run says why."""

from __future__ import annotations

import csv
import sys

import pytest
import torch

import qmkernels as qm
from qmkernels import bench, cli

SMALL = ["--batch", "7", "--dim", "12", "--rounds", "1", "--threads", "1"]
CPU = torch.device("cpu")


def test_contenders_take_turns_and_each_round_is_kept():
    calls = []
    times = bench.interleaved_times_ms([lambda: calls.append("a"), lambda: calls.append("b")], 3, least_ms=0.0)
    assert [len(rounds) for rounds in times] == [3, 3]
    assert calls[-6:] == ["a", "b"] * 3


@pytest.mark.parametrize("pairwise", [False, True])
@pytest.mark.parametrize(("head", "per_component"), [("iqe", 3), ("mrn", None), ("pqe", 4)])
def test_ours_and_the_plain_formula_give_the_same(head, per_component, pairwise):
    case = bench.Case(head, 7, 12, per_component, pairwise)
    ours, plain = (bench.step_of(case, name, "forward+backward", CPU)() for name in ("ours", "eager"))
    assert ours[0].shape == ((7, 7) if pairwise else (7,)) and len(ours) == len(plain) > 2
    for actual, expected in zip(ours, plain, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_sizes_give_a_table_per_pass_and_a_csv_row_per_contender(capsys, tmp_path):
    path = tmp_path / "bench.csv"
    sizes = ["--head", "pqe", "--dim-per-component", "3", "--pairwise"]
    assert cli.main(["bench", *SMALL, *sizes, "--contenders", "ours", "eager", "--csv", str(path)]) == 0
    printed = capsys.readouterr()
    for direction in bench.PASSES:
        assert f"pqe, 7 x 7 pairs of 12, 3 per component: {direction}\n" in printed.out
    assert printed.err == ""  # no bar: this is not a terminal
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["pass"], row["contender"]) for row in rows] == [
        (d, c) for d in bench.PASSES for c in ("ours", "eager")
    ]
    for row in rows:
        assert (row["head"], row["batch"], row["dim"], row["dim_per_component"]) == ("pqe", "7", "12", "3")
        assert float(row["median_ms"]) > 0 and row["torch"] == torch.__version__


def test_without_sizes_the_published_ones_are_measured(monkeypatch):
    measured = []
    monkeypatch.setattr(bench, "measure", lambda case, direction, *_: measured.append((case, direction)) or [])
    assert cli.main(["bench"]) == 0
    assert measured == [(case, direction) for case in bench.PUBLISHED for direction in bench.PASSES]


def test_a_contender_that_fails_says_why_and_the_others_still_run(monkeypatch, capsys):
    def fail(*_, **__):
        raise RuntimeError("no C++ compiler\nand more")

    monkeypatch.setattr(torch, "compile", fail)
    monkeypatch.setattr(bench, "COPIES", 1e12)
    assert cli.main(["bench", *SMALL, "--dim-per-component", "3", "--contenders", "ours", "eager"]) == 0
    assert capsys.readouterr().out.count("eager      not run: could need ") == 2
    monkeypatch.setattr(bench, "COPIES", 1)
    assert cli.main(["bench", *SMALL, "--dim-per-component", "3", "--contenders", "ours", "compiled"]) == 0
    assert capsys.readouterr().out.count("compiled   failed: RuntimeError: no C++ compiler\n") == 2


def test_our_replacement_is_not_timed_as_torchqmet(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "torchqmet"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torchqmet", None)  # so that monkeypatch restores it
    monkeypatch.delitem(sys.modules, "torchqmet")
    before = set(sys.modules)
    try:
        qm.compat.install_torchqmet()
        with pytest.raises(bench.Unavailable, match="qmkernels in place of torchqmet"):
            bench.torchqmet()
    finally:
        for name in set(sys.modules) - before:
            del sys.modules[name]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is known on Linux only")
def test_the_peak_excludes_what_a_call_returns():
    kept = bench.peak_mib(lambda: torch.ones(2**22), 2**24, CPU)
    passing = bench.peak_mib(lambda: torch.ones(2**22).sum(), 0, CPU)
    if kept is None:
        pytest.skip("the high-water mark cannot be reset here")
    assert kept < 4 and 14 < passing < 22


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backend", "fastest"], "backend must be 'auto' or one of"),
        (["--backend", "cuda", "--device", "cpu"], "backend 'cuda' cannot run here"),
        (["--rounds", "0"], "--rounds must be at least 1, got 0"),
        (["--batch", "0"], "--batch must be at least 1, got 0"),
        (["--dim", "33"], "input_size must be a multiple of dim_per_component, got input_size=33"),
        (["--head", "qie"], "invalid choice: 'qie'"),
        (["--head", "mrn", "--dim-per-component", "8"], "--dim-per-component does not apply to mrn"),
        (["--bacth", "3"], "unknown option --bacth. Did you mean --batch?"),
        (["--device", "nosuch"], "--device nosuch cannot be used here"),
        (["--csv", "/nosuch/bench.csv"], "--csv must be a file in a folder that exists"),
        pytest.param(
            ["--device", "cuda"], "--device cuda cannot be used here",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here"),
        ),
    ],
)  # fmt: skip
def test_errors_take_one_line(capsys, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["bench", *arguments])
    printed = capsys.readouterr().err
    assert stopped.value.code == 2
    assert message in printed and printed.count("\n") == 1 and printed.endswith("See qmkernels bench --help.\n")
