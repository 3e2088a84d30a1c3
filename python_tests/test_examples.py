"""The examples run and print what they say: in docstrings, on the README and its pages, and as scripts to copy from."""

import doctest
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import qmkernels as qm

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / name for name in ("README.md", "benchmarks/README.md", "csrc/README.md")]
PAGES += [ROOT / "qmkernels" / name / "README.md" for name in ("agents", "compat", "jax")]
SCRIPTS = sorted(path.stem for path in (ROOT / "qmkernels" / "examples").glob("[!_]*.py"))
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted((ROOT / "qmkernels").rglob("*.py"))
    if ">>>" in path.read_text() and path.stem != "torchqmet"  # which changes imports: test_compat_torchqmet.py runs it
]

# What needs a library that is no dependency.
NEEDED = {"qmkernels.integrations.torchrl": "torchrl", "torchrl_hindsight": "torchrl", "qmkernels.jax": "jax"}


def skip_unless_installed(name):
    for needing, library in NEEDED.items():
        if name == needing or name.startswith(f"{needing}."):
            pytest.importorskip(library, reason=f"{library} is not installed")


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_print_what_they_say(name):
    skip_unless_installed(name)
    names = {"torch": torch, "qm": qm}
    if name.startswith("qmkernels.jax"):
        names = {"qmkernels": qm, "jnp": importlib.import_module("jax.numpy")}
    examples = doctest.DocTestFinder().find(importlib.import_module(name), globs=names)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for example in examples:
        torch.manual_seed(0)
        runner.run(example)
    assert runner.tries >= 1 and runner.failures == 0


@pytest.fixture
def torchqmet_as_it_was():
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "torchqmet"}
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchqmet"]:
        del sys.modules[name]
    sys.modules.update(before)


def test_the_python_on_the_pages_runs(torchqmet_as_it_was):
    pages = [page for page in PAGES if page.parent.name != "jax" or importlib.util.find_spec("jax")]
    blocks = [code for page in pages for code in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)]
    assert len(blocks) >= 6
    for code in blocks:
        exec(code, {})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_page_links_to_and_names_exists(page):
    text = page.read_text()
    links = [link.partition("#")[0] for link in re.findall(r"\]\((?!http)([^)]+)\)", text)]
    missing = [link for link in links if not (page.parent / link).exists()]
    paths = re.findall(r"`((?:qmkernels|csrc|python_tests|benchmarks)/[\w./]*)`", text)
    missing += [path for path in paths if "foo" not in path and not (ROOT / path).exists()]
    scripts = re.findall(r"python ((?:python_tests|benchmarks)/[\w./]*)", text)
    scripts += [f"qmkernels/examples/{name}.py" for name in re.findall(r"-m qmkernels\.examples\.([a-z_]+)", text)]
    missing += [script for script in scripts if not (ROOT / script).is_file()]
    assert not missing, missing


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_to_copy_from_checks_its_result(name, tmp_path):
    skip_unless_installed(name)
    command = [sys.executable, "-m", f"qmkernels.examples.{name}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= 1
