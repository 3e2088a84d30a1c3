"""Some of fuzz.py's cases, the same in every run; .ci/sanitize runs others under sanitizers."""

import inspect

import fuzz
import fuzz_cases
import fuzz_comparison
import fuzz_draws
import fuzz_losses
import fuzz_ops
import op_cases
import pytest

import qmkernels as qm

CASES_PER_OP = 16


@pytest.mark.parametrize("op", fuzz_cases.OPS)
def test_random_cases_agree_with_the_reference(op):
    first = list(fuzz_cases.OPS).index(op)
    for number in range(first, first + CASES_PER_OP * len(fuzz_cases.OPS), len(fuzz_cases.OPS)):
        assert fuzz.run_case(seed=1, number=number) == op


def test_a_case_of_tied_values_may_have_weights_of_no_rows():
    assert fuzz.run_case(seed=0, number=100073, op="iqe") == "iqe"


def test_eight_threads_at_once_get_the_results_of_one():
    assert fuzz.run_threads(8, seconds=4, seed=2, num_cases=57) > 57


def test_a_wrong_result_is_a_failure_that_says_how_to_repeat_it(monkeypatch):
    for kind in fuzz_draws.TOLERANCE:
        monkeypatch.setitem(fuzz_draws.TOLERANCE, kind, (-1.0, -1.0))
    monkeypatch.setattr(fuzz_comparison, "_same", lambda actual, expected: actual.isnan())
    monkeypatch.setattr(fuzz, "assert_same_bits", lambda *arguments: None)
    with pytest.raises(AssertionError, match=r"output 0.*\n.*\nrepeat: python python_tests/fuzz.py --seed 0 --case 22"):
        fuzz.run_case(seed=0, number=22)


def test_other_bits_in_a_second_run_are_a_failure(monkeypatch):
    monkeypatch.setattr(fuzz_comparison, "_same", lambda actual, expected: actual.isnan())
    with pytest.raises(AssertionError, match=r"mrn, again: other bits\n.*\nrepeat: .*--seed 0 --case 22"):
        fuzz.run_case(seed=0, number=22, op="mrn")


def test_every_public_op_loss_and_head_is_drawn():
    source = "".join(inspect.getsource(module) for module in (fuzz_ops, fuzz_losses))
    modules = {"QuasimetricBase", "reductions", "transforms"}
    composed = {"eikonal", "through"}  # of what is drawn
    assert set(qm.losses.__all__) - composed <= set(fuzz_cases.OPS)
    assert all(f'"{head}"' in source for head in set(qm.nn.__all__) - modules)
    ops = {name for name in qm.__all__ if inspect.isfunction(getattr(qm, name))} - {"use_backend"}
    in_rows = {row.name for row in op_cases.CASES if row.op in fuzz_cases.DRAWN_BY_ROWS}
    assert all(f"qm.{op}" in source for op in ops - in_rows - composed), ops


@pytest.mark.parametrize("op", ["mrn", "qrl_critic", "pair_loss"])
def test_an_op_without_a_drawing_of_its_own_is_drawn_from_its_rows(op, monkeypatch):
    monkeypatch.setattr(fuzz_cases, "OPS", {op: fuzz_cases.row_of(op)})
    for number in range(8):
        assert fuzz.run_case(seed=1, number=number) == op
