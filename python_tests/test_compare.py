"""benchmarks/compare.py on results made up here. Nothing is timed."""

import json
import random

import compare
import pytest

CONTENDERS = ("ours", "eager")


def run_of(medians, spread=0.01, rounds=100):
    """Returns a run as compare.read does, from ``medians`` in seconds by (case, contender)."""
    return {
        f"test_a[{case}-{contender}]": {
            "name": f"test_a[{case}-{contender}]",
            "params": {"contender": contender},
            "stats": {"median": median, "iqr": spread * median, "rounds": rounds},
        }
        for (case, contender), median in medians.items()
    }


def two_runs(drift=1.0, scatter=0.0, slower=()):
    """Returns two runs of 20 cases. B takes ``drift`` times as long as A, with scatter, and "ours" another 1.3 times as
    long in the cases ``slower``."""
    chance = random.Random(0)
    a = {(case, contender): 1e-3 * (case + 1) for case in range(20) for contender in CONTENDERS}
    b = {
        (case, contender): time
        * drift
        * chance.lognormvariate(0, scatter)
        * (1.3 if case in slower and contender == "ours" else 1)
        for (case, contender), time in a.items()
    }
    return run_of(a), run_of(b)


def verdicts(passes):
    return {int(row.name.split("[")[1].split("-")[0]): row.verdict for row in compare.compare(passes)}


@pytest.mark.parametrize("drift", (0.5, 1.0, 2.5))
def test_a_slower_machine_does_not_make_code_slower(drift):
    by_case = verdicts([two_runs(drift, slower=(3,))])
    assert by_case.pop(3) == "slower"
    assert set(by_case.values()) == {"same"}


def test_scatter_does_not_make_the_same_code_slower_or_faster():
    for scatter in (0.02, 0.1, 0.3):
        assert not {"slower", "faster"} & set(verdicts([two_runs(scatter=scatter)]).values())


def test_more_passes_decide_what_one_leaves_unclear():
    runs = two_runs(scatter=0.1, slower=(3,))
    assert verdicts([runs])[3] == "unclear"
    assert verdicts([runs] * 6)[3] == "slower"


def test_ratios_that_scatter_from_pass_to_pass_widen_the_interval():
    calm = [two_runs(slower=(3,))] * 3
    restless = [two_runs(slower=(3,)), two_runs(), two_runs(slower=(3,))]
    assert verdicts(calm)[3] == "slower" and verdicts(restless)[3] == "unclear"


def test_a_single_case_is_judged_by_the_spread_of_its_rounds():
    (row,) = compare.compare([(run_of({(0, "ours"): 1.0}, 0.5, 5), run_of({(0, "ours"): 1.3}, 0.5, 5))])
    assert row.verdict == "unclear" and row.low < 1 < row.ratio < row.high
    (row,) = compare.compare([(run_of({(0, "ours"): 1.0}), run_of({(0, "ours"): 1.3}))])
    assert row.verdict == "slower" and row.ratio == pytest.approx(1.3)


def test_the_report_names_the_drift_the_verdicts_and_benchmarks_of_one_run_only(tmp_path, capsys):
    a, b = two_runs(drift=1.25, slower=(3,))
    del b["test_a[7-ours]"]
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, run in zip(paths, (a, b), strict=True):
        path.write_text(json.dumps({"benchmarks": list(run.values())}))
    assert compare.main([str(path) for path in paths]) == 0
    text = capsys.readouterr().out
    assert "Drift 1.250, taken out" in text and "In A alone: test_a[7-ours]." in text
    assert "19 benchmarks: 1 slower, 0 faster, 18 same, 0 unclear." in text
    first = text.splitlines()[1].split()
    assert first == ["test_a[3-ours]", "4", "6.5", "1.300", first[4], "slower"]


def test_other_files_are_refused_in_one_sentence(tmp_path, capsys):
    path = tmp_path / "a.json"
    path.write_text("[]")
    with pytest.raises(SystemExit):
        compare.main([str(path), str(path)])
    assert f"{path} is no file that pytest --benchmark-json wrote" in capsys.readouterr().err
