"""The examples in docstrings and in the README run, and print what they say."""

import doctest
import importlib
import re
from pathlib import Path

import pytest
import torch

import qmkernels as qm

MODULES = [
    "qmkernels.agents.crl", "qmkernels.agents.ddpg_her", "qmkernels.agents.gcbc", "qmkernels.agents.iqrl",
    "qmkernels.agents.metra", "qmkernels.agents.metric_rl", "qmkernels.agents.qrl", "qmkernels.agents.tmd",
    "qmkernels.data.goal_wrapper", "qmkernels.data.goals", "qmkernels.distributed", "qmkernels.losses.contrastive",
    "qmkernels.losses.qrl_critic", "qmkernels.ops.fsq", "qmkernels.ops.iqe", "qmkernels.ops.mrn",
    "qmkernels.ops.nearest", "qmkernels.ops.poisson", "qmkernels.ops.pqe",
]  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_print_what_they_say(name):
    found = doctest.DocTestFinder().find(importlib.import_module(name), globs={"torch": torch, "qm": qm})
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for example in found:
        torch.manual_seed(0)
        runner.run(example)
    assert runner.tries >= 1 and runner.failures == 0


def test_the_readme_examples_run():
    readme = (Path(__file__).resolve().parent.parent / "README.md").read_text()
    (section,) = re.findall(r"## Ten lines\n(.*?)\n## ", readme, flags=re.DOTALL)
    examples = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    assert len(examples) == 2
    for code in examples:
        exec(code, {})
