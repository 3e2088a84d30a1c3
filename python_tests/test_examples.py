"""The examples in the ops' docstrings and in the README run, and print what they say."""

import doctest
import re
from pathlib import Path

import torch

import qmkernels as qm
from qmkernels.ops import iqe as ops


def test_docstring_examples_print_what_they_say():
    found = doctest.DocTestFinder().find(ops, globs={"torch": torch, "qm": qm})
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for example in found:
        runner.run(example)
    assert runner.tries >= 4 and runner.failures == 0


def test_the_readme_example_runs():
    readme = (Path(__file__).resolve().parent.parent / "README.md").read_text()
    (code,) = re.findall(r"## Ten lines\n\n```python\n(.*?)```", readme, flags=re.DOTALL)
    exec(code, {})
