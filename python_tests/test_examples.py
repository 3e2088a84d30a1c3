"""The examples in docstrings and in the README run, and print what they say."""

import doctest
import importlib
import re
from pathlib import Path

import pytest
import torch

import qmkernels as qm

ROOT = Path(__file__).resolve().parent.parent
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted((ROOT / "qmkernels").rglob("*.py"))
    if ">>>" in path.read_text() and path.stem != "torchqmet"  # which changes imports: test_compat_torchqmet.py runs it
]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_print_what_they_say(name):
    examples = doctest.DocTestFinder().find(importlib.import_module(name), globs={"torch": torch, "qm": qm})
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for example in examples:
        torch.manual_seed(0)
        runner.run(example)
    assert runner.tries >= 1 and runner.failures == 0


def test_the_readme_examples_run():
    readme = (ROOT / "README.md").read_text()
    (section,) = re.findall(r"## Ten lines\n(.*?)\n## ", readme, flags=re.DOTALL)
    examples = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    assert len(examples) == 2
    for code in examples:
        exec(code, {})
