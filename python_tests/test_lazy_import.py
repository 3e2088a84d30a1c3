"""`import qmkernels` imports neither torch nor JAX; names, ops, pickles and star imports work as if it did."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import qmkernels as qm
from qmkernels.ops import torch_internals


def run_python(program: str) -> subprocess.CompletedProcess:
    """Runs a program in a new process with this one's path."""
    return subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}\n{program}"],
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip


def imported_for_type_checkers():
    """The name and the module of each import that only type checkers see."""
    tree = ast.parse(Path(qm.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and node.test.id == "TYPE_CHECKING")
    imports = (node for node in block.body if isinstance(node, ast.ImportFrom))
    return {alias.name: node.module for node in imports for alias in node.names}


def test_every_public_name_is_what_type_checkers_see():
    declared = imported_for_type_checkers()
    assert declared.keys() - {"jax"} == set(qm.__all__) == set(qm.__all__) & set(dir(qm))
    for name in qm.__all__:
        place = declared[name]
        module = importlib.import_module(f"qmkernels.{place or name}")
        assert getattr(qm, name) is (getattr(module, name) if place else module)


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'qmkernels' has no attribute 'euclidean'"):
        _ = qm.euclidean
    assert not hasattr(qm, "importlib_metadata") and qm.__version__


def test_nothing_heavy_is_imported_and_a_later_torch_finds_the_ops():
    done = run_python(
        """
import pickle, qmkernels
loaded = {"torch", "numpy", "jax"} & set(sys.modules)
assert not loaded, loaded
import torch
assert torch.ops.qmkernels.iqe_forward is not None
assert "torch._dynamo" not in sys.modules and "qmkernels.nn" not in sys.modules
head = pickle.loads(pickle.dumps(qmkernels.nn.IQE(8, 4)))
exec("from qmkernels import *")
print(type(head).__name__, iqe is qmkernels.iqe, losses.linex.__name__)
"""
    )
    assert done.returncode == 0 and done.stdout.split() == ["IQE", "True", "linex"], done.stderr


@pytest.mark.parametrize("module", ["backends.native", "definitions.iqe", "ops.mrn"])
def test_a_module_that_needs_torch_can_be_imported_first(module):
    done = run_python(f"import qmkernels.{module}; print(qmkernels.iqe.__name__)")
    assert done.returncode == 0 and done.stdout.split() == ["iqe"], done.stderr


def test_a_core_loads_where_torch_cannot_be_imported():
    program = (
        "sys.modules['torch'] = None\nfrom qmkernels import compiled\nprint(compiled.core and compiled.failure == '')"
    )
    done = run_python(program)
    assert done.returncode == 0 and done.stdout == "True\n", done.stderr


def test_a_core_without_its_openmp_library_says_what_brings_it():
    done = run_python(
        """
import importlib

def fail(name):
    raise ImportError("libgomp.so.1: cannot open shared object file: No such file or directory")

importlib.import_module = fail
from qmkernels import compiled
"""
    )
    assert done.returncode == 0
    assert "libgomp.so.1: cannot open shared object file" in done.stderr and "Debian's libgomp1" in done.stderr


def test_jax_works_where_torch_cannot_be_imported():
    pytest.importorskip("jax", reason="jax is not installed")
    done = run_python(
        """
sys.modules["torch"] = None
import jax
from qmkernels.jax import losses, mrn
x = jax.numpy.arange(32.0).reshape(4, 8) ** 2
gradient = jax.grad(lambda y: losses.contrastive(mrn, x, y).loss)(x + 1)
print(gradient.shape, sys.modules["torch"], any(name.startswith("torch.") for name in sys.modules))
"""
    )
    assert done.returncode == 0 and done.stdout == "(4, 8) None False\n", done.stderr


def test_the_mark_of_a_constant_is_the_one_that_torch_sets():
    marked = torch.compiler.assume_constant_result(lambda: None)
    assert vars(marked) and vars(marked) == vars(torch_internals.in_compiled_derivative)
